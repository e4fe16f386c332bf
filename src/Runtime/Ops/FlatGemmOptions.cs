using System.Runtime.CompilerServices;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>What is applied to an output before the residual is added.</summary>
public enum Activation
{
    /// <summary>Nothing.</summary>
    None = 0,
    /// <summary>max(z, 0).</summary>
    Relu = 1,
    /// <summary>z/2 (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))), Hendrycks and Gimpel 2016.</summary>
    GeluTanh = 2,
    /// <summary>z/2 (1 + erf(z / sqrt 2)).</summary>
    GeluErf = 3,
    /// <summary>z / (1 + e^-z).</summary>
    Silu = 4,
}

/// <summary>
/// One linear layer, <c>y[m,n] = act(x[m,k] · w[n,k]ᵀ + bias[n]) (+ residual[m,n])</c>, or gated,
/// <c>y = silu(x·gateᵀ + b) * (x·upᵀ + b') (+ residual)</c> with the n rows of gate before the n rows of up in w.
/// </summary>
/// <remarks>
/// <code>
/// weights   input                                   output          scales
/// f32       f32                                     f32             -
/// bf16 f16  bf16 f16 f32                            bf16 f16 f32    -
/// s8        s8, bf16 or f32 with QuantizeInput, bf16   bf16 f32     per output column
/// u4        bf16                                    bf16 f32        per column and Group elements of k
/// </code>
/// </remarks>
public sealed record FlatGemmOptions
{
    /// <summary>Outputs of a row. Gated weights hold 2 N rows.</summary>
    public required int N { get; init; }

    /// <summary>Inputs of a row.</summary>
    public required int K { get; init; }

    /// <summary>The most rows one call will bring.</summary>
    public int MaxM { get; init; } = 64;

    /// <summary>Type of w.</summary>
    public required DType Weights { get; init; }

    /// <summary>Type of x.</summary>
    public DType Input { get; init; } = DType.BFloat16;

    /// <summary>Type of y and of the residual.</summary>
    public DType Output { get; init; } = DType.BFloat16;

    /// <summary>u4 weights: elements of k per scale, 32, 64 or 128. Otherwise 0.</summary>
    public int Group { get; init; }

    /// <summary>Activation; a gated layer takes Silu on its gate.</summary>
    public Activation Activation { get; init; }

    /// <summary>Whether w is a gate and an up projection.</summary>
    public bool Gated { get; init; }

    /// <summary>Whether a bias, f32 [N or 2 N], is added.</summary>
    public bool Bias { get; init; }

    /// <summary>Whether a residual [m, N] is added last.</summary>
    public bool Residual { get; init; }

    /// <summary>u4 weights: whether each group has a zero point 0..15; without, it is 8.</summary>
    public bool ZeroPoints { get; init; }

    /// <summary>s8 weights: quantise bf16 or f32 input per row to s8 inside the call (W8A8 dynamic).</summary>
    public bool QuantizeInput { get; init; }

    /// <summary>
    /// Promise that the bits of an output row depend on that row of x alone: not on m, on its place, or on the other rows.
    /// Only rows that share one order of sums are then chosen among.
    /// </summary>
    public bool BatchInvariant { get; init; }

    /// <summary>Upper bound on threads; 0 is the whole pool.</summary>
    public int Threads { get; init; }

    /// <summary>Forces this row for every m, for example "flat_gemm/avx512_flat". Refusal is an error, never a fallback.</summary>
    public string? Row { get; init; }

    /// <summary>Where the weights lie when a call begins: the choice is the one that was tuned for that. The model reads warm ones at the rate of the level that has room for them.</summary>
    public CacheState Cache { get; init; }

    /// <summary>Directory of the tuning database that the choice comes from, over the shipped tables; null: the user's, <see cref="Autotuner.DefaultDirectory"/>; empty: the shipped tables alone.</summary>
    public string? TuningDirectory { get; init; }

    /// <summary>The native problem for calls of up to <paramref name="m"/> rows.</summary>
    internal unsafe KnFlatGemmProblem Problem(int m) => new()
    {
        Size = (uint)sizeof(KnFlatGemmProblem),
        XType = (int)Input,
        WType = (int)Weights,
        YType = (int)Output,
        M = m,
        N = N,
        K = K,
        Group = Group,
        Activation = (int)(Gated && Activation == Activation.None ? Activation.Silu : Activation),
        Flags = (int)((Bias ? KnGemmFlags.Bias : 0) | (Residual ? KnGemmFlags.Residual : 0) | (Gated ? KnGemmFlags.Gated : 0)
            | (ZeroPoints ? KnGemmFlags.Zeros : 0) | (QuantizeInput ? KnGemmFlags.QuantizeX : 0)),
    };

    /// <summary>Throws for the first rule of the operation that these options break, naming the property.</summary>
    internal void Check()
    {
        KernelsException.Require(N is >= 0 and <= 1 << 28, nameof(N), $"0 <= N <= 2^28, not {N}");
        KernelsException.Require(K is >= 0 and <= 1 << 28, nameof(K), $"0 <= K <= 2^28, not {K}");
        KernelsException.Require(MaxM is >= 0 and <= 1 << 28, nameof(MaxM), $"0 <= MaxM <= 2^28, not {MaxM}");
        KernelsException.Require(Threads is >= 0 and <= 1024, nameof(Threads), $"0 <= Threads <= 1024, not {Threads}");
        bool group = Weights == DType.UInt4 ? Group is 32 or 64 or 128 : Group == 0;
        KernelsException.Require(group, nameof(Group), $"32, 64 or 128 for u4 weights and 0 for others, not {Group} for {Weights.Name()}");
        KernelsException.Require(!ZeroPoints || Weights == DType.UInt4, nameof(ZeroPoints), $"u4 weights, not {Weights.Name()}");
        KernelsException.Require(Enum.IsDefined(Activation), nameof(Activation), $"a value of the enumeration, not {(int)Activation}");
        KernelsException.Require(!Gated || Activation is Activation.None or Activation.Silu, nameof(Activation), $"Silu, the gate's, not {Activation}");
        // What is left are the combinations of types.
        if (!FlatGemmRules.Valid(Problem(MaxM), out _))
            throw new KernelsException(Status.Invalid, nameof(Weights),
                $"a combination of the table in FlatGemmOptions, not {Input.Name()} x {Weights.Name()} -> {Output.Name()}{(QuantizeInput ? ", quantised input" : "")}");
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void CheckTypes<TX, TY>() where TX : unmanaged where TY : unmanaged
    {
        if (DTypes.Of<TX>() != Input || DTypes.Of<TY>() != Output) WrongTypes(DTypes.Of<TX>(), DTypes.Of<TY>());
    }

    private void WrongTypes(DType x, DType y) => throw new KernelsException(Status.Invalid, x != Input ? "x" : "y",
        $"x of {Input.Name()} and y of {Output.Name()}, not {x.Name()} and {y.Name()}");

    internal void CheckBias(int length)
    {
        int columns = Bias ? Columns : 0;
        KernelsException.Require(length == columns, "bias", $"{columns} values, not {length}");
    }

    internal void CheckShapes(long xm, long xk, long ym, long yn, long rm, long rn, int scales)
    {
        if (xm > MaxM || (xk != K && xm != 0) || ym != xm || (yn != N && ym != 0)
            || (Residual ? rm != ym || (rn != yn && ym != 0) : rm != 0) || scales != (Input == DType.Int8 ? xm : 0))
            WrongShapes(xm, xk, ym, yn, rm, rn, scales);
    }

    private void WrongShapes(long xm, long xk, long ym, long yn, long rm, long rn, int scales)
    {
        KernelsException.Require(xm <= MaxM, "x", $"at most MaxM = {MaxM} rows, not {xm}");
        KernelsException.Require(xk == K || xm == 0, "x", $"K = {K} columns, not {xk}");
        KernelsException.Require(ym == xm && (yn == N || ym == 0), "y", $"shape [{xm}, {N}], not [{ym}, {yn}]");
        KernelsException.Require(scales == (Input == DType.Int8 ? xm : 0), "xScales", $"{(Input == DType.Int8 ? xm : 0)} values, not {scales}");
        throw new KernelsException(Status.Invalid, "residual", Residual ? $"shape [{xm}, {N}], not [{rm}, {rn}]" : "none, since the options have none");
    }

    /// <summary>Rows of w: N, or 2 N when gated.</summary>
    internal int Columns => Gated ? 2 * N : N;

    /// <summary>Scales of a column.</summary>
    internal int Groups => Weights == DType.Int8 ? 1 : Weights == DType.UInt4 ? (K + Group - 1) / Group : 0;
}
