using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// What an ordinary implementation of the same attention gives: K and V in the dtype of q (quantised ones are rounded to it), S in
/// f32, P rounded to the dtype of q, sums in f32. A row's largest error is held to twice that of this one and the spread of f32,
/// as FlashAttention's tests hold it to twice that of PyTorch.
/// </summary>
internal static class DecodeAttentionPlain
{
    /// <summary>References that a row is tried with, in octaves below its maximum.</summary>
    public const int References = 4;

    /// <summary>
    /// out [Dv], rounded to the output's dtype; returns lse. What is subtracted lies reference / References octaves below the
    /// maximum: rounding P depends on where in an octave its values fall, and with the maximum itself the largest is exact.
    /// </summary>
    public static float Row(in KnDecodeAttentionProblem p, DecodeAttentionView r, Span<float> @out, int reference = 0)
    {
        var type = (DType)p.QType;
        int n = r.Visible.Length, dim = p.HeadDim, dv = p.VHeadDim;
        var x = new float[n];
        float top = double.IsNaN(r.Sink) ? float.NegativeInfinity : (float)r.Sink, l = 0;
        for (int i = 0; i < n; i++)
        {
            int key = r.Visible[i];
            float dot = 0;
            for (int d = 0; d < dim; d++) dot += (float)r.Q[d] * Round(type, r.K[key * (long)dim + d] * r.KScales[key]);
            x[i] = dot * (float)r.Scale;
            if (p.Softcap > 0) x[i] = p.Softcap * MathF.Tanh(x[i] / p.Softcap);
            x[i] += (float)r.Bias[i];
            top = Math.Max(top, x[i]);
        }
        @out.Clear();
        if (float.IsNegativeInfinity(top)) return top;
        top -= reference * (MathF.Log(2) / References);
        for (int i = 0; i < n; i++) l += x[i] = MathF.Exp(x[i] - top);
        if (!double.IsNaN(r.Sink)) l += MathF.Exp((float)r.Sink - top);
        for (int i = 0; i < n; i++)
        {
            float weight = Round(type, x[i]);
            if (weight == 0) continue;
            long row = r.Visible[i] * (long)dv;
            for (int d = 0; d < dv; d++) @out[d] += weight * Round(type, r.V[row + d] * r.VScales[r.Visible[i]]);
        }
        for (int d = 0; d < dv; d++) @out[d] = Round((DType)p.OutType, @out[d] / l);
        return top + MathF.Log(l);
    }

    private static float Round(DType type, double value) => type switch
    {
        DType.BFloat16 => (float)(BFloat16)value,
        DType.Float16 => (float)(Half)value,
        _ => (float)value,
    };
}
