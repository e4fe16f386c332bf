// native/simt/kn_simt.h in C#.
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Kernels.Interop.Native;

[InlineArray(3)]
internal struct UInt32x3 { private uint _0; }

[StructLayout(LayoutKind.Sequential)]
internal struct KnSimtOptions
{
    public uint Size;
    public int WaveSize;
    public int SmCount;
    public int SharedPerBlock;
    public int Workers;
    public int CheckGlobal;
    public uint Order;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnSimtFault
{
    public uint Size;
    public int Kind;
    public UInt32x3 Block, Thread;
    public UInt32x3 OtherThread;
    public int Bytes;
    public int Line, OtherLine;
    public ulong Address;
    public byte* Kernel;
    public byte* File;
    public byte* OtherFile;
    public byte* Text;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnSimtKernel
{
    public uint Size;
    public int ArgsBytes;
    public byte* Name;
    public byte* File;
}

[InlineArray(2)]
internal struct Int64x2 { private long _0; }

[InlineArray(3)]
internal struct Int64x3 { private long _0; }

[InlineArray(3)]
internal struct Int32x3 { private int _0; }

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnSimtTensor
{
    public uint Size;
    public int ElementBytes;
    public void* Address;
    public Int64x3 Shape;
    public Int64x2 Strides;
    public Int32x3 Box;
    public int Unused;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnSimtLaunch
{
    public uint Size;
    public UInt32x3 Grid, Block;
    public uint DynamicShared;
    public uint Cooperative;
    public uint ArgsBytes;
    public byte* Kernel;
    public void* Args;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnSimtLibrary
{
    public uint Size;
    public uint Abi;
    public int Checked;
    public int KernelCount;
    public delegate* unmanaged[Cdecl]<byte*> LastError;
    public delegate* unmanaged[Cdecl]<int, KnSimtKernel*, int> Kernel;
    public delegate* unmanaged[Cdecl]<byte*, KnSimtKernel*, int> Find;
    public delegate* unmanaged[Cdecl]<KnSimtOptions*, void> GetOptions;
    public delegate* unmanaged[Cdecl]<KnSimtOptions*, int> SetOptions;
    public delegate* unmanaged[Cdecl]<long, void**, int> Alloc;
    public delegate* unmanaged[Cdecl]<void*, int> Free;
    public delegate* unmanaged[Cdecl]<void*, void*, long, int> Copy;
    public delegate* unmanaged[Cdecl]<void*, int, long, int> Fill;
    public delegate* unmanaged[Cdecl]<KnSimtLaunch*, int> Launch;
    public delegate* unmanaged[Cdecl]<int> FaultCount;
    public delegate* unmanaged[Cdecl]<int, KnSimtFault*, int> Fault;
    public delegate* unmanaged[Cdecl]<KnSimtTensor*, void*, int> EncodeTensor;
}

/// <summary>The one export of kn_simt and of kn_simt_checked, found by path.</summary>
internal static unsafe class KnSimtExports
{
    internal const uint Abi = 2;

    internal static KnStatus TryGet(string path, out KnSimtLibrary library, out string error)
    {
        library = new KnSimtLibrary { Size = (uint)sizeof(KnSimtLibrary) };
        if (!KnExports.TryFind(path, "kn_simt_get", out nint get, out KnStatus status, out error)) return status;
        fixed (KnSimtLibrary* at = &library)
        {
            status = (KnStatus)((delegate* unmanaged[Cdecl]<uint, KnSimtLibrary*, int>)get)(Abi, at);
            if (status == KnStatus.AbiMismatch) error = $"{path} speaks ABI {library.Abi}, this assembly ABI {Abi}";
            return status;
        }
    }
}
