using Kernels.Interop.Native;

namespace Kernels.Tests.Gpu;

/// <summary>
/// A row of a device over cases, and what came of them. A simulated device checks every access, at some 30 ns a multiply-add;
/// heavier cases run on the same simulator unchecked. None is left out, and cases of which none ran fail.
/// </summary>
internal sealed class RowUnderTest
{
    public const long MostChecked = 400_000;  // multiply-adds of a case

    private readonly string _device;
    private readonly Row _row;
    private readonly Lazy<(Device Device, Row Row)> _unchecked;

    public RowUnderTest(string device, KnOp op, string name)
    {
        _device = device;
        Device = Simulated.Open(device);
        _row = Of(Device);
        if (!Device.Table.Runs(_row, out string? lacks)) Assert.Ignore(lacks!);
        _unchecked = new(() => Simulated.Open(device, check: false) is var d ? (d, Of(d)) : default);

        Row Of(Device d) => d.Table.Of(op).First(r => r.Name == name);
    }

    public Device Device { get; }

    public int Ran { get; private set; }

    public int Unchecked { get; private set; }

    public int Refused { get; private set; }

    public double Worst { get; private set; }

    public string Key => $"{_row.Name} on {_device}";

    /// <summary>The failure that ended a device, or null.</summary>
    public string? Fault => Device.Fault ?? (_unchecked.IsValueCreated ? _unchecked.Value.Device.Fault : null);

    /// <summary>The row for a case of so many multiply-adds, counted as one that runs.</summary>
    public Row For(long work)
    {
        Ran++;
        if (Device.Kind != DeviceKind.Simulated || work <= MostChecked) return _row;
        Unchecked++;
        return _unchecked.Value.Row;
    }

    /// <summary>The case that was to run is refused.</summary>
    public void Refuse(Row row)
    {
        Refused++;
        Ran--;
        if (!ReferenceEquals(row, _row)) Unchecked--;
    }

    public void Measure(double fraction) => Worst = Math.Max(Worst, fraction);

    /// <summary>Cases ran, on checked devices too; or, where the row takes none of them by its types, each was refused.</summary>
    public void AssertRan(bool takes)
    {
        Assert.That(Ran > Unchecked, Is.EqualTo(takes), $"{Key}: {Ran} cases ran, {Unchecked} of them unchecked, {Refused} were refused");
        if (!takes) Assert.That((Ran, Refused > 0), Is.EqualTo((0, true)));
    }

    public static void Summarise(IEnumerable<RowUnderTest> all)
    {
        foreach (IGrouping<string, RowUnderTest> g in all.GroupBy(t => t.Key).OrderBy(g => g.Key, StringComparer.Ordinal))
            TestContext.Progress.WriteLine($"  {g.Key}: {g.Sum(t => t.Ran)} cases, {g.Sum(t => t.Unchecked)} of them unchecked, {g.Sum(t => t.Refused)} refused, worst {g.Max(t => t.Worst):0.###} of the tolerance");
    }
}
