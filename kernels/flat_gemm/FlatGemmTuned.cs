using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>Under which key the choices of a layer are stored.</summary>
internal static class FlatGemmTuned
{
    internal const string Operation = "flat_gemm";

    /// <summary>The key of a layer. m is no part of it: it is what the intervals are over.</summary>
    internal static TuningKey Key(Device device, FlatGemmOptions o, string? layout, CacheState cache)
    {
        KnFlatGemmProblem p = o.Problem(o.MaxM);
        var flags = (KnGemmFlags)p.Flags;
        return TuningKey.Of(Operation, StoredChoices.DeviceOf(device, o.Threads), device.Build, TuningPolicy.Of(device, cache),
            ("n", o.N), ("k", o.K), ("weights", o.Weights.Name()), ("input", o.Input.Name()), ("output", o.Output.Name()), ("group", o.Group),
            ("activation", (int)p.Activation), ("bias", Bit(flags, KnGemmFlags.Bias)), ("residual", Bit(flags, KnGemmFlags.Residual)),
            ("gated", Bit(flags, KnGemmFlags.Gated)), ("zero_points", Bit(flags, KnGemmFlags.Zeros)),
            ("quantize_input", Bit(flags, KnGemmFlags.QuantizeX)), ("layout", layout ?? "rows"));

        static int Bit(KnGemmFlags flags, KnGemmFlags flag) => (flags & flag) != 0 ? 1 : 0;
    }

    /// <summary>
    /// The same product without what follows it. An epilogue costs m n operations beside m n k, so its choices are taken where
    /// the layer itself was not measured.
    /// </summary>
    internal static FlatGemmOptions Plain(FlatGemmOptions o) =>
        o with { N = o.Columns, Gated = false, Activation = Activation.None, Bias = false, Residual = false };
}
