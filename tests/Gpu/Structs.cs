using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Kernels.Interop.Cuda;
using Kernels.Interop.Hip;
using Kernels.Interop.Native;

namespace Kernels.Tests.Gpu;

/// <summary>The structs that drivers and kernels read, against the sizes and offsets of cuda.h, hip_runtime_api.h and flat_gemm_gpu.h on 64-bit systems.</summary>
[TestFixture]
public sealed class Structs
{
    [Test]
    public void SizesAreTheHeaders()
    {
        Assert.Multiple(() =>
        {
            Assert.That(Unsafe.SizeOf<CUlaunchConfig>(), Is.EqualTo(56));
            Assert.That(Unsafe.SizeOf<CUlaunchAttribute>(), Is.EqualTo(72));
            Assert.That(Unsafe.SizeOf<CUtensorMap>(), Is.EqualTo(128));
            Assert.That(Unsafe.SizeOf<CUmemPoolProps>(), Is.EqualTo(88));
            Assert.That(Unsafe.SizeOf<HipMemPoolProps>(), Is.EqualTo(88));
            Assert.That(Unsafe.SizeOf<KnFlatGemmGpu>(), Is.EqualTo(10 * 8 + 5 * 8 + 12 * 4));
            Assert.That(Unsafe.SizeOf<KnFlatGemmSm90>(), Is.EqualTo(448));
            Assert.That(Unsafe.SizeOf<KnSparseLinearGpu>(), Is.EqualTo(Unsafe.SizeOf<KnFlatGemmGpu>() + 6 * 8));
            Assert.That(Unsafe.SizeOf<KnSpgemmGpu>(), Is.EqualTo(4 * 24 + 12 * 8 + 13 * 8 + 6 * 4));
            Assert.That(Unsafe.SizeOf<KnTransposeGpu>(), Is.EqualTo(2 * 24 + 8 + 3 * 8 + 2 * 4));
            Assert.That(Unsafe.SizeOf<KnDecodeAttentionGpu>(), Is.EqualTo(18 * 8 + 15 * 8 + 18 * 4));
            Assert.That(Unsafe.SizeOf<KnDecodeAttentionSm90>(), Is.EqualTo(768));
            Assert.That(Unsafe.SizeOf<KnAttentionDoor>(), Is.EqualTo(7 * 8 + 3 * 8 + 6 * 4));
            Assert.That(Unsafe.SizeOf<KnKvAppend>(), Is.EqualTo(10 * 8 + 14 * 8 + 10 * 4));
            Assert.That(Unsafe.SizeOf<KnMergeStates>(), Is.EqualTo(4 * 8 + 10 * 8 + 6 * 4));
        });
    }

    [Test]
    public void OffsetsAreTheHeaders()
    {
        Assert.Multiple(() =>
        {
            Assert.That(Offset<CUlaunchConfig>(nameof(CUlaunchConfig.SharedMemBytes)), Is.EqualTo(24));
            Assert.That(Offset<CUlaunchConfig>(nameof(CUlaunchConfig.Stream)), Is.EqualTo(32));
            Assert.That(Offset<CUlaunchConfig>(nameof(CUlaunchConfig.Attrs)), Is.EqualTo(40));
            Assert.That(Offset<CUlaunchConfig>(nameof(CUlaunchConfig.NumAttrs)), Is.EqualTo(48));
            Assert.That(Offset<CUlaunchAttribute>(nameof(CUlaunchAttribute.ClusterX)), Is.EqualTo(8));
            Assert.That(Offset<CUlaunchAttribute>(nameof(CUlaunchAttribute.ClusterZ)), Is.EqualTo(16));
            Assert.That(Offset<CUmemPoolProps>(nameof(CUmemPoolProps.LocationId)), Is.EqualTo(12));
            Assert.That(Offset<KnFlatGemmGpu>(nameof(KnFlatGemmGpu.Quantized)), Is.EqualTo(72));
            Assert.That(Offset<KnFlatGemmGpu>(nameof(KnFlatGemmGpu.Ldq)), Is.EqualTo(112));
            Assert.That(Offset<KnFlatGemmGpu>(nameof(KnFlatGemmGpu.Integer)), Is.EqualTo(164));
            Assert.That(Offset<KnFlatGemmSm90>(nameof(KnFlatGemmSm90.Call)), Is.EqualTo(256));
            Assert.That(Offset<KnFlatGemmSm90>(nameof(KnFlatGemmSm90.WMapped)), Is.EqualTo(428));
            Assert.That(Offset<KnDecodeAttentionCache>(nameof(KnDecodeAttentionCache.Mapped)), Is.EqualTo(160));
            Assert.That(Offset<KnDecodeAttentionCache>(nameof(KnDecodeAttentionCache.Dims)), Is.EqualTo(172));
            Assert.That(Offset<KnDecodeAttentionSm90>(nameof(KnDecodeAttentionSm90.Call)), Is.EqualTo(384));
            Assert.That(Offset<KnDecodeAttentionSm90>(nameof(KnDecodeAttentionSm90.Box)), Is.EqualTo(720));
            Assert.That(Offset<KnSparseLinearGpu>(nameof(KnSparseLinearGpu.Outputs)), Is.EqualTo(168));
            Assert.That(Offset<KnSpgemmGpu>(nameof(KnSpgemmGpu.IndexBytes)), Is.EqualTo(312));
            Assert.That(Offset<KnTransposeGpu>(nameof(KnTransposeGpu.Keys)), Is.EqualTo(48));
        });
    }

    private static int Offset<T>(string field) => (int)Marshal.OffsetOf<T>(field);
}
