using System.Runtime.InteropServices;
using CommunityToolkit.HighPerformance;
using Kernels.Interop.Native;

namespace Kernels;

public sealed unsafe partial class FlatGemm
{
    /// <summary>
    /// One product in host memory, <c>y[m,n] = act(x[m,k] · w[n,k]ᵀ + bias[n]) (+ residual[m,n])</c>, with w read where it lies: nothing is
    /// packed, copied or kept. For a w that is used once or changes between calls; for many calls with one w a plan is faster. It runs
    /// <c>flat_gemm/avx512_direct</c>, or <c>flat_gemm/managed</c> where that cannot run, on the CPU. Scratch, m k floats and little more, is taken from
    /// the system and given back; the garbage collector sees no allocation.
    /// </summary>
    /// <param name="x">[m, k] float, BFloat16 or Half; rows may be apart.</param>
    /// <param name="w">[n, k] float, with x and y of float, or BFloat16 or Half; rows may be apart. Quantised weights come with their scales, by the overload that takes options.</param>
    /// <param name="y">[m, n] float, BFloat16 or Half; rows may be apart; overlaps nothing but, exactly, the residual.</param>
    /// <param name="bias">[n], or nothing.</param>
    /// <param name="activation">What is applied before the residual is added.</param>
    /// <param name="residual">[m, n], or nothing.</param>
    /// <param name="threads">Upper bound on threads; 0 is the whole pool.</param>
    /// <exception cref="KernelsException">A shape, type or overlap that breaks a rule, y being untouched; or no memory for the scratch.</exception>
    public static void Multiply<TX, TW, TY>(ReadOnlySpan2D<TX> x, ReadOnlySpan2D<TW> w, Span2D<TY> y, ReadOnlySpan<float> bias = default,
        Activation activation = Activation.None, ReadOnlySpan2D<TY> residual = default, int threads = 0)
        where TX : unmanaged where TW : unmanaged where TY : unmanaged
    {
        (DType tx, DType tw, DType ty) = (DTypes.Of<TX>(), DTypes.Of<TW>(), DTypes.Of<TY>());
        KernelsException.Require(tw is DType.Float32 or DType.BFloat16 or DType.Float16, nameof(w),
            $"float, BFloat16 or Half, not {tw.Name()}: quantised weights have scales and go with FlatGemmOptions");
        int k = x.Width;
        // Without columns x and w may have lost their heights.
        (int m, int n) = k > 0 ? (x.Height, w.Height) : (y.Height, y.Width);
        KernelsException.Require(m <= FlatGemmRules.Longest && n <= FlatGemmRules.Longest && k <= FlatGemmRules.Longest, nameof(x), $"m, n and k of at most 2^28, not {m}, {n} and {k}");
        KernelsException.Require(w.Width == k || w.Height == 0, nameof(w), $"k = {k} columns, as x has, not {w.Width}");
        KernelsException.Require((y.Height, y.Width) == (m, n) || (y.Length == 0 && (long)m * n == 0), nameof(y), $"shape [{m}, {n}], not [{y.Height}, {y.Width}]");
        KernelsException.Require(residual.Length == 0 || (residual.Height, residual.Width) == (m, n), nameof(residual), $"shape [{m}, {n}] or nothing, not [{residual.Height}, {residual.Width}]");
        KernelsException.Require(bias.Length == 0 || bias.Length == n, nameof(bias), $"{n} values or none, not {bias.Length}");
        KernelsException.Require(threads is >= 0 and <= 1024, nameof(threads), $"0 <= threads <= 1024, not {threads}");
        KernelsException.Require(Enum.IsDefined(activation), nameof(activation), $"a value of the enumeration, not {(int)activation}");
        var problem = new KnFlatGemmProblem
        {
            Size = (uint)sizeof(KnFlatGemmProblem),
            XType = (int)tx,
            WType = (int)tw,
            YType = (int)ty,
            M = m,
            N = n,
            K = k,
            Activation = (int)activation,
            Flags = (int)((bias.Length > 0 ? KnGemmFlags.Bias : 0) | (residual.Length > 0 ? KnGemmFlags.Residual : 0)),
        };
        KernelsException.Require(FlatGemmRules.Valid(problem, out _), nameof(w), $"a combination of the table in FlatGemmOptions, not {tx.Name()} x {tw.Name()} -> {ty.Name()}");
        fixed (TX* px = x)
        fixed (TW* pw = w)
        fixed (TY* py = y)
        fixed (TY* pr = residual)
        fixed (float* pb = bias)
            Once(problem, null, threads, new KnFlatGemmArgs
            {
                X = px,
                Ldx = x.Stride(),
                W = pw,
                Ldw = w.Stride(),
                Bias = pb,
                Residual = pr,
                Ldr = residual.Stride(),
                Y = py,
                Ldy = ((ReadOnlySpan2D<TY>)y).Stride(),
            });
    }

    /// <summary>
    /// The same for every layer that options describe: gated ones, and quantised weights, which <c>flat_gemm/managed</c> reads as they are.
    /// Cache and TuningDirectory do not matter; Row, if set, names a row that reads w where it lies.
    /// </summary>
    /// <param name="options">The layer; m is at most its MaxM.</param>
    /// <param name="x">[m, K] of the input type; rows may be apart.</param>
    /// <param name="w">[N or 2 N, K] float, BFloat16, Half or sbyte; u4: bytes [N or 2 N, ceil(K / 2)], low nibble first; rows may be apart.</param>
    /// <param name="y">[m, N] of the output type; rows may be apart; overlaps nothing but, exactly, the residual.</param>
    /// <param name="bias">[N or 2 N] when the options say so.</param>
    /// <param name="residual">[m, N] when the options say so.</param>
    /// <param name="scales">s8: [N or 2 N]; u4: [N or 2 N, ceil(K / Group)].</param>
    /// <param name="zeros">u4 with zero points: [N or 2 N, ceil(K / Group)], each 0..15.</param>
    /// <param name="xScales">[m], s8 input only: x = q * scale of its row.</param>
    /// <exception cref="KernelsException">A shape, type or overlap that breaks a rule, y being untouched; a row that packs; or no memory for the scratch.</exception>
    public static void Multiply<TX, TW, TY>(FlatGemmOptions options, ReadOnlySpan2D<TX> x, ReadOnlySpan2D<TW> w, Span2D<TY> y, ReadOnlySpan<float> bias = default,
        ReadOnlySpan2D<TY> residual = default, ReadOnlySpan<float> scales = default, ReadOnlySpan<byte> zeros = default, ReadOnlySpan<float> xScales = default)
        where TX : unmanaged where TW : unmanaged where TY : unmanaged
    {
        ArgumentNullException.ThrowIfNull(options);
        FlatGemmWeights.CheckSource<TW>(options, w.Height, w.Width, scales, zeros);
        options.CheckTypes<TX, TY>();
        options.CheckShapes(x.Height, x.Width, y.Height, y.Width, residual.Height, residual.Width, xScales.Length);
        options.CheckBias(bias.Length);
        fixed (TX* px = x)
        fixed (TW* pw = w)
        fixed (TY* py = y)
        fixed (TY* pr = residual)
        fixed (float* pb = bias, ps = scales, pxs = xScales)
        fixed (byte* pz = zeros)
            Once(options.Problem(x.Height), options.Row, options.Threads, new KnFlatGemmArgs
            {
                X = px,
                Ldx = x.Stride(),
                XScales = pxs,
                W = pw,
                Ldw = w.Stride() * (options.Weights == DType.UInt4 ? 2 : 1),
                Scales = ps,
                Zeros = pz,
                Bias = pb,
                Residual = pr,
                Ldr = residual.Stride(),
                Y = py,
                Ldy = ((ReadOnlySpan2D<TY>)y).Stride(),
            });
    }

    private static void Once(KnFlatGemmProblem problem, string? named, int threads, KnFlatGemmArgs args)
    {
        if (problem.M == 0 || problem.N == 0) return;
        // As in a plan: a resize of the pool meanwhile cannot outgrow the workspace.
        var launch = new KnLaunch { Size = (uint)sizeof(KnLaunch), Threads = threads == 0 ? Device.Cpu.Threads : threads };
        Row row = InPlace(&problem, launch, named);
        args.Size = (uint)sizeof(KnFlatGemmArgs);
        args.M = problem.M;
        args.WorkspaceBytes = row.Workspace(&problem, launch);
        args.Workspace = Scratch(args.WorkspaceBytes);
        try
        {
            KnStatus status = row.Run(&problem, launch, &args);
            if (status != KnStatus.Ok) throw row.Failure(status);
        }
        finally
        {
            NativeMemory.AlignedFree(args.Workspace);
        }
    }

    /// <summary>The best row of the CPU that reads w as it is, or the named one.</summary>
    private static Row InPlace(KnFlatGemmProblem* problem, in KnLaunch launch, string? named)
    {
        KernelTable table = Device.Cpu.Table;
        if (named is not null)
        {
            Row row = table.Named(KnOp.FlatGemm, named, nameof(FlatGemmOptions.Row));
            KernelsException.Require(!row.Packs, nameof(FlatGemmOptions.Row), $"one that reads w where it lies, and {named} packs it");
            return row;
        }
        foreach (Row row in table.Rows)
            if (row.Op == KnOp.FlatGemm && !row.Packs && (row.Needs & ~table.Features) == 0 && row.Accepts(problem, launch)) return row;
        throw new KernelsException(Status.Unsupported, "w", "a problem that some row takes");
    }

    private static void* Scratch(long bytes)
    {
        try
        {
            return NativeMemory.AlignedAlloc((nuint)Math.Max(bytes, 64), 64);
        }
        catch (OutOfMemoryException)
        {
            throw new KernelsException(Status.NoMemory, "workspace", $"{bytes} bytes are not to be had");
        }
    }
}
