using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>Activations, numbered as in flat_gemm.h.</summary>
internal enum FlatGemmActivation { None = 0, Relu = 1, GeluTanh = 2, GeluErf = 3, Silu = 4 }

/// <summary>The rules of flat_gemm, as `valid` and `check` of flat_gemm_panel.cpp have them: a false condition is its own reason.</summary>
internal static unsafe class FlatGemmRules
{
    /// <summary>No dimension and no stride is longer, so that a size in bits, of gated f32 weights too, fits in 63 bits.</summary>
    public const int Longest = 1 << 28;

    /// <summary>The rules of the operation itself, the same for every row.</summary>
    public static bool Valid(in KnFlatGemmProblem p, [NotNullWhen(false)] out string? why)
    {
        bool dtypes = DTypesOk(p);
        var flags = (KnGemmFlags)p.Flags;
        return Holds(p.Size == sizeof(KnFlatGemmProblem), out why)
            && Holds(p.M >= 0 && p.N >= 0 && p.K >= 0, out why)
            && Holds(p.M <= Longest && p.N <= Longest && p.K <= Longest, out why)
            && Holds((p.Flags & ~31) == 0, out why)
            && Holds(dtypes, out why)
            && Holds(p.WType == (int)DType.UInt4 ? p.Group is 32 or 64 or 128 : p.Group == 0, out why)
            && Holds(p.WType == (int)DType.UInt4 || (flags & KnGemmFlags.Zeros) == 0, out why)
            && Holds(p.Activation is >= (int)FlatGemmActivation.None and <= (int)FlatGemmActivation.Silu, out why)
            && Holds((flags & KnGemmFlags.Gated) == 0 || p.Activation == (int)FlatGemmActivation.Silu, out why);
    }

    /// <summary>
    /// The rules of one call, of a row that reads packed weights (packed: their bytes) or w itself (packed &lt; 0). False with the
    /// argument at fault and the rule it breaks.
    /// </summary>
    public static bool Check(in KnFlatGemmProblem p, in KnFlatGemmArgs a, long packed, long workspace,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule)
    {
        if (!Holds(a.Size == sizeof(KnFlatGemmArgs), "args", out argument, out rule)
            || !Holds(a.M >= 0 && a.M <= p.M, "m", out argument, out rule))
            return false;
        if (a.M == 0 || p.N == 0) return true;
        var flags = (KnGemmFlags)p.Flags;
        bool residual = (flags & KnGemmFlags.Residual) != 0;
        return Holds(a.Ldx >= p.K && a.Ldx <= Longest, "ldx", out argument, out rule)
            && Holds(a.Ldy >= p.N && a.Ldy <= Longest, "ldy", out argument, out rule)
            && Holds(a.Y != null, "y", out argument, out rule)
            && Holds(a.X != null || p.K == 0, "x", out argument, out rule)
            && Holds(a.XScales != null || p.XType != (int)DType.Int8, "x_scales", out argument, out rule)
            && Holds(a.Bias != null || (flags & KnGemmFlags.Bias) == 0, "bias", out argument, out rule)
            && Holds(a.Residual != null || !residual, "residual", out argument, out rule)
            && Holds(!residual || (a.Ldr >= p.N && a.Ldr <= Longest), "ldr", out argument, out rule)
            && Holds(workspace == 0 || (a.Workspace != null && a.WorkspaceBytes >= workspace), "workspace", out argument, out rule)
            && Holds((nuint)a.Workspace % 64 == 0, "workspace", out argument, out rule)
            && (packed >= 0 ? CheckPacked(a, packed, out argument, out rule) : CheckWeights(p, a, flags, out argument, out rule))
            && CheckOverlap(p, a, packed, workspace, residual, out argument, out rule);
    }

    private static bool CheckPacked(in KnFlatGemmArgs a, long packed,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule) =>
        Holds(packed == 0 || (a.Packed != null && a.PackedBytes >= packed), "packed", out argument, out rule)
        && Holds((nuint)a.Packed % 64 == 0, "packed", out argument, out rule);

    private static bool CheckWeights(in KnFlatGemmProblem p, in KnFlatGemmArgs a, KnGemmFlags flags,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule)
    {
        bool scaled = p.WType is (int)DType.Int8 or (int)DType.UInt4;
        argument = rule = null;
        if (p.K == 0) return true;
        return Holds(a.W != null, "w", out argument, out rule)
            && Holds(a.Ldw >= p.K && a.Ldw <= Longest && (p.WType != (int)DType.UInt4 || a.Ldw % 2 == 0), "ldw", out argument, out rule)
            && Holds(a.Scales != null || !scaled, "scales", out argument, out rule)
            && Holds(a.Zeros != null || (flags & KnGemmFlags.Zeros) == 0, "zeros", out argument, out rule);
    }

    /// <summary>y overlaps nothing that the call reads, but for a residual that is y itself.</summary>
    private static bool CheckOverlap(in KnFlatGemmProblem p, in KnFlatGemmArgs a, long packed, long workspace, bool residual,
        [NotNullWhen(false)] out string? argument, [NotNullWhen(false)] out string? rule)
    {
        var y = new Extent(a.Y, a.M, p.N, a.Ldy, p.YType);
        var x = new Extent(a.X, a.M, p.K, a.Ldx, p.XType);
        var scratch = new Extent(a.Workspace, 1, workspace, 0, (int)DType.Int8);
        long columns = (p.Flags & (int)KnGemmFlags.Gated) != 0 ? 2L * p.N : p.N;
        var w = packed >= 0 ? new Extent(a.Packed, 1, packed, 0, (int)DType.Int8) : new Extent(a.W, columns, p.K, a.Ldw, p.WType);
        bool inPlace = a.Residual == a.Y && a.Ldr == a.Ldy;
        var r = residual && !inPlace ? new Extent(a.Residual, a.M, p.N, a.Ldr, p.YType) : default;
        const int F32 = (int)DType.Float32, Byte = (int)DType.Int8;
        var xScales = p.XType == (int)DType.Int8 ? new Extent(a.XScales, 1, a.M, a.M, F32) : default;
        var bias = (p.Flags & (int)KnGemmFlags.Bias) != 0 ? new Extent(a.Bias, 1, columns, columns, F32) : default;
        bool unpacked = packed < 0 && p.K > 0;
        long groups = p.WType == (int)DType.UInt4 ? ((long)p.K + p.Group - 1) / p.Group : 1;
        var scales = unpacked && p.WType is (int)DType.Int8 or (int)DType.UInt4 ? new Extent(a.Scales, columns, groups, groups, F32) : default;
        var zeros = unpacked && (p.Flags & (int)KnGemmFlags.Zeros) != 0 ? new Extent(a.Zeros, columns, groups, groups, Byte) : default;
        return Holds(y.Apart(x), "y", out argument, out rule)
            && Holds(y.Apart(scratch), "y", out argument, out rule)
            && Holds(y.Apart(r), "y", out argument, out rule)
            && Holds(y.Apart(w), "y", out argument, out rule)
            && Holds(y.Apart(xScales), "y", out argument, out rule)
            && Holds(y.Apart(bias), "y", out argument, out rule)
            && Holds(y.Apart(scales), "y", out argument, out rule)
            && Holds(y.Apart(zeros), "y", out argument, out rule);
    }

    /// <summary>Whether y shares no byte with what lies at <paramref name="at"/>.</summary>
    public static bool Apart(in KnFlatGemmProblem p, in KnFlatGemmArgs a, void* at, long bytes) =>
        new Extent(a.Y, a.M, p.N, a.Ldy, p.YType).Apart(new Extent(at, 1, bytes, bytes, (int)DType.Int8));

    private static bool DTypesOk(in KnFlatGemmProblem p)
    {
        bool quantize = (p.Flags & (int)KnGemmFlags.QuantizeX) != 0;
        DType x = (DType)p.XType, y = (DType)p.YType;
        return (DType)p.WType switch
        {
            DType.Float32 => x == DType.Float32 && y == DType.Float32 && !quantize,
            DType.BFloat16 or DType.Float16 => Floating(x) && Floating(y) && !quantize,
            DType.Int8 => y is DType.BFloat16 or DType.Float32
                && (quantize ? x is DType.BFloat16 or DType.Float32 : x is DType.Int8 or DType.BFloat16),
            DType.UInt4 => x == DType.BFloat16 && y is DType.BFloat16 or DType.Float32 && !quantize,
            _ => false,
        };
    }

    private static bool Floating(DType type) => type is DType.Float32 or DType.BFloat16 or DType.Float16;

    private static bool Holds(bool condition, [NotNullWhen(false)] out string? why,
        [CallerArgumentExpression(nameof(condition))] string rule = "")
    {
        why = condition ? null : rule;
        return condition;
    }

    private static bool Holds(bool condition, string name, [NotNullWhen(false)] out string? argument,
        [NotNullWhen(false)] out string? rule, [CallerArgumentExpression(nameof(condition))] string text = "")
    {
        argument = condition ? null : name;
        rule = condition ? null : text;
        return condition;
    }

    /// <summary>The bytes from the first element of a strided matrix to its last.</summary>
    private readonly struct Extent
    {
        private readonly nuint _begin, _end;

        public Extent(void* at, long rows, long columns, long stride, int type)
        {
            _begin = _end = (nuint)at;
            if (at == null || rows == 0 || columns == 0) return;
            _end += (nuint)(((rows - 1) * stride + columns) * ((DType)type).Bits() / 8);
        }

        public bool Apart(Extent other) =>
            _end <= other._begin || other._end <= _begin || _begin == _end || other._begin == other._end;
    }
}
