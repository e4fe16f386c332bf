using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Kernels.Interop.Native;

namespace Kernels.Tests.Simt;

/// <summary>What kn_simt reports of one wrong access.</summary>
internal sealed record SimtFault(int Kind, (uint X, uint Y, uint Z) Block, (uint X, uint Y, uint Z) Thread, string Kernel, string? File, int Line,
    string? OtherFile, int OtherLine, ulong Address, int Bytes, string Text);

/// <summary>The argument of every kernel in native/simt/kernels.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct SimtTestArgs
{
    public nint In;
    public nint Out;
    public long N;
    public long Mode;
}

/// <summary>The simulated GPU through its C ABI, without the layers above it.</summary>
internal sealed unsafe class SimtLibrary
{
    private static readonly Lazy<SimtLibrary?> s_fast = new(() => Open("kn_simt")), s_checked = new(() => Open("kn_simt_checked"));
    private readonly KnSimtLibrary _table;
    private readonly List<nint> _memory = [];

    private SimtLibrary(in KnSimtLibrary table) => _table = table;

    public ref readonly KnSimtLibrary Table => ref _table;

    public string LastError => Marshal.PtrToStringUTF8((nint)_table.LastError()) ?? "";

    /// <summary>The fast build, or the one with checks. Its options are those of a wave size and otherwise the default.</summary>
    public static SimtLibrary Get(bool check, int waveSize = 32, int workers = 0, uint order = 0, bool checkGlobal = false)
    {
        SimtLibrary? library = (check ? s_checked : s_fast).Value;
        if (library is null) Assert.Ignore("no simulated GPU here: it needs Linux on x86-64");
        library!.SetOptions(waveSize, workers, order, checkGlobal);
        return library;
    }

    public void SetOptions(int waveSize, int workers, uint order, bool checkGlobal)
    {
        var options = new KnSimtOptions { Size = (uint)sizeof(KnSimtOptions) };
        _table.GetOptions(&options);
        options.WaveSize = waveSize;
        options.Workers = workers;
        options.Order = order;
        options.CheckGlobal = checkGlobal ? 1 : 0;
        Assert.That(_table.SetOptions(&options), Is.Zero, LastError);
    }

    public nint Allocate(long bytes)
    {
        void* pointer;
        Assert.That(_table.Alloc(bytes, &pointer), Is.Zero, LastError);
        _memory.Add((nint)pointer);
        return (nint)pointer;
    }

    public nint Upload<T>(ReadOnlySpan<T> values) where T : unmanaged
    {
        nint pointer = Allocate((long)values.Length * sizeof(T));
        fixed (T* from = values) Assert.That(_table.Copy((void*)pointer, from, (long)values.Length * sizeof(T)), Is.Zero, LastError);
        return pointer;
    }

    public T[] Download<T>(nint pointer, int count) where T : unmanaged
    {
        var values = new T[count];
        fixed (T* to = values) Assert.That(_table.Copy(to, (void*)pointer, (long)count * sizeof(T)), Is.Zero, LastError);
        return values;
    }

    public void FreeAll()
    {
        foreach (nint pointer in _memory) _table.Free((void*)pointer);
        _memory.Clear();
    }

    /// <summary>Launches a kernel of native/simt/kernels and gives back the status; what it did wrong is in <see cref="Faults"/>.</summary>
    public int Launch(string kernel, int blocks, int threads, int shared, SimtTestArgs args, bool cooperative = false, int? argsBytes = null) =>
        Launch<SimtTestArgs>(kernel, blocks, threads, shared, args, cooperative, argsBytes);

    public int Launch<T>(string kernel, int blocks, int threads, int shared, T args, bool cooperative = false, int? argsBytes = null) where T : unmanaged
    {
        var launch = new KnSimtLaunch
        {
            Size = (uint)sizeof(KnSimtLaunch),
            Grid = Triple((uint)blocks),
            Block = Triple((uint)threads),
            DynamicShared = (uint)shared,
            Cooperative = cooperative ? 1u : 0,
            ArgsBytes = (uint)(argsBytes ?? sizeof(T)),
            Args = &args,
        };
        byte[] name = System.Text.Encoding.UTF8.GetBytes(kernel + '\0');
        fixed (byte* at = name)
        {
            launch.Kernel = at;
            return _table.Launch(&launch);
        }
    }

    /// <summary>Launches a kernel that does nothing wrong.</summary>
    public void Run(string kernel, int blocks, int threads, int shared, SimtTestArgs args, bool cooperative = false) =>
        Run<SimtTestArgs>(kernel, blocks, threads, shared, args, cooperative);

    public void Run<T>(string kernel, int blocks, int threads, int shared, T args, bool cooperative = false) where T : unmanaged
    {
        int status = Launch(kernel, blocks, threads, shared, args, cooperative);
        Assert.That(status, Is.Zero, status == 0 ? "" : LastError);
        Assert.That(_table.FaultCount(), Is.Zero);
    }

    public SimtFault[] Faults()
    {
        var faults = new SimtFault[_table.FaultCount()];
        for (int i = 0; i < faults.Length; i++)
        {
            var f = new KnSimtFault { Size = (uint)sizeof(KnSimtFault) };
            Assert.That(_table.Fault(i, &f), Is.Zero, LastError);
            faults[i] = new SimtFault(f.Kind, Tuple(f.Block), Tuple(f.Thread), Text(f.Kernel)!, Text(f.File), f.Line, Text(f.OtherFile), f.OtherLine,
                f.Address, f.Bytes, Text(f.Text)!);
        }
        return faults;
    }

    private static SimtLibrary? Open(string name)
    {
        string? path = KernelTable.Find(name, out _);
        if (path is null) return null;
        KnStatus status = KnSimtExports.TryGet(path, out KnSimtLibrary table, out string error);
        Assert.That(status, Is.EqualTo(KnStatus.Ok), error);
        return new SimtLibrary(table);
    }

    private static string? Text(byte* text) => Marshal.PtrToStringUTF8((nint)text);

    private static UInt32x3 Triple(uint x)
    {
        UInt32x3 triple = default;
        triple[0] = x;
        triple[1] = triple[2] = 1;
        return triple;
    }

    private static (uint, uint, uint) Tuple(UInt32x3 triple) => (triple[0], triple[1], triple[2]);

    /// <summary>The lines of a file of native/simt/kernels.</summary>
    internal static string[] Source(string file, [CallerFilePath] string here = "") =>
        File.ReadAllLines(Path.Combine(Path.GetDirectoryName(here)!, "..", "..", "native", "simt", "kernels", file));
}
