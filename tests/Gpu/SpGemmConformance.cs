using Kernels.Interop.Native;

namespace Kernels.Tests.Gpu;

/// <summary>
/// spgemm/gpu over the operation's cases, every phase, simulated with every access checked, against the oracle and, bit by bit, the
/// managed row; and on the GPUs that are here. A checked product takes microseconds, so there two of three heavy cases run unchecked.
/// </summary>
[TestFixture, Parallelizable]
public sealed class SpGemmConformance
{
    private const long MostChecked = 3_000;  // products and rows of a case that is always checked
    private static readonly SpGemmCase[] s_cases = [.. SpGemmCases.All()];
    private static readonly SortedDictionary<string, (int Ran, int Refused, int Unchecked)> s_tallies = [];

    private static IEnumerable<TestCaseData> ByMatrix()
    {
        foreach (string device in Simulated.Names)
            foreach ((string matrix, _, _) in SpGemmCases.Matrices)
                yield return new TestCaseData(device, matrix).SetArgDisplayNames(device, matrix);
    }

    private static Row RowOf(Device device)
    {
        Row row = device.Table.Of(KnOp.SpGemm).First();
        if (!device.Table.Runs(row, out string? lacks)) Assert.Ignore(lacks!);
        return row;
    }

    private static unsafe bool Accepts(Row row, KnSpgemmProblem problem, out string? why) => row.Accepts(&problem, row.DefaultLaunch(0), out why);

    private static long Work(SpGemmCase c) => c.A.Rows + c.A.Indices.Sum(k => c.B.Offsets[k + 1] - c.B.Offsets[k]);

    [TestCaseSource(nameof(ByMatrix))]
    public void Matches(string name, string matrix)
    {
        Device device = Simulated.Open(name);
        Row there = RowOf(device), managed = new SpGemmManaged();
        Lazy<Row> heavy = new(() => RowOf(Simulated.Open(name, check: false)));
        KnLaunch[] launches = [.. there.Launches(0)];
        int ran = 0, refused = 0, without = 0;
        for (int i = 0; i < s_cases.Length; i++)
        {
            SpGemmCase c = s_cases[i];
            if (c.Matrix != matrix) continue;
            if (!Accepts(there, c.Problem, out string? why))
            {
                Assert.That(why, Is.Not.Empty);
                refused++;
                continue;
            }
            bool light = device.Kind != DeviceKind.Simulated || Work(c) <= MostChecked || i % 3 == 0;
            Row row = light ? there : heavy.Value;
            (ran, without) = (ran + 1, without + (light ? 0 : 1));
            KnLaunch launch = launches[i % launches.Length];
            // Unsorted rows of the managed one are in another order; those of this one are sorted.
            using SpGemmTrial trial = new(c, Tables.Seed + (ulong)i), other = new(c with { Flags = c.Flags & ~KnSpgemmFlags.Unsorted }, Tables.Seed + (ulong)i);
            string what = $"{row.Dataflow(launch)} on {name}, {c}, seed {Tables.Seed}";
            Assert.That(trial.Analyse(row, launch), Is.Null, what);
            Assert.That(trial.Check(row, launch, i % 2 == 0 ? 0 : Math.Max(1, trial.NonZeros / 2)), Is.Null, what);
            Assert.That(((GpuRow)row).Gpu.Fault, Is.Null, what);
            Assert.That(other.Analyse(managed, managed.DefaultLaunch(1)) ?? other.Check(managed, managed.DefaultLaunch(1)), Is.Null, what);
            Assert.That(trial.Values.SequenceEqual(other.Values), $"{what}: other bits than the managed row");
        }
        Assert.That(ran, Is.GreaterThan(without), "some run checked");
        (int r, int f, int w) = s_tallies.GetValueOrDefault(name);
        s_tallies[name] = (r + ran, f + refused, w + without);
    }

    private static readonly (DType Type, int Index, Semiring Semiring, KnSpgemmFlags Flags)[] s_giant =
    [
        (DType.Float64, 4, Semiring.PlusTimes, KnSpgemmFlags.None), (DType.Float32, 8, Semiring.MinPlus, KnSpgemmFlags.Mask), (DType.None, 4, Semiring.PlusTimes, KnSpgemmFlags.Mask | KnSpgemmFlags.Complement),
        (DType.Float64, 8, Semiring.PlusTimes, KnSpgemmFlags.Mask | KnSpgemmFlags.Complement | KnSpgemmFlags.Accumulate), (DType.Float32, 4, Semiring.PlusPair, KnSpgemmFlags.Unsorted | KnSpgemmFlags.Accumulate),
    ];

    /// <summary>Rows of more products than one block should have, between short ones: spread by ranges of columns, the last of them not full, with the bits of the managed row.</summary>
    [Test]
    public void GiantRowsAreSpread([ValueSource(typeof(Simulated), nameof(Simulated.Names))] string name, [Range(0, 4)] int which)
    {
        (DType type, int index, Semiring semiring, KnSpgemmFlags flags) = s_giant[which];
        Row row = RowOf(Simulated.Open(name)), managed = new SpGemmManaged();
        int[] lengths = [1, 800, 0, 3, 900, 5];
        int[] indices = [.. lengths.SelectMany((n, i) => Enumerable.Range(0, n).Select(j => j * 1000 / n + i % Math.Max(1, 1000 / n)))];
        var a = new SparseStructure(lengths.Length, 1000, [0, .. lengths.Select((_, i) => (long)lengths[..(i + 1)].Sum())], indices);
        var c = new SpGemmCase("giant rows", a, SpGemmMatrices.Uniform(1000, 5000, 24, 71), type, index, semiring, flags);
        KnLaunch spread = row.DefaultLaunch(0), alone = row.DefaultLaunch(0);
        (spread.Param[1], alone.Param[1]) = (1 << 14, 1 << 30);
        using SpGemmTrial trial = new(c, 5), other = new(c with { Flags = c.Flags & ~KnSpgemmFlags.Unsorted }, 5);
        Assert.That(trial.Analyse(row, spread), Is.Null);
        Assert.That(trial.Problem.Most, Is.GreaterThan(1 << 14));
        Assert.That(Workspace(row, trial.Problem, spread), Is.GreaterThan(Workspace(row, trial.Problem, alone)), "there are ranges");
        Assert.That(trial.Check(row, spread, trial.NonZeros / 2), Is.Null);
        Assert.That(((GpuRow)row).Gpu.Fault, Is.Null);
        Assert.That(other.Analyse(managed, managed.DefaultLaunch(1)) ?? other.Check(managed, managed.DefaultLaunch(1)), Is.Null);
        Assert.That(trial.Values.SequenceEqual(other.Values), "other bits than the managed row");
    }

    private static unsafe long Workspace(Row row, KnSpgemmProblem problem, in KnLaunch launch) => row.Workspace(&problem, launch);

    [Test]
    public void RefusesWhatItCannotHold()
    {
        Row row = RowOf(Simulated.Open("simt32"));
        KnSpgemmProblem p = s_cases[0].Problem;
        Assert.That(Accepts(row, p with { IndexBytes = 8 }, out _), Is.True);
        Assert.That(Accepts(row, p with { IndexBytes = 8, N = 1L << 31 }, out string? why), Is.False);
        Assert.That(why, Does.Contain("2^31"));
        Assert.That(Accepts(row, p with { Most = 1 << 29 }, out why), Is.False);
        Assert.That(why, Does.Contain("2^28"));
        Assert.That(Accepts(row, p with { N = 1 << 30, Flags = (int)KnSpgemmFlags.Mask }, out why), Is.False);
        Assert.That(why, Does.Contain("mask"));
    }

    /// <summary>Offsets that descend or do not end where they must, columns outside: named by ANALYSE, operand by operand, and nothing is read out of bounds.</summary>
    [TestCase("simt32", 4)]
    [TestCase("simt64", 4)]
    [TestCase("simt32", 8)]
    public unsafe void BrokenOperandsAreNamed(string name, int index)
    {
        Row row = RowOf(Simulated.Open(name));
        SpGemmCase c = s_cases.First(x => x.Matrix == "uniform" && x.Flags == KnSpgemmFlags.Mask) with { IndexBytes = index };
        foreach ((string operand, bool columns, long value) in new[] { ("a", true, -1L), ("a", true, index == 4 ? c.A.Columns : 1L << 32), ("b", true, c.B.Columns), ("mask", true, c.B.Columns), ("a", false, -5), ("b", false, 1 << 20), ("mask", false, -1) })
        {
            using var trial = new SpGemmTrial(c, Tables.Seed);
            KnCsr x = operand == "a" ? trial.Args.A : operand == "b" ? trial.Args.B : trial.Args.Mask;
            if (columns && index == 4) ((int*)x.Columns)[7] = (int)value;
            else if (columns) ((long*)x.Columns)[7] = value;
            else x.Offsets[5] = value;
            Assert.That(trial.Run(row, row.DefaultLaunch(0), KnSpgemmPhase.Analyse, 0, c.A.Rows), Does.Contain("Invalid").And.Contain($"{operand}: requires").And.Contain(columns ? "column" : "offsets"));
        }
    }

    [OneTimeTearDown]
    public void Summarise()
    {
        foreach ((string name, (int ran, int refused, int without)) in s_tallies)
            TestContext.Progress.WriteLine($"  spgemm/gpu on {name}: {ran} cases, {without} of them unchecked, {refused} refused");
    }
}
