// kernels/decode_attention/decode_attention.h in C#.
using System.Runtime.InteropServices;
using Kernels.Interop.Cuda;

namespace Kernels.Interop.Native;

[Flags]
internal enum KnAttentionFlags { None = 0, Tree = 1, Full = 2, Alibi = 4, Sinks = 8, Scales = 16, Phi = 32, Norms = 64 }

internal enum KnSoftmax { Sync = 1, Lazy = 2, Unified = 3, Bounded = 4 }

[StructLayout(LayoutKind.Sequential)]
internal struct KnDecodeAttentionProblem
{
    public uint Size;
    public int QType, KvType, OutType;
    public int Batch;
    public int QLen;
    public int QHeads, KvHeads;
    public int HeadDim, VHeadDim;
    public int KvLen;
    public int PageSize;
    public int Window;
    public float Softcap;
    public int Flags;
}

[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnDecodeAttentionArgs
{
    public uint Size;
    public int Batch;
    public int* QStart;
    public int* KvLens;
    public int* Pages;
    public long PagesLd;
    public long PageCount;
    public void* Q;
    public long QToken, QHead;
    public void* K;
    public long KPage, KToken, KHead;
    public void* V;
    public long VPage, VToken, VHead;
    public float* KScales;
    public float* VScales;
    public long ScalePage, ScaleToken, ScaleHead;
    public float* KeyNorms;
    public float* Phi;
    public float* Alibi;
    public float* Sinks;
    public uint* Tree;
    public float Scale;
    public int Reserved;
    public void* Out;
    public long OutToken, OutHead;
    public float* Lse;
    public long LseToken;
    public long* Recomputed;
    public void* Workspace;
    public long WorkspaceBytes;
}

/// <summary>kernels/decode_attention/decode_attention_gpu.h: the one argument of the GPU kernels.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnDecodeAttentionGpu
{
    public int* QStart;
    public int* KvLens;
    public int* Pages;
    public void* Q;
    public void* K;
    public void* V;
    public float* KScales;
    public float* VScales;
    public float* KeyNorms;
    public float* Phi;
    public float* Alibi;
    public float* Sinks;
    public uint* Tree;
    public void* Out;
    public float* Lse;
    public ulong* Recomputed;
    public float* Partial;
    public long PagesLd;
    public long QToken, QHead;
    public long KPage, KToken, KHead;
    public long VPage, VToken, VHead;
    public long ScalePage, ScaleToken, ScaleHead;
    public long OutToken, OutHead, LseToken;
    public int Batch, QLen, QHeads, KvHeads;
    public int HeadDim, VHeadDim;
    public int PageSize, Window;
    public int QType, KvType, OutType;
    public int Flags;
    public int Softmax;
    public int Splits, SplitLen;
    public float Scale, Softcap;
    public int Reserved;
}

/// <summary>K or V of decode_attention_sm90: a tensor map, where there is one, and how a page and a head are found in it.</summary>
[StructLayout(LayoutKind.Sequential, Size = 192)]
internal unsafe struct KnDecodeAttentionCache
{
    public CUtensorMap Map;
    public void* At;
    public long Page, Token, Head;
    public KnCacheMap Mapped;
    public int PageStep, HeadStep;
    public int Dims;
}

/// <summary>Which dimension of the map the tokens of a page are.</summary>
internal enum KnCacheMap { None = 0, TokensSecond = 1, TokensThird = 2 }

/// <summary>The argument of decode_attention_sm90.</summary>
[StructLayout(LayoutKind.Sequential, Size = 768)]
internal struct KnDecodeAttentionSm90
{
    public KnDecodeAttentionCache K, V;
    public KnDecodeAttentionGpu Call;
    public int Box;
}
