namespace Kernels.Tests;

internal static class Allocations
{
    /// <summary>
    /// Bytes that calls allocate on this thread: the least of several attempts. A collection that another thread asks for in
    /// between retires this thread's allocation context, up to 8 KiB of it unused, and the runtime counts that as allocated.
    /// </summary>
    public static long Of(int calls, Action call)
    {
        long least = long.MaxValue;
        for (int attempt = 0; attempt < 5; attempt++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            for (int i = 0; i < calls; i++) call();
            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }
        return least;
    }
}
