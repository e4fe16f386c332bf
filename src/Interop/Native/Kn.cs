// kn.h in C#: the same structs, field by field. Sizes and offsets are compared with the library's own in a test.
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

[assembly: DisableRuntimeMarshalling]

namespace Kernels.Interop.Native;

internal enum KnStatus { Ok = 0, Invalid = 1, Unsupported = 2, NoMemory = 3, Device = 4, AbiMismatch = 5, Internal = 6 }

/// <summary>kn_op, and what has rows on GPUs alone: on the CPU it is plain C# without a choice.</summary>
internal enum KnOp : uint { FlatGemm = 1, DecodeAttention = 2, SpGemm = 3, SparseLinear = 4, KvAppend = 0x101, MergeStates = 0x102, Transpose = 0x103 }

[Flags]
internal enum KnCpu : uint { None = 0, Avx512 = 1, Avx512Bf16 = 2, Avx512Fp16 = 4, Amx = 8, Avx512Vbmi2 = 16, FewL1Misses = 32 }

[InlineArray(8)]
internal struct Int32x8 { private int _0; }

[InlineArray(6)]
internal struct Int32x6 { private int _0; }

[InlineArray(48)]
internal struct Int32x48 { private int _0; }

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnParam
{
    public byte* Name;
    public int Count;
    public Int32x8 Values;
}

[StructLayout(LayoutKind.Sequential)]
internal struct KnLaunch
{
    public uint Size;
    public int Threads;
    public Int32x6 Param;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnRow
{
    public byte* Name;
    public uint Op;
    public uint Needs;
    public byte* Bits;
    public KnParam* Params;
    public int ParamCount;
    public int Reserved;
    public delegate* unmanaged[Cdecl]<void*, KnLaunch*, byte**, int> Accepts;
    public delegate* unmanaged[Cdecl]<void*, KnLaunch*, long> Workspace;
    public delegate* unmanaged[Cdecl]<void*, byte*> Layout;
    public delegate* unmanaged[Cdecl]<void*, long> PackedBytes;
    public delegate* unmanaged[Cdecl]<void*, void*, int> Prepack;
    public delegate* unmanaged[Cdecl]<void*, KnLaunch*, void*, int> Run;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnStruct
{
    public byte* Name;
    public int Size;
    public Int32x48 Offsets;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnLibrary
{
    public uint Size;
    public uint Abi;
    public byte* Build;
    public uint Features;
    public uint Emulated;
    public KnRow** Rows;
    public int RowCount;
    public int StructCount;
    public KnStruct* Structs;
    public delegate* unmanaged[Cdecl]<byte*> LastError;
    public delegate* unmanaged[Cdecl]<int> GetThreads;
    public delegate* unmanaged[Cdecl]<int, int, int> SetThreads;
}

/// <summary>The one export of a kn_cpu library, found by path.</summary>
internal static unsafe class KnExports
{
    internal const uint Abi = 3;

    /// <summary>Loads the library at <paramref name="path"/> and fills the table. 0, or the status and what is wrong.</summary>
    internal static KnStatus TryGet(string path, out KnLibrary library, out string error)
    {
        library = new KnLibrary { Size = (uint)sizeof(KnLibrary) };
        if (!TryFind(path, "kn_get", out nint get, out KnStatus found, out error)) return found;
        fixed (KnLibrary* at = &library)
        {
            var status = (KnStatus)((delegate* unmanaged[Cdecl]<uint, KnLibrary*, int>)get)(Abi, at);
            if (status == KnStatus.AbiMismatch)
                error = $"{path} speaks ABI {library.Abi}, this assembly ABI {Abi}";
            return status;
        }
    }

    /// <summary>Loads the library at <paramref name="path"/> and finds its export.</summary>
    internal static bool TryFind(string path, string export, out nint address, out KnStatus status, out string error)
    {
        (address, status, error) = (0, KnStatus.Device, "");
        nint handle;
        try
        {
            handle = NativeLibrary.Load(path);
        }
        catch (Exception e) when (e is DllNotFoundException or BadImageFormatException)
        {
            error = e.Message;
            return false;
        }
        if (NativeLibrary.TryGetExport(handle, export, out address)) return true;
        (status, error) = (KnStatus.AbiMismatch, $"{path} has no export {export}");
        return false;
    }
}
