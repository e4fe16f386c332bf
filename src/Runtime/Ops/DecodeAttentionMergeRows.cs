namespace Kernels;

public sealed unsafe partial class DecodeAttention
{
    /// <summary>What is written overlaps nothing else, but that a result may be exactly a part.</summary>
    /// <exception cref="KernelsException">It does.</exception>
    private static void CheckOverlap<T, TOut>(in MergeRows part, in MergeRows partLse, in MergeRows output, in MergeRows lse, bool mayBePart)
    {
        bool isPart = mayBePart && typeof(T) == typeof(TOut) && output.Is(part), isPartLse = mayBePart && lse.Is(partLse);
        KernelsException.Require((isPart || output.Apart(part)) && output.Apart(partLse), nameof(output), mayBePart ? "memory of exactly one of the parts, or of nothing else" : "memory of nothing else");
        KernelsException.Require((isPartLse || lse.Apart(partLse)) && lse.Apart(part) && lse.Apart(output), nameof(lse), mayBePart ? "memory of exactly one of the parts, or of nothing else" : "memory of nothing else");
    }

    /// <summary>Rows [tokens, heads] of so many bytes each in memory of the host or of a device, by strides in bytes.</summary>
    private readonly record struct MergeRows(nint At, long Tokens, long Token, long Heads, long Head, long Width)
    {
        public static MergeRows Of<T>(T* at, long tokens, long token, long heads, long head, long dim) where T : unmanaged =>
            new((nint)at, tokens, tokens > 1 ? token * sizeof(T) : 0, heads, heads > 1 ? head * sizeof(T) : 0, dim * sizeof(T));

        /// <summary>The rows of a view [tokens, heads, dim] or [tokens, heads] that is written, none over another one.</summary>
        /// <exception cref="KernelsException">Rows that share memory.</exception>
        public static MergeRows Written<T>(in TensorView<T> view, string name) where T : unmanaged
        {
            long dim = view.Rank == 3 ? view.Shape(2) : 1;
            KernelsException.Require(DecodeAttentionRules.Disjoint(view.Shape(0), view.Stride(0), view.Shape(1), view.Stride(1), dim), name, "rows that share no memory");
            return Of(view.Pointer, view.Shape(0), view.Stride(0), view.Shape(1), view.Stride(1), dim);
        }

        private bool IsEmpty => Tokens == 0 || Heads == 0 || Width == 0;

        private Int128 End => At + (Int128)(Tokens - 1) * Token + (Int128)(Heads - 1) * Head + Width;

        public bool Is(in MergeRows other) => IsEmpty || other == this;

        /// <summary>Whether no byte is in both. Rows of other strides are taken for all that lies between their first and last.</summary>
        public bool Apart(in MergeRows other)
        {
            if (IsEmpty || other.IsEmpty || End <= other.At || other.End <= At) return true;
            if (other with { At = At } != this) return false;
            // As many bytes away as some token and head, within the width of a row?
            for (long t = 1 - Tokens; t < Tokens; t++)
            {
                Int128 rest = (Int128)(other.At - At) - (Int128)t * Token;
                long h = Head == 0 ? 0 : (long)Int128.Clamp(rest / Head, 1 - Heads, Heads - 1);
                for (long near = Math.Max(h - 1, 1 - Heads); near <= Math.Min(h + 1, Heads - 1); near++)
                    if (Int128.Abs(rest - (Int128)near * Head) < Width) return false;
            }
            return true;
        }
    }
}
