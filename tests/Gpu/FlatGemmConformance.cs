using Kernels.Interop.Native;

namespace Kernels.Tests.Gpu;

/// <summary>
/// Every GPU row of flat_gemm over the operation's cases, through the code that launches it on hardware: simulated, with every
/// access checked and any fault failing the launch, and on the GPUs that are here.
/// </summary>
[TestFixture]
public sealed class FlatGemmConformance
{
    private static readonly List<RowUnderTest> s_tested = [];

    private static KnFlatGemmProblem[] Cases { get; } = [.. FlatGemmCases.Conformance()];

    private static IEnumerable<TestCaseData> RowsByKind()
    {
        foreach (string device in Simulated.Names)
            foreach (string row in device == "simt64" || device.StartsWith("hip", StringComparison.Ordinal) ? (string[])["flat_gemm/gpu"] : ["flat_gemm/sm90", "flat_gemm/sm80", "flat_gemm/gpu"])
                foreach (string kind in Cases.Select(p => FlatGemmCases.KindOf(p).ToString()).Distinct())
                    yield return new TestCaseData(device, row, kind).SetArgDisplayNames(device, row, kind);
    }

    [TestCaseSource(nameof(RowsByKind))]
    public void Matches(string name, string rowName, string kind)
    {
        var tested = new RowUnderTest(name, KnOp.FlatGemm, rowName);
        s_tested.Add(tested);
        var faults = new List<string>();
        for (int i = 0; i < Cases.Length && faults.Count < 4 && tested.Fault is null; i++)
            if (FlatGemmCases.KindOf(Cases[i]).ToString() == kind) Try(tested, i, faults);
        if (tested.Fault is { } fault) faults.Add(fault);
        Assert.That(faults, Is.Empty, $"seed {Tables.Seed}");
        tested.AssertRan(Takes(rowName, FlatGemmCases.KindOf(Cases.First(p => FlatGemmCases.KindOf(p).ToString() == kind))));
    }

    private static bool Takes(string row, FlatGemmCases.Kind kind) =>
        row == "flat_gemm/gpu" || kind.W is DType.Int8 or DType.UInt4 || (kind.X == kind.W && kind.W != DType.Float32);

    private static long Work(in KnFlatGemmProblem p) => Math.Max(p.M, 1) * (long)p.N * p.K;

    /// <summary>One case: dense and strided, small and overflowing operands, launches and m of the call take turns.</summary>
    private static void Try(RowUnderTest tested, int index, List<string> faults)
    {
        Row row = tested.For(Work(Cases[index]));
        bool strided = index % 2 == 1;
        int exponent = strided ? ((int[])[0, -127, 14])[index % 3] : 0;
        KnLaunch[] launches = [.. row.Launches(0).Where(l => FitsCase(row, index, l))];
        KnLaunch launch = index % 3 == 0 || launches.Length == 0 ? row.DefaultLaunch(0) : launches[index * 7 % launches.Length];
        using var trial = new FlatGemmTrial(Cases[index], Tables.Seed + (ulong)index, strided: strided, exponent: exponent, inPlace: strided && index % 3 != 0);
        string what = $"{row.Dataflow(launch)} on {tested.Device}: {FlatGemmCases.Describe(Cases[index])}{(strided ? " strided" : "")}";
        if (!trial.Prepare(row, launch, out KnStatus status, out string error))
        {
            if (status != KnStatus.Unsupported || error.Length == 0) faults.Add($"{what}: {status} {error}");
            tested.Refuse(row);
            return;
        }
        int m = index % 4 == 0 ? Cases[index].M / 2 : Cases[index].M;
        status = trial.Run(row, launch, m);
        FlatGemmVerdict verdict = status == KnStatus.Ok ? trial.Check(m) : default;
        if (status != KnStatus.Ok) faults.Add($"{what}: {status} {row.LastError}");
        else if (!verdict.Ok) faults.Add($"{what}: {verdict}");
        tested.Measure(verdict.Fraction);
    }

    private static unsafe bool FitsCase(Row row, int index, in KnLaunch launch)
    {
        KnFlatGemmProblem problem = Cases[index];
        return row.Accepts(&problem, launch, out _);
    }

    /// <summary>The same bits for a row of x whatever m is, its place in the batch, and the rows of a tile.</summary>
    [TestCase("flat_gemm/gpu")]
    [TestCase("flat_gemm/sm80")]
    [TestCase("flat_gemm/sm90")]
    public void RowsOfXDoNotMeet(string rowName)
    {
        Device device = Simulated.Open("simt32");
        Row row = device.Table.Of(KnOp.FlatGemm).First(r => r.Name == rowName);
        if (!device.Table.Runs(row, out string? lacks)) Assert.Ignore(lacks!);
        int ran = 0;
        foreach (FlatGemmCases.Kind kind in FlatGemmCases.MainKinds)
        {
            using var trial = new FlatGemmTrial(FlatGemmCases.Problem(kind, 19, 18, 304), Tables.Seed);
            trial.Repeat(3);
            if (!trial.Prepare(row, row.DefaultLaunch(0), out _, out _)) continue;
            ran++;
            Assert.That(trial.Run(row, row.DefaultLaunch(0), 19), Is.EqualTo(KnStatus.Ok), row.LastError);
            byte[][] first = [.. Enumerable.Range(0, 3).Select(i => trial.Output(i).ToArray())];
            for (int i = 3; i < 19; i++) Assert.That(trial.Output(i).ToArray(), Is.EqualTo(first[i % 3]), $"{kind}, row {i}");
            trial.Poison();
            Assert.That(trial.Run(row, row.DefaultLaunch(0), 2), Is.EqualTo(KnStatus.Ok), row.LastError);
            for (int i = 0; i < 2; i++) Assert.That(trial.Output(i).ToArray(), Is.EqualTo(first[i]), $"{kind}, row {i} of 2");
        }
        Assert.That(ran, Is.Positive);
    }

    [OneTimeTearDown]
    public void Summarise() => RowUnderTest.Summarise(s_tested);
}
