namespace Kernels;

/// <summary>The activations of flat_gemm in f32, each within 2^-21 |z| (FlatGemmOracle says why that is the allowance).</summary>
internal static class FlatGemmActivations
{
    public static float Apply(FlatGemmActivation activation, float z) => activation switch
    {
        FlatGemmActivation.Relu => z < 0 ? 0 : z,  // NaN compares false and passes
        FlatGemmActivation.GeluTanh => z * Sigmoid(1.59576912f * z * (1 + 0.044715f * z * z)),  // x/2 (1 + tanh u) = x sigmoid(2u)
        FlatGemmActivation.GeluErf => (float)(0.5 * z * Erfc(z * -0.70710678118654752)),
        FlatGemmActivation.Silu => z * Sigmoid(z),
        _ => z,
    };

    private static float Sigmoid(float z) => 1 / (1 + MathF.Exp(-z));

    /// <summary>
    /// erfc as t exp(-z^2 + p(t)), t = 1/(1 + |z|/2), and 2 - that for negative z: the fit of avx512.h, whose relative error is
    /// 8.3e-8 (1.4 f32 epsilons of half an ulp), here in f64 so that nothing is added to it.
    /// </summary>
    private static double Erfc(double z)
    {
        double a = Math.Abs(z), t = 1 / (1 + 0.5 * a);
        double p = 0.14493021368980408;
        p = p * t - 0.6808272004127502;
        p = p * t + 1.156733751296997;
        p = p * t - 0.6962519288063049;
        p = p * t - 0.08028043061494827;
        p = p * t + 0.0012675861362367868;
        p = p * t + 0.03460279852151871;
        p = p * t + 0.38664039969444275;
        p = p * t + 0.9986327886581421;
        p = p * t - 1.265447974205017;
        double e = t * Math.Exp(-a * a + p);
        return z < 0 ? 2 - e : e;
    }
}
