// The feed-forward block of a Llama-like layer, y = x + down(silu(gate x) * up x), as an engine would call it: plans made once,
// then steps of any batch size. Weights are int4 for the wide gate and up projections and bf16 for down.
//   dotnet run -c Release --project samples/Mlp [hidden] [intermediate]
using System.Diagnostics;
using CommunityToolkit.HighPerformance;
using Kernels;

int hidden = args.Length > 0 ? int.Parse(args[0]) : 2048, intermediate = args.Length > 1 ? int.Parse(args[1]) : 5632;
var random = new Random(1);

var gateUpLayer = new FlatGemmOptions
{
    N = intermediate,
    K = hidden,
    MaxM = 64,
    Weights = DType.UInt4,
    Group = 128,
    Gated = true,
};
var downLayer = new FlatGemmOptions
{
    N = hidden,
    K = intermediate,
    MaxM = 64,
    Weights = DType.BFloat16,
    Residual = true,
};

var gateUpFloat = new float[2 * intermediate, hidden];
foreach (ref float w in gateUpFloat.AsSpan()) w = (random.NextSingle() - 0.5f) / MathF.Sqrt(hidden);
int groups = (hidden + 127) / 128;
byte[,] q = new byte[2 * intermediate, (hidden + 1) / 2];
var scales = new float[2 * intermediate, groups];
QuantizationError error = Quantize.Int4PerGroup(gateUpFloat, 128, q, scales);
Console.WriteLine($"gate and up in int4: relative rms error {error.RelativeRms:0.000}");

var downWeights = new BFloat16[hidden, intermediate];
foreach (ref BFloat16 w in downWeights.AsSpan()) w = (BFloat16)((random.NextSingle() - 0.5f) / MathF.Sqrt(intermediate));

using FlatGemm gateUp = FlatGemm.Create<byte>(gateUpLayer, q, scales: scales.AsSpan());
using FlatGemm down = FlatGemm.Create<BFloat16>(downLayer, downWeights);
Console.WriteLine($"on {Device.Cpu}");
foreach (Choice c in down.Choices) Console.WriteLine($"down, m {c.MFrom}..{c.MTo}: {c.Dataflow} ({c.Source}: {c.Reason})");

foreach (int batch in new[] { 1, 4, 16, 64 })
{
    var x = new BFloat16[batch, hidden];
    foreach (ref BFloat16 v in x.AsSpan()) v = (BFloat16)(random.NextSingle() - 0.5f);
    BFloat16[,] wide = new BFloat16[batch, intermediate], y = new BFloat16[batch, hidden];
    void Step()
    {
        gateUp.Run<BFloat16, BFloat16>(x.AsSpan2D(), wide.AsSpan2D());
        down.Run<BFloat16, BFloat16>(wide.AsSpan2D(), y.AsSpan2D(), x.AsSpan2D());
    }
    for (int i = 0; i < 5; i++) Step();
    long start = Stopwatch.GetTimestamp();
    const int Steps = 20;
    for (int i = 0; i < Steps; i++) Step();
    double ms = Stopwatch.GetElapsedTime(start).TotalMilliseconds / Steps;
    Console.WriteLine($"batch {batch,3}: {ms:0.000} ms a step, {batch / ms * 1000:0} tokens/s through this block");
}
