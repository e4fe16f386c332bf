using Kernels.Interop.Native;

namespace Kernels.Tests.Gpu;

/// <summary>sparse_linear/gpu over the operation's cases; as <see cref="FlatGemmConformance"/>.</summary>
[TestFixture]
public sealed class SparseLinearConformance
{
    private static readonly List<RowUnderTest> s_tested = [];

    private static SparseLinearCase[] Cases { get; } = [.. SparseLinearCases.Conformance()];

    private static IEnumerable<TestCaseData> ByKind()
    {
        foreach (string device in Simulated.Names)
            foreach (string kind in Cases.Select(c => FlatGemmCases.KindOf(c.Layer).ToString()).Distinct())
                yield return new TestCaseData(device, kind).SetArgDisplayNames(device, kind);
    }

    private static Row RowOf(Device device)
    {
        Row row = device.Table.Of(KnOp.SparseLinear).First();
        if (!device.Table.Runs(row, out string? lacks)) Assert.Ignore(lacks!);
        return row;
    }

    [TestCaseSource(nameof(ByKind))]
    public void Matches(string name, string kind)
    {
        var tested = new RowUnderTest(name, KnOp.SparseLinear, "sparse_linear/gpu");
        s_tested.Add(tested);
        var faults = new List<string>();
        for (int i = 0; i < Cases.Length && faults.Count < 4 && tested.Fault is null; i++)
            if (FlatGemmCases.KindOf(Cases[i].Layer).ToString() == kind) Try(tested, i, faults);
        if (tested.Fault is { } fault) faults.Add(fault);
        Assert.That(faults, Is.Empty, $"seed {Tables.Seed}");
        tested.AssertRan(takes: true);
    }

    /// <summary>One case: dense and strided, small and overflowing operands, launches and m of the call take turns.</summary>
    private static void Try(RowUnderTest tested, int index, List<string> faults)
    {
        SparseLinearCase c = Cases[index];
        Row row = tested.For(Math.Max(c.Layer.M, 1) * (long)c.Layer.N * c.Layer.K);
        bool strided = index % 2 == 1;
        KnLaunch[] launches = [.. row.Launches(0)];
        KnLaunch launch = index % 3 == 0 ? launches[0] : launches[index * 7 % launches.Length];
        using var trial = new SparseLinearTrial(c.Layer, Tables.Seed + (ulong)index, c.Density, c.Pattern, c.Sets, strided: strided,
            exponent: strided ? ((int[])[0, 0, -127, 14])[index / 2 % 4] : 0, inPlace: strided && index % 3 != 0);
        string what = $"{row.Dataflow(launch)} on {tested.Device}: {c}{(strided ? " strided" : "")}";
        if (!trial.Prepare(row, launch, out KnStatus status, out string error))
        {
            if (status != KnStatus.Unsupported || error.Length == 0) faults.Add($"{what}: {status} {error}");
            tested.Refuse(row);
            return;
        }
        int m = index % 4 == 0 ? c.Layer.M / 2 : c.Layer.M;
        status = trial.Run(row, launch, m);
        FlatGemmVerdict verdict = status == KnStatus.Ok ? trial.Check(m) : default;
        if (status != KnStatus.Ok) faults.Add($"{what}: {status} {row.LastError}");
        else if (!verdict.Ok) faults.Add($"{what}: {verdict}");
        tested.Measure(verdict.Fraction);
    }

    /// <summary>The same bits for a row of x whatever m is, its place in the batch, the rows of a tile, and the size of a wave.</summary>
    [Test]
    public void RowsOfXDoNotMeet()
    {
        foreach (FlatGemmCases.Kind kind in SparseLinearCases.MainKinds)
        {
            byte[][]? first = null;
            foreach (string name in (string[])["simt32", "simt64"])
            {
                Row row = RowOf(Simulated.Open(name));
                using var trial = new SparseLinearTrial(FlatGemmCases.Problem(kind, 19, 18, 1300), Tables.Seed, 0.4);
                trial.Repeat(3);
                foreach (int rows in (int[])[0, 1, 4, 16])
                {
                    KnLaunch launch = row.DefaultLaunch(0);
                    launch.Param[0] = rows;
                    Assert.That(trial.Prepare(row, launch, out _, out string error), error);
                    foreach (int m in (int[])[19, 2])
                    {
                        trial.Poison();
                        Assert.That(trial.Run(row, launch, m), Is.EqualTo(KnStatus.Ok), row.LastError);
                        first ??= [.. Enumerable.Range(0, 3).Select(i => trial.Output(i).ToArray())];
                        for (int i = 0; i < m; i++) Assert.That(trial.Output(i).ToArray(), Is.EqualTo(first[i % 3]), $"{kind} on {name}, tiles of {rows}, row {i} of {m}");
                    }
                }
            }
        }
    }

    [Test]
    public unsafe void ArgumentsAreChecked()
    {
        Device device = Simulated.Open("simt32");
        Row row = RowOf(device);
        using var trial = new SparseLinearTrial(FlatGemmCases.Problem(SparseLinearCases.MainKinds[0], 2, 18, 70), Tables.Seed, 0.4);
        KnSparseLinearProblem p = trial.Sparse;
        var args = new KnSparseLinearArgs { Size = (uint)sizeof(KnSparseLinearArgs), Call = trial.Args };
        Assert.That(row.Run(&p, row.DefaultLaunch(0), &args), Is.EqualTo(KnStatus.Invalid));
        Assert.That(row.LastError, Does.StartWith("packed"));
        p.Layer.M = -1;
        Assert.That(row.Run(&p, row.DefaultLaunch(0), &args), Is.EqualTo(KnStatus.Unsupported));
        KnLaunch launch = row.DefaultLaunch(0);
        launch.Param[0] = 3;
        p.Layer.M = 2;
        Assert.That(row.Accepts(&p, launch, out string? why), Is.False);
        Assert.That(why, Does.Contain("launch parameters"));
    }

    [OneTimeTearDown]
    public void Summarise() => RowUnderTest.Summarise(s_tested);
}
