using Kernels.Interop.Native;

namespace Kernels.Tests.SparseLinear;

/// <summary>The bits of a row of y depend on its row of x alone, and are those of flat_gemm's rows of the same tag on the dense weights.</summary>
[TestFixture]
public sealed unsafe class Invariance
{
    private const int M = 33;

    private static KnFlatGemmProblem Layer(FlatGemmCases.Kind kind, bool gated) => FlatGemmCases.Problem(kind, M, 83, 700, FlatGemmActivation.Silu,
        KnGemmFlags.Bias | KnGemmFlags.Residual | (gated ? KnGemmFlags.Gated : 0));

    private static IEnumerable<TestCaseData> RowsByKind()
    {
        foreach ((_, Row row, string name) in Tables.Runnable(KnOp.SparseLinear))
            for (int i = 0; i < SparseLinearCases.MainKinds.Count; i++)
                if (Accepts(row, SparseLinearCases.MainKinds[i])) yield return new TestCaseData(name, i).SetArgDisplayNames(name, SparseLinearCases.MainKinds[i].ToString());
    }

    private static bool Accepts(Row row, FlatGemmCases.Kind kind)
    {
        var p = new KnSparseLinearProblem { Size = (uint)sizeof(KnSparseLinearProblem), Layer = Layer(kind, false) };
        p.Layer.M = 1;
        return row.Accepts(&p, row.DefaultLaunch(0), out _);
    }

    [TestCaseSource(nameof(RowsByKind))]
    public void BitsDependOnTheRowAlone(string name, int index)
    {
        FlatGemmCases.Kind kind = SparseLinearCases.MainKinds[index];
        Row row = Tables.Find(name, KnOp.SparseLinear);
        foreach (bool gated in new[] { false, true })
        {
            using var trial = new SparseLinearTrial(Layer(kind, gated), 17, 0.3);
            byte[][] expected = Dense(row, trial) ?? new byte[M][];
            int ran = 0;
            foreach (int threads in new[] { 0, 1, 2, 7 })
                foreach (KnLaunch launch in row.Launches(threads))
                    foreach (int m in new[] { M, 32, 12, 5, 1 })
                    {
                        trial.Narrow(m);
                        if (!trial.Prepare(row, launch, out KnStatus status, out _) && status == KnStatus.Unsupported) continue;
                        trial.Poison();
                        Assert.That(trial.Run(row, launch, m), Is.EqualTo(KnStatus.Ok), row.LastError);
                        for (int r = 0; r < m; r++)
                        {
                            expected[r] ??= trial.Output(r).ToArray();
                            if (!trial.Output(r).SequenceEqual(expected[r])) Assert.Fail($"{row.Dataflow(launch)}, m {m}, {threads} threads, gated {gated}: row {r} has other bits");
                        }
                        ran++;
                    }
            Assert.That(ran, Is.Positive);
        }
    }

    /// <summary>What a dense row of the same tag gives, where there is one; the managed rows add in another order.</summary>
    private static byte[][]? Dense(Row row, SparseLinearTrial trial)
    {
        if (row.Bits == "managed") return null;
        foreach ((_, Row dense, _) in Tables.Runnable())
        {
            if (dense.Bits != row.Bits || !trial.Prepare(dense, dense.DefaultLaunch(0), out _, out _)) continue;
            trial.Poison();
            Assert.That(trial.Run(dense, dense.DefaultLaunch(0), M), Is.EqualTo(KnStatus.Ok), dense.LastError);
            return [.. Enumerable.Range(0, M).Select(r => trial.Output(r).ToArray())];
        }
        Assert.Fail($"no dense row has the bits {row.Bits}");
        return null;
    }

    [Test]
    public void EveryRowPacksTheSameBytes()
    {
        Row[] rows = [.. Tables.Runnable(KnOp.SparseLinear).Select(r => r.Row)];
        foreach (SparseLinearCase c in SparseLinearCases.Conformance().Where((_, i) => i % 5 == 0))
        {
            byte[]? first = null;
            foreach (Row row in rows)
            {
                using var trial = new SparseLinearTrial(c.Layer, 5, c.Density, c.Pattern);
                KnSparseLinearProblem p = trial.Sparse;
                if (!row.Accepts(&p, row.DefaultLaunch(0), out _)) continue;
                using var packed = new Kernels.Tuning.GuardedMemory(row.PackedBytes(&p));
                packed.Fill(0xee);
                var a = new KnSparseLinearArgs { Size = (uint)sizeof(KnSparseLinearArgs), Call = trial.Args };
                a.Call.Packed = packed.At;
                a.Call.PackedBytes = packed.Bytes;
                Assert.That(row.Prepack(&p, &a), Is.EqualTo(KnStatus.Ok), row.LastError);
                Assert.That(packed.Untouched(packed.Bytes), row.Name);
                Assert.That(new SparsePanels(p).Fault(p, packed.At), Is.Null, $"{row.Name}: {c}");
                byte[] bytes = Meaning(p, new ReadOnlySpan<byte>(packed.At, (int)packed.Bytes));
                first ??= bytes;
                Assert.That(bytes.AsSpan().SequenceEqual(first), $"{row.Name}: {c}");
                p.Nnz++;
                if (p.Nnz <= (long)c.Layer.N * c.Layer.K && row.PackedBytes(&p) <= packed.Bytes) Assert.That(row.Prepack(&p, &a), Is.EqualTo(KnStatus.Invalid), "a count that is not that of w");
            }
        }
    }

    /// <summary>The gaps that alignment leaves between the parts mean nothing.</summary>
    private static byte[] Meaning(in KnSparseLinearProblem p, ReadOnlySpan<byte> packed)
    {
        var at = new SparsePanels(p);
        return [.. packed[..(int)((at.Count * at.Blocks + 1) * 8)], .. packed.Slice((int)at.BitsAt, (int)(at.Count * at.KPadded * 2)), .. packed[(int)at.ScalesAt..]];
    }
}
