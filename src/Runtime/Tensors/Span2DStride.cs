using System.Runtime.CompilerServices;
using CommunityToolkit.HighPerformance;

namespace Kernels;

internal static class Span2DStride
{
    /// <summary>Elements from one row of the span to the next; its width when it has fewer than two rows.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static long Stride<T>(this ReadOnlySpan2D<T> span) =>
        span.Height < 2 || span.Width == 0
            ? span.Width
            : Unsafe.ByteOffset(in span.DangerousGetReferenceAt(0, 0), in span.DangerousGetReferenceAt(1, 0)) / Unsafe.SizeOf<T>();
}
