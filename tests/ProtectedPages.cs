using System.Runtime.InteropServices;

namespace Kernels.Tests;

/// <summary>Memory whose last byte is the last one before a page without rights: a read behind it ends the process. Linux alone.</summary>
internal readonly unsafe ref partial struct ProtectedPages
{
    private const int None = 0, ReadWrite = 3, PrivateAnonymous = 0x22;

    private readonly byte* _all;
    private readonly nuint _bytes;

    [LibraryImport("libc", EntryPoint = "mmap", SetLastError = true)]
    private static partial byte* Map(void* at, nuint bytes, int rights, int flags, int file, nint offset);

    [LibraryImport("libc", EntryPoint = "mprotect", SetLastError = true)]
    private static partial int Protect(void* at, nuint bytes, int rights);

    [LibraryImport("libc", EntryPoint = "munmap", SetLastError = true)]
    private static partial int Unmap(void* at, nuint bytes);

    public ProtectedPages(long bytes)
    {
        nuint page = (nuint)Environment.SystemPageSize, used = ((nuint)bytes + page - 1) / page * page;
        _bytes = used + page;
        _all = Map(null, _bytes, ReadWrite, PrivateAnonymous, -1, 0);
        Assert.That((nint)_all, Is.Not.EqualTo((nint)(-1)), "mmap");
        Assert.That(Protect(_all + used, page, None), Is.Zero, "mprotect");
        At = _all + used - bytes;
    }

    /// <summary>The same with a copy of what is there.</summary>
    public ProtectedPages(void* from, long bytes) : this(bytes) => System.Buffer.MemoryCopy(from, At, bytes, bytes);

    public byte* At { get; }

    public void Dispose() => Assert.That(Unmap(_all, _bytes), Is.Zero, "munmap");
}
