using CommunityToolkit.HighPerformance;
using Kernels.Interop.Native;

namespace Kernels.Tests.FlatGemm;

/// <summary>
/// Packing keeps every weight: times the rows of the identity, with scales of one, a packed layer gives its weights back bit for bit.
/// </summary>
[TestFixture]
public sealed class Packing
{
    private const int M = 5, N = 77, K = 130, Group = 32, Groups = (K + Group - 1) / Group;  // tails of panels, pairs and groups

    private static IEnumerable<string> Packed => KernelTable.Default.Of(KnOp.FlatGemm).Where(r => r.Packs && KernelTable.Default.Runs(r, out _)).Select(r => r.Name);

    [TestCaseSource(nameof(Packed))]
    public void WeightsComeBackBitForBit(string row)
    {
        var random = new Random(5);
        int ran = 0;
        float[] values = [.. Enumerable.Range(0, N * K).Select(_ => random.NextSingle() - 0.5f)];
        Try<float, float>(DType.Float32, v => v, [.. values], K, v => v);
        Try<BFloat16, BFloat16>(DType.BFloat16, v => (BFloat16)v, [.. values.Select(v => (BFloat16)v)], K, v => v);
        Try<Half, Half>(DType.Float16, v => (Half)v, [.. values.Select(v => (Half)v)], K, v => (float)v);
        Try<BFloat16, sbyte>(DType.Int8, v => (BFloat16)v, [.. values.Select(v => (sbyte)(v * 255))], K, v => v);
        var nibbles = new byte[N * K / 2];
        random.NextBytes(nibbles);
        byte[] zeros = [.. Enumerable.Range(0, N * Groups).Select(i => (byte)(i % 16))];
        Try<BFloat16, byte>(DType.UInt4, v => (BFloat16)v, nibbles, K / 2, null, zeros);
        Assert.That(ran, Is.Positive, "the row takes none of the types");

        void Try<TX, TW>(DType weights, Func<float, TX> one, TW[] w, int width, Func<TW, float>? value, byte[]? zeros = null) where TX : unmanaged where TW : unmanaged
        {
            bool u4 = weights == DType.UInt4;
            var layer = new FlatGemmOptions
            {
                N = N,
                K = K,
                MaxM = M,
                Weights = weights,
                Input = DTypes.Of<TX>(),
                Output = DType.Float32,
                Group = u4 ? Group : 0,
                ZeroPoints = u4,
                Row = row,
            };
            if (!FlatGemmSelection.Accepts(Tables.Find(row), layer, M, Tables.Find(row).DefaultLaunch(0))) return;
            ran++;
            float[] scales = [.. Enumerable.Repeat(1f, u4 ? N * Groups : weights == DType.Int8 ? N : 0)];
            using Kernels.FlatGemm plan = Kernels.FlatGemm.Create(layer, new ReadOnlySpan2D<TW>(w, N, width), default, scales, zeros);
            var x = new TX[K * K];
            for (int i = 0; i < K; i++) x[i * K + i] = one(1);
            var y = new float[K * N];
            for (int i = 0; i < K; i += M) plan.Run<TX, float>(x.AsSpan(i * K, M * K), y.AsSpan(i * N, M * N));
            for (int n = 0; n < N; n++)
                for (int k = 0; k < K; k++)
                {
                    float expected = value is not null ? value(w[n * K + k]) : (((byte)(object)w[(n * K + k) / 2] >> (k % 2 * 4)) & 15) - zeros![n * Groups + k / Group];
                    if (y[k * N + n] != expected) Assert.Fail($"{weights.Name()}: w[{n}, {k}] is {expected}, and came back as {y[k * N + n]}");
                }
        }
    }
}
