using System.CommandLine;
using System.Numerics;
using Kernels.Interop.Native;

namespace Kernels.Perf;

internal sealed partial class SpGemmOperation
{
    public override IReadOnlyList<Option> CheckOptions => [s_matrix, s_transpose, s_values, s_semiring, s_mask, s_complement, s_valued, s_accumulate, s_unsorted, s_structure, s_index, s_most];

    public override IEnumerable<CheckResult> Check(KernelTable table, Row row)
    {
        SpGemmCase[] cases = [.. SpGemmCases.All()];
        KnLaunch[] launches = [.. row.Launches(0)];
        foreach (string matrix in cases.Select(c => c.Matrix).Distinct())
        {
            int ran = 0, refused = 0;
            (double Fraction, double Ulp, double Relative) worst = default;
            var faults = new List<string>();
            for (int i = 0; i < cases.Length; i++)
            {
                if (cases[i].Matrix != matrix) continue;
                using var trial = new SpGemmTrial(cases[i], (ulong)i + 1);
                KnLaunch launch = launches[i * 7 % launches.Length];
                if (!Accepts(row, trial.Problem, launch)) refused++;
                else
                {
                    ran++;
                    if ((trial.Analyse(row, launch) ?? trial.Check(row, launch)) is { } fault && faults.Count < 3) faults.Add($"{row.Dataflow(launch)} on {cases[i]}: {fault}");
                    worst = (Math.Max(worst.Fraction, trial.Worst.Fraction), Math.Max(worst.Ulp, trial.Worst.Ulp), Math.Max(worst.Relative, trial.Worst.Relative));
                }
            }
            yield return new CheckResult(row.Name, matrix, ran, refused, worst.Fraction, Figures(worst.Ulp, worst.Relative), faults);
        }
    }

    private static unsafe bool Accepts(Row row, KnSpgemmProblem problem, in KnLaunch launch) => row.Accepts(&problem, launch, out _);

    private static (string, double)[] Figures(double ulp, double relative) => [("worst ulp", ulp), ("worst relative", relative)];

    /// <summary>The products that the command line names: C against the oracle, row by row, and the numeric phase against C.</summary>
    public override IEnumerable<CheckResult> Check(Device device, Row row, ParseResult parsed)
    {
        foreach (SpGemmLayer layer in Layers(parsed, 0).Cast<SpGemmLayer>())
            yield return layer.Type == DType.Float32 ? Check<float>(device, row, layer) : Check<double>(device, row, layer);
    }

    private static CheckResult Check<T>(Device device, Row row, SpGemmLayer layer) where T : unmanaged, INumber<T>
    {
        SpGemmOptions options = layer.Options with { Row = row.Name };
        using CsrMatrix<T> a = SpGemmMatrixSpec.Matrix<T>(layer.Matrix, layer.IndexBits), b = layer.Transposed ? a.Transpose() : a;
        using var operands = new SpGemmOperands<T>(a, b, device, layer.Masked ? a : null, layer.Accumulate ? a : null);
        SpGemmPlan<T> plan;
        try
        {
            plan = operands.Plan(options);
        }
        catch (KernelsException e) when (e.Status == Status.Unsupported)
        {
            Screen.Note($"{layer.Case}: {e.Message}");
            return new CheckResult(row.Name, layer.Case, 0, 1, 0, Figures(0, 0), []);
        }
        SpGemmOperand left = Operand(a), right = layer.Transposed ? Operand(b) : left;
        using CsrMatrix<T>? counts = options.ValuedMask ? SpGemmMatrixSpec.NotZero(a) : null;
        SparseStructure? mask = !layer.Masked ? null : counts is null ? left.Structure : Operand(counts).Structure;
        SpGemmExpectedRow Expected(long i) => SpGemmOracle.Row(i, left, right, layer.Accumulate ? left : null, mask, options.Complement, options.Semiring, layer.Type);
        using (plan)
        {
            using CsrMatrix<T> c = Here(plan.Product());
            SpGemmVerdict verdict = SpGemmVerdict.Of(c, Expected);
            var faults = new List<string>();
            if (verdict.Fault is { } wrong) faults.Add($"{plan.Choice.Dataflow} on {layer.Case}: {wrong}");
            else if (!options.StructureOnly)
            {
                // What is transposed is sorted.
                using CsrMatrix<T> columns = c.Transpose(), sorted = columns.Transpose();
                CsrMatrix<T> symbolic = plan.Symbolic();
                plan.Numeric(symbolic);
                using CsrMatrix<T> known = Here(symbolic);
                if (!SpGemmSame.As(sorted, known)) faults.Add($"{plan.Choice.Dataflow} on {layer.Case}: the numeric phase gives another C than the product");
            }
            return new CheckResult(row.Name, layer.Case, 1, 0, verdict.Fraction, Figures(verdict.Ulp, verdict.Relative), faults);
        }
    }

    /// <summary>The matrix in the host's memory.</summary>
    private static CsrMatrix<T> Here<T>(CsrMatrix<T> c) where T : unmanaged
    {
        if (c.Device.Gpu is null) return c;
        using (c) return c.CopyTo(Device.Cpu);
    }

    private static unsafe SpGemmOperand Operand<T>(CsrMatrix<T> x) where T : unmanaged, INumber<T>
    {
        var indices = new int[x.NonZeros];
        for (long j = 0; j < indices.Length; j++) indices[j] = (int)x.ColumnAt(j);
        return new SpGemmOperand(new SparseStructure(x.Rows, x.Columns, x.RowOffsets.ToArray(), indices), [.. x.Values.ToArray().Select(double.CreateChecked)]);
    }

    public override string? SelfTest(Row row)
    {
        using var trial = new SpGemmTrial(SpGemmCases.All().First(), 1);
        KnLaunch launch = row.DefaultLaunch(0);
        return trial.Analyse(row, launch) ?? trial.Check(row, launch);
    }
}
