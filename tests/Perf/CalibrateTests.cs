using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;

namespace Kernels.Tests.Perf;

/// <summary>perf calibrate: phi per head from arrays that NumPy writes.</summary>
[TestFixture, Parallelizable]
public sealed class CalibrateTests
{
    /// <summary>As numpy.save writes it: the header padded to a multiple of 64 bytes.</summary>
    private static string Save<T>(Tuning.Scratch scratch, string name, string descr, T[] values, params int[] shape) where T : unmanaged =>
        Save(scratch, name, descr, values, string.Join(", ", shape) + (shape.Length == 1 ? "," : ""));

    private static string Save<T>(Tuning.Scratch scratch, string name, string descr, T[] values, string shape) where T : unmanaged
    {
        string header = $"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}";
        header = header.PadRight((header.Length + 11 + 63) / 64 * 64 - 11) + "\n";
        byte[] bytes = [0x93, .. "NUMPY"u8, 1, 0, .. BitConverter.GetBytes((ushort)header.Length), .. Encoding.ASCII.GetBytes(header), .. MemoryMarshal.AsBytes<T>(values)];
        File.WriteAllBytes(scratch[name], bytes);
        return scratch[name];
    }

    [Test]
    public void ProposesWhatTheLibraryProposes()
    {
        using var scratch = new Tuning.Scratch();
        var random = new Random(1);
        // Ten tokens, of which one's scores of head 1 are far above the others'; then a longer one in another type, with a masked key.
        float[] scores = [.. Enumerable.Range(0, 10 * 2 * 50).Select(i => 8 * random.NextSingle() + (i % 100 < 50 ? 90 : i < 100 ? 400 : 0))];
        Half[] longer = [.. Enumerable.Range(0, 2 * 70).Select(i => i == 3 ? Half.NegativeInfinity : (Half)(8 * random.NextSingle() + (i < 70 ? 90 : 0)))];
        string first = Save(scratch, "first.npy", "<f4", scores, 10, 2, 50), second = Save(scratch, "second.npy", "<f2", longer, 2, 70);
        var expected = new SoftmaxCalibration(2);
        for (int i = 0; i < 20; i++) expected.Record(i % 2, scores.AsSpan(i * 50, 50));
        for (int h = 0; h < 2; h++) expected.Record(h, [.. longer.AsSpan(h * 70, 70).ToArray().Select(x => (float)x)]);

        PerfProcess calibrate = PerfProcess.Run("calibrate", first, second, "--json").Expect(PerfProcess.Ok);
        JsonElement[] heads = [.. calibrate.Json().EnumerateArray()];
        Assert.That(heads.Select(h => new PhiProposal(h.GetProperty("phi").GetSingle(), h.GetProperty("rows").GetInt64(), h.GetProperty("recomputed").GetInt64(), h.GetProperty("upper_rate").GetDouble())),
            Is.EqualTo(expected.Propose()));
        Assert.That(heads.Select(h => h.GetProperty("recomputed").GetInt64()), Is.EqualTo(new[] { 0, 1 }));
        Assert.That(PerfProcess.Run("calibrate", first, second).Expect(PerfProcess.Ok).Output, Does.Contain("1 of 22 rows would be done again, 4.545 %."));
    }

    [Test]
    public void WhatIsNoSuchArrayIsASentence()
    {
        using var scratch = new Tuning.Scratch();
        string two = Save(scratch, "two.npy", "<f8", new double[2 * 5], 2, 5), cut = Save(scratch, "cut.npy", "<f4", new float[9], 2, 5), text = scratch["text.npy"];
        File.WriteAllText(text, "no array");
        foreach ((string[] files, string rule) in ((string[], string)[])
            [([scratch["none.npy"]], "no such file"), ([text], "a .npy header"), ([cut], "40 bytes"), ([Save(scratch, "whole.npy", "<i4", new int[10], 2, 5)], "a .npy header"),
             ([Save(scratch, "huge.npy", "<f4", new float[9], "3000000000, 1")], "extents below 2^31"), ([Save(scratch, "gap.npy", "<f4", new float[9], "3 3, 1")], "extents"),
             ([Save(scratch, "flat.npy", "<f4", new float[5], 5)], "shape [tokens, heads, kv_len]"), ([two, Save(scratch, "three.npy", "<f4", new float[15], 3, 5)], "2 heads"),
             ([two, "--largest-value", "-1"], "largestValue")])
            Assert.That(PerfProcess.Run(["calibrate", .. files]).Expect(PerfProcess.Usage).Error, Does.StartWith("perf: ").And.Contain(rule));
    }
}
