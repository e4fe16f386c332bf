// kernels/decode_attention/decode_attention.h in C#.
using System.Runtime.InteropServices;
using Kernels.Interop.Cuda;

namespace Kernels.Interop.Native;

[Flags]
internal enum KnAttentionFlags { None = 0, Tree = 1, Full = 2, Alibi = 4, Sinks = 8, Scales = 16, Phi = 32, Norms = 64, Invariant = 128 }

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
    public int* KvLater;
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
    public int QLen;
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
    public int* KvLater;
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

/// <summary>kernels/decode_attention/attention_door_gpu.h: what is wrong with a call's lengths, pages or masks.</summary>
internal enum KnAttentionDoorFault { None = 0, QStart = 1, KvLens = 2, Pages = 3, Tree = 4, KvLater = 5 }

/// <summary>kernels/decode_attention/attention_door_gpu.h.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnAttentionDoor
{
    public int* QStart;
    public int* KvLens;
    public int* KvLater;
    public int* Pages;
    public uint* Tree;
    public int* Checked;
    public uint* Fault;
    public long PagesLd, PageCount, Tokens;
    public int Batch, QLen, KvLen;
    public int PageSize, Window;
    public int Append;
}

/// <summary>kernels/decode_attention/kv_append_gpu.h.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnKvAppend
{
    public int* QStart;
    public int* KvLens;
    public int* Pages;
    public void* K;
    public void* V;
    public void* KCache;
    public void* VCache;
    public float* KScales;
    public float* VScales;
    public float* KeyNorms;
    public long PagesLd;
    public long KToken, KHead, VToken, VHead;
    public long KCachePage, KCacheToken, KCacheHead;
    public long VCachePage, VCacheToken, VCacheHead;
    public long ScalePage, ScaleToken, ScaleHead;
    public int Batch, Tokens, KvHeads;
    public int HeadDim, VHeadDim, PageSize;
    public int InType, KvType;
    public int QLen, Reserved;
}

/// <summary>kernels/decode_attention/merge_states_gpu.h.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KnMergeStates
{
    public void* Outs;
    public float* Lses;
    public void* Out;
    public float* Lse;
    public long OutsPart, OutsToken, OutsHead;
    public long LsesPart, LsesToken, LsesHead;
    public long OutToken, OutHead, LseToken, LseHead;
    public int Parts, Heads, Dim;
    public int InType, OutType;
    public int Reserved;
}
