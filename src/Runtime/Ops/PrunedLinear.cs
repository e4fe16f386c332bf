using System.Runtime.InteropServices;
using CommunityToolkit.HighPerformance;

namespace Kernels;

/// <summary>
/// A linear layer whose weights are partly 0, held in the form that is faster at the m that matters: a <see cref="SparseLinear"/>, or a
/// <see cref="FlatGemm"/> that stores the zeros too. One call decides, packs and plans, and one copy of the weights is kept. The dense
/// form computes everything, so a plan whose calls bring active sets is sparse at any density: <c>Create</c> is told.
/// </summary>
public sealed class PrunedLinear : IDisposable
{
    private readonly SparseLinear? _sparse;
    private readonly FlatGemm? _dense;

    private readonly bool _activeSets;

    private PrunedLinear(SparseLinearChoice choice, SparseLinear? sparse, FlatGemm? dense, bool activeSets) => (Choice, _sparse, _dense, _activeSets) = (choice, sparse, dense, activeSets);

    /// <summary>The form, and why.</summary>
    public SparseLinearChoice Choice { get; }

    /// <summary>Bytes of packed weights.</summary>
    public long WeightBytes => _sparse?.WeightBytes ?? _dense!.WeightBytes;

    /// <summary>Bytes of scratch one call uses.</summary>
    public long WorkspaceBytes => _sparse?.WorkspaceBytes ?? _dense!.WorkspaceBytes;

    /// <summary>Counts what is not 0, chooses the form as <see cref="SparseLinear.Choose"/> does, packs <paramref name="w"/> and plans.</summary>
    /// <param name="options">The layer, for every m up to MaxM; no forced row, no u4 weights.</param>
    /// <param name="w">[N or 2 N, K] float, BFloat16, Half or sbyte.</param>
    /// <param name="m">The number of rows of x for which the form is chosen, 1 to MaxM: what decoding brings.</param>
    /// <param name="bias">[N or 2 N] when the options say so.</param>
    /// <param name="scales">s8: [N or 2 N].</param>
    /// <param name="device">The CPU when null.</param>
    /// <param name="activeSets">Calls may bring sets of active outputs and inputs. Then the form is the sparse one, whatever the density.</param>
    /// <exception cref="KernelsException">A shape, type or value that breaks a rule.</exception>
    public static PrunedLinear Create<T>(FlatGemmOptions options, ReadOnlySpan2D<T> w, int m, ReadOnlySpan<float> bias = default,
        ReadOnlySpan<float> scales = default, Device? device = null, bool activeSets = false) where T : unmanaged
    {
        ArgumentNullException.ThrowIfNull(options);
        KernelsException.Require(options.Row is null, nameof(options.Row), "none: a row is of one form, and a plan of that form takes it");
        KernelsException.Require(m >= 1 && m <= options.MaxM, nameof(m), $"1 <= m <= MaxM = {options.MaxM}, not {m}");
        SparseLinearChoice choice = SparseLinear.Choose(options, w.Length == 0 ? 0 : (double)NonZeros(w) / w.Length, m, device);
        if (activeSets) choice = choice with { IsSparse = true, Source = ChoiceSource.Forced, Evidence = "which alone takes active sets" };
        return choice.IsSparse
            ? new PrunedLinear(choice, SparseLinear.Create(options, w, bias, scales, device), null, activeSets)
            : new PrunedLinear(choice, null, FlatGemm.Create(options, w, bias, scales, default, device), activeSets);
    }

    /// <summary>Values with a bit that is set, as <see cref="SparseLinearWeights"/> keeps them.</summary>
    private static unsafe long NonZeros<T>(ReadOnlySpan2D<T> w) where T : unmanaged
    {
        long zeros = 0;
        for (int r = 0; r < w.Height; r++)
            zeros += sizeof(T) switch
            {
                4 => System.MemoryExtensions.Count(MemoryMarshal.Cast<T, uint>(w.GetRowSpan(r)), 0u),
                2 => System.MemoryExtensions.Count(MemoryMarshal.Cast<T, ushort>(w.GetRowSpan(r)), (ushort)0),
                _ => System.MemoryExtensions.Count(MemoryMarshal.AsBytes(w.GetRowSpan(r)), (byte)0),
            };
        return w.Length - zeros;
    }

    /// <summary>Computes y from x, both in host memory. m is the height of <paramref name="x"/>, at most MaxM.</summary>
    /// <param name="x">[m, K] of the input type; rows may be apart.</param>
    /// <param name="y">[m, N] of the output type; overlaps nothing but, exactly, the residual.</param>
    /// <param name="residual">[m, N] when the options say so.</param>
    /// <param name="xScales">[m], s8 input only: x = q * scale of its row.</param>
    /// <param name="outputs">Of a plan with active sets: as <see cref="SparseLinear"/> takes them. Empty: all are active.</param>
    /// <param name="inputs">Likewise.</param>
    /// <exception cref="KernelsException">A shape, type or overlap that breaks a rule, or sets that Create was not told of; y is then untouched.</exception>
    public void Run<TX, TY>(ReadOnlySpan2D<TX> x, Span2D<TY> y, ReadOnlySpan2D<TY> residual = default, ReadOnlySpan<float> xScales = default,
        ReadOnlySpan<ulong> outputs = default, ReadOnlySpan<ulong> inputs = default)
        where TX : unmanaged where TY : unmanaged
    {
        RequireSets(outputs.Length > 0, nameof(outputs));
        RequireSets(inputs.Length > 0, nameof(inputs));
        if (_sparse is null) _dense!.Run(x, y, residual, xScales);
        else _sparse.Run(x, y, residual, xScales, outputs, inputs);
    }

    /// <summary>Whether a call with sets works is said by Create, never by the density of the weights.</summary>
    private void RequireSets(bool given, string name) => KernelsException.Require(!given || _activeSets, name, "none: Create was not told of active sets");

    /// <summary>Computes y from x on views of the device's buffers; on a GPU it only enqueues, on the stream or, null, the default one.</summary>
    /// <param name="x">[m, K] of the input type, on the plan's device; rows may be apart.</param>
    /// <param name="y">[m, N] of the output type; overlaps nothing but, exactly, the residual.</param>
    /// <param name="stream">A stream of the plan's device.</param>
    /// <param name="residual">[m, N] when the options say so.</param>
    /// <param name="xScales">[m], s8 input only.</param>
    /// <param name="outputs">Of a plan with active sets, [ceil(N / 64)]: a bit for each active output.</param>
    /// <param name="inputs">Likewise, [ceil(K / 64)].</param>
    /// <param name="workspace">At least <see cref="WorkspaceBytes"/>, 64-byte aligned, of no other call until this one is done; null: the plan's, or the driver's pool.</param>
    /// <exception cref="KernelsException">A shape, type, device or overlap that breaks a rule, sets that Create was not told of, or what the driver refuses.</exception>
    public void Run<TX, TY>(in TensorView<TX> x, in TensorView<TY> y, Stream? stream = null, TensorView<TY>? residual = null, TensorView<float>? xScales = null,
        TensorView<ulong>? outputs = null, TensorView<ulong>? inputs = null, Buffer<byte>? workspace = null) where TX : unmanaged where TY : unmanaged
    {
        RequireSets(outputs is not null, nameof(outputs));
        RequireSets(inputs is not null, nameof(inputs));
        if (_sparse is null) _dense!.Run(x, y, stream, residual, xScales, workspace);
        else _sparse.Run(x, y, stream, residual, xScales, outputs, inputs, workspace);
    }

    /// <summary>Frees the plan and its weights once the calls that run have returned.</summary>
    public void Dispose()
    {
        _sparse?.Dispose();
        _dense?.Dispose();
    }
}
