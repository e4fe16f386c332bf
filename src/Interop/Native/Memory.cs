using System.Runtime.InteropServices;

namespace Kernels.Interop.Native;

/// <summary>The one thing libc is asked for: huge pages, which a page walk per 4 KiB of weights makes worth asking.</summary>
internal static partial class Memory
{
    internal const int MadvHugepage = 14;

    [LibraryImport("libc", EntryPoint = "madvise")]
    internal static unsafe partial int Madvise(void* address, nuint length, int advice);
}
