using System.ComponentModel;
using System.Diagnostics;
using System.Text.Json;

namespace Kernels.Tests.Perf;

/// <summary>PyTorch as a peer: torch_peer.py, and perf compare with it, on tests/Perf/torch_stub in PyTorch's place.</summary>
[TestFixture, Parallelizable]
public sealed class TorchPeerTests
{
    private static readonly string s_stub = Path.Combine(PerfProcess.Root, "tests", "Perf", "torch_stub");
    private static readonly (string, string)[] s_environment = [("PYTHONPATH", s_stub), ("PYTHONDONTWRITEBYTECODE", "1")];

    private const string Gemm = """{"op":"flat_gemm","device":"DEVICE","dtype":"bf16","copies":3,"graph":GRAPH,"threads":2,"m":4,"n":8,"k":K}""";

    private const string Attention = """
        {"op":"decode_attention","device":"DEVICE","dtype":"f16","copies":3,"graph":GRAPH,"threads":0,"batch":4,"kv_heads":8,"rows":16,"head_dim":4,"v_head_dim":2,"kv_len":9,"scale":0.5,"head_major":MAJOR}
        """;

    private const string Sample = """{"op":"sample"}""";

    private static JsonElement[] Answers(params string[] lines)
    {
        var start = new ProcessStartInfo(OperatingSystem.IsWindows() ? "python" : "python3", [Path.Combine(PerfProcess.Root, "perf", "torch_peer.py")]) { RedirectStandardInput = true, RedirectStandardOutput = true };
        foreach ((string name, string value) in s_environment) start.Environment[name] = value;
        Process process;
        try
        {
            process = Process.Start(start)!;
        }
        catch (Win32Exception e)
        {
            Assert.Ignore($"no Python: {e.Message}");
            return [];
        }
        foreach (string line in lines) process.StandardInput.WriteLine(line.Trim());
        process.StandardInput.Close();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.That(process.ExitCode, Is.Zero, output);
        return [.. output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(l => JsonSerializer.Deserialize<JsonElement>(l))];
    }

    /// <summary>A product of the stub's GPU takes 10 microseconds, in a graph of any number of them or by itself.</summary>
    [TestCase("true")]
    [TestCase("false")]
    public void TimesOneCallByEvents(string graph)
    {
        string[] lines = [Gemm.Replace("K}", "16}", StringComparison.Ordinal), Sample, Sample, Attention.Replace("MAJOR", "true", StringComparison.Ordinal), Sample, Attention.Replace("MAJOR", "false", StringComparison.Ordinal), Sample];
        JsonElement[] answers = Answers([.. lines.Select(l => l.Replace("DEVICE", "cuda:0", StringComparison.Ordinal).Replace("GRAPH", graph, StringComparison.Ordinal))]);
        Assert.That(answers, Has.Length.EqualTo(1 + lines.Length));
        Assert.That(answers.Where(a => a.TryGetProperty("name", out _)).Select(a => a.GetProperty("name").GetString()), Is.EqualTo(new[]
        {
            "PyTorch 9.9.stub", "PyTorch 9.9.stub matmul", "PyTorch 9.9.stub scaled_dot_product_attention", "PyTorch 9.9.stub scaled_dot_product_attention",
        }));
        double[] seconds = [.. answers.Where(a => a.TryGetProperty("seconds", out _)).Select(a => a.GetProperty("seconds").GetDouble())];
        Assert.That(seconds, Has.Length.EqualTo(4).And.All.EqualTo(1e-5).Within(1e-12));
    }

    [Test]
    public void WhatPyTorchRefusesIsASentenceAndTheNextShapeIsTaken()
    {
        string[] lines = [Gemm.Replace("K}", "48}", StringComparison.Ordinal), Gemm.Replace("K}", "16}", StringComparison.Ordinal), Sample];
        JsonElement[] answers = Answers([.. lines.Select(l => l.Replace("DEVICE", "cpu", StringComparison.Ordinal).Replace("GRAPH", "false", StringComparison.Ordinal))]);
        Assert.That(answers[1].GetProperty("refused").GetString(), Is.EqualTo("PyTorch 9.9.stub: out of memory"));
        Assert.That(answers[3].GetProperty("seconds").GetDouble(), Is.Positive);
    }

    [TestCase("matmul", "flat_gemm", "--n", "64", "--k", "32", "--weights", "f32", "--m", "4")]
    [TestCase("scaled_dot_product_attention", "decode_attention", "--q-heads", "4", "--kv-heads", "2", "--head-dim", "32", "--v-head-dim", "16", "--kv-len", "40", "--kv", "f32")]
    public void CompareHasItsTurnsBesideOurs(string function, params string[] shape)
    {
        _ = Answers();
        PerfProcess compare = PerfProcess.Run(s_environment, ["compare", .. shape, "--threads", "1", "--cache", "warm", "--seconds", "0.01", "--json"]).Expect(PerfProcess.Ok);
        JsonElement[] cells = [.. compare.Json().EnumerateArray().Where(c => c.GetProperty("peer").GetString() == $"PyTorch 9.9.stub {function}")];
        Assert.That(cells, Is.Not.Empty);
        foreach (JsonElement cell in cells)
        {
            Assert.That(cell.GetProperty("peer_median_us").GetDouble(), Is.Positive);
            Assert.That(cell.GetProperty("ratio").GetDouble(), Is.EqualTo(cell.GetProperty("peer_median_us").GetDouble() / cell.GetProperty("median_us").GetDouble()).Within(1e-9).Percent);
        }
    }

    [Test]
    public void WithoutPyTorchCompareSaysSo()
    {
        using var scratch = new Tuning.Scratch();
        File.WriteAllText(scratch["torch.py"], "raise ImportError('not on this machine')");
        PerfProcess compare = PerfProcess.Run([("PYTHONPATH", scratch.Path), ("PYTHONDONTWRITEBYTECODE", "1")],
            "compare", "flat_gemm", "--n", "64", "--k", "32", "--weights", "f32", "--m", "4,8", "--threads", "1", "--cache", "warm", "--seconds", "0.01").Expect(PerfProcess.Ok);
        Assert.That(compare.Output.Split("PyTorch is missing: "), Has.Length.EqualTo(2), compare.Output);
    }
}
