using System.Collections.Immutable;
using System.Reflection;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// The rows of a device. Of the CPU: those of kn_cpu where it loads, then the managed ones; a missing library leaves the managed
/// rows working and says so in <see cref="Problem"/>. Of a GPU: those whose kernels are in this assembly's images.
/// </summary>
internal sealed unsafe class KernelTable
{
    private static readonly Lazy<KernelTable> s_default = new(() => Load(FindLibrary()));

    private readonly GpuDriver? _gpu;
    private readonly delegate* unmanaged[Cdecl]<int> _getThreads;
    private readonly delegate* unmanaged[Cdecl]<int, int, int> _setThreads;

    private KernelTable(string? path, string? problem, in KnLibrary library)
    {
        Path = path;
        Problem = problem;
        Features = (KnCpu)library.Features & ~KnCpu.FewL1Misses;
        FewL1Misses = ((KnCpu)library.Features & KnCpu.FewL1Misses) != 0;
        Emulated = (KnCpu)library.Emulated;
        string managed = s_managedBuild.Value;
        Build = Marshal.PtrToStringUTF8((nint)library.Build) is { } native ? $"{native}+{managed}" : $"managed-{managed}";
        Library = library;
        _getThreads = library.GetThreads;
        _setThreads = library.SetThreads;
        var rows = ImmutableArray.CreateBuilder<Row>();
        for (int i = 0; i < library.RowCount; i++) rows.Add(new NativeRow(library.Rows[i], library.LastError));
        rows.AddRange(Managed);
        Rows = rows.ToImmutable();
    }

    private KernelTable(GpuDriver gpu)
    {
        _gpu = gpu;
        Path = gpu.Limits.Driver;
        Build = $"{Images.Build}, {gpu.Limits.Driver}";  // a driver compiles PTX, and another one otherwise
        Rows = GpuRows(gpu);
    }

    /// <summary>A hash of the managed rows' sources, which the build listed in any order.</summary>
    private static readonly Lazy<string> s_managedBuild = new(() =>
    {
        string digests = typeof(KernelTable).Assembly.GetCustomAttributes<AssemblyMetadataAttribute>().First(a => a.Key == "ManagedRows").Value!;
        string sorted = string.Concat(digests.Split(';').Order(StringComparer.Ordinal));
        return Convert.ToHexStringLower(SHA256.HashData(Encoding.ASCII.GetBytes(sorted)))[..12];
    });

    /// <summary>The managed rows, last within their operation.</summary>
    private static ImmutableArray<Row> Managed => [new FlatGemmManaged(), new DecodeAttentionManaged(), new SpGemmManaged(), new SparseLinearManaged()];

    /// <summary>The rows of a GPU, best first within their operation.</summary>
    private static ImmutableArray<Row> GpuRows(GpuDriver gpu) =>
        [.. FlatGemmGpu.Rows(gpu), .. DecodeAttentionGpu.Rows(gpu), new KvAppendGpu(gpu), new MergeStatesGpu(gpu), new SparseLinearGpu(gpu), new SpGemmGpu(gpu), new TransposeGpu(gpu)];

    public static KernelTable Default => s_default.Value;

    /// <summary>File of the native library; null when there is none.</summary>
    public string? Path { get; }

    /// <summary>Why there is no native library; null when there is one.</summary>
    public string? Problem { get; }

    public KnCpu Features { get; }

    /// <summary>L1 of a core waits for too few lines to draw what its L2 can from memory (KN_CPU_FEW_L1_MISSES).</summary>
    public bool FewL1Misses { get; }

    /// <summary>Features that run in software: test builds only.</summary>
    public KnCpu Emulated { get; }

    public string Build { get; }

    internal KnLibrary Library { get; }

    /// <summary>All rows, best first within an operation.</summary>
    public ImmutableArray<Row> Rows { get; }

    /// <summary>Rows of an operation, best first.</summary>
    public IEnumerable<Row> Of(KnOp op) => Rows.Where(r => r.Op == op);

    /// <summary>The row of a class that this device has one of.</summary>
    public T Only<T>() where T : Row
    {
        foreach (Row row in Rows)
            if (row is T only) return only;
        throw new KernelsException(Status.Unsupported, "device", $"one with a row {typeof(T).Name}");
    }

    /// <summary>The row of this name, if this machine runs it.</summary>
    /// <exception cref="KernelsException">No such row, which <paramref name="argument"/> is blamed for, or the machine lacks what it needs.</exception>
    public Row Named(KnOp op, string name, string argument)
    {
        Row row = Of(op).FirstOrDefault(r => r.Name == name)
            ?? throw new KernelsException(Status.Unsupported, argument, $"one of {string.Join(", ", Of(op))}, not {name}{(Problem is null ? "" : $" ({Problem})")}");
        return Runs(row, out string? lacks) ? row : throw new KernelsException(Status.Unsupported, row.Name, lacks!);
    }

    /// <summary>Whether this machine has what the row needs, or what it lacks.</summary>
    public bool Runs(Row row, out string? lacks)
    {
        if (row is GpuRow gpu)
        {
            lacks = gpu.Lacks;
            return lacks is null;
        }
        KnCpu missing = row.Needs & ~Features;
        lacks = missing == 0 ? null : $"this machine lacks {missing}";
        return missing == 0;
    }

    /// <summary>Threads of the pool, the caller's included.</summary>
    public int Threads => _gpu is not null ? 1 : _getThreads == null ? ManagedPool.Size : _getThreads();

    /// <summary>Resizes the pool; 0 is one thread per core this process may use.</summary>
    public void SetThreads(int count, bool pin)
    {
        if (_gpu is not null) return;
        if (_setThreads == null)
        {
            KernelsException.Require(count is >= 0 and <= 1024, nameof(count), $"0 <= count <= 1024, not {count}");
            KernelsException.Require(!pin, nameof(pin), $"false: managed threads are not tied to cores ({Problem})");
            ManagedPool.Resize(count);
            return;
        }
        var status = (KnStatus)_setThreads(count, pin ? 1 : 0);
        if (status != KnStatus.Ok)
            throw KernelsException.FromSentence((Status)status, "threads", Marshal.PtrToStringUTF8((nint)Library.LastError()) ?? "");
    }

    /// <summary>The table of the library at <paramref name="path"/>, or of the managed rows alone.</summary>
    public static KernelTable Load(string? path)
    {
        if (path is null)
        {
            _ = Find("kn_cpu", out string reason);
            return new KernelTable(null, reason, default);
        }
        return KnExports.TryGet(path, out KnLibrary library, out string error) == KnStatus.Ok
            ? new KernelTable(path, null, library)
            : new KernelTable(null, error, default);
    }

    /// <summary>The table of a GPU.</summary>
    public static KernelTable Of(GpuDriver gpu) => new(gpu);

    internal static string LibraryName => FileOf("kn_cpu");

    private static string FileOf(string library) => OperatingSystem.IsWindows() ? $"{library}.dll"
        : OperatingSystem.IsMacOS() ? $"lib{library}.dylib" : $"lib{library}.so";

    /// <summary>KERNELS_NATIVE names the directory for those who must override; then beside the assembly; then the package's place.</summary>
    private static IEnumerable<string> SearchedDirectories()
    {
        string? chosen = Environment.GetEnvironmentVariable("KERNELS_NATIVE");
        if (!string.IsNullOrEmpty(chosen))
        {
            yield return chosen;
            yield break;
        }
        yield return AppContext.BaseDirectory;
        yield return System.IO.Path.Combine(AppContext.BaseDirectory, "runtimes", RuntimeInformation.RuntimeIdentifier, "native");
        string os = OperatingSystem.IsWindows() ? "win" : OperatingSystem.IsMacOS() ? "osx" : "linux";
        string architecture = RuntimeInformation.ProcessArchitecture.ToString().ToLowerInvariant();
        yield return System.IO.Path.Combine(AppContext.BaseDirectory, "runtimes", $"{os}-{architecture}", "native");
    }

    private static string? FindLibrary() => Find("kn_cpu", out _);

    /// <summary>The file of a native library of this project, or null; the reason is for where it is not.</summary>
    internal static string? Find(string library, out string reason)
    {
        string file = FileOf(library);
        string? path = SearchedDirectories().Select(d => System.IO.Path.Combine(d, file)).FirstOrDefault(File.Exists);
        reason = $"no {file} in {string.Join(", ", SearchedDirectories())}";
        return path;
    }
}
