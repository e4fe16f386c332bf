using System.Numerics;
using System.Runtime.InteropServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>Brings one row of dense weights, K elements; what is 0 in all its bits is left out of the packed ones.</summary>
internal unsafe delegate void WeightRow(long row, byte* to);

/// <summary>
/// Packs weights that come row by row, so that no dense copy need exist: once over them to count, once to write. Bytes are those
/// of prepack in sparse_linear_panel.cpp.
/// </summary>
internal sealed unsafe class SparsePacking
{
    public const string Unchanged = "the same elements both times that they are read";

    private readonly KnSparseLinearProblem _problem;
    private readonly WeightRow _rows;
    private readonly SparsePanels _shape;
    private readonly long[] _offsets;

    /// <summary>Counts. Nnz of the problem does not matter: it is what comes of it.</summary>
    public SparsePacking(KnSparseLinearProblem problem, WeightRow rows)
    {
        (_problem, _rows) = (problem, rows);
        _shape = new SparsePanels(problem);
        _offsets = new long[_shape.Count * _shape.Blocks + 1];
        EachPanel(Count);
        long sum = 0;
        for (int i = 0; i < _offsets.Length; i++) (_offsets[i], sum) = (sum, sum + _offsets[i]);
        _problem.Nnz = sum;
        _shape = new SparsePanels(_problem);
    }

    public KnSparseLinearProblem Problem => _problem;

    public long Bytes => _shape.Total;

    /// <summary>Writes all of <see cref="Bytes"/> bytes. False, and no weights, if a row is not what it was when it was counted.</summary>
    public bool Write(byte* packed, float* scales)
    {
        NativeMemory.Clear(packed, (nuint)_shape.ValuesAt);
        long end = _shape.ValuesAt + _problem.Nnz * _shape.Element;
        NativeMemory.Clear(packed + end, (nuint)(_shape.Total - end));
        for (int i = 0; i < _offsets.Length; i++) ((long*)packed)[i] = _offsets[i];
        int changed = 0;
        EachPanel((panel, rows) =>
        {
            if (!WritePanel(panel, rows, packed)) Volatile.Write(ref changed, 1);
        });
        if (changed != 0) return false;
        if (_problem.Layer.WType != (int)DType.Int8) return true;
        for (long panel = 0; panel < _shape.Count; panel++)
            for (int lane = 0; lane < SparsePanels.Lanes; lane++)
                if (_shape.SourceRow(_problem.Layer.N, panel, lane) is >= 0 and var row)
                    ((float*)(packed + _shape.ScalesAt))[panel * SparsePanels.Lanes + lane] = scales[row];
        return true;
    }

    private delegate void Panel(long panel, byte* rows);

    /// <summary>Calls with the 16 rows of each panel, [16][KPadded], zeros beyond n and k.</summary>
    private void EachPanel(Panel body)
    {
        long row = _shape.KPadded * _shape.Element, bytes = row * SparsePanels.Lanes;
        if (_shape.Blocks == 0) return;
        Parallel.For(0L, _shape.Count, () => (nint)NativeMemory.Alloc((nuint)bytes), (panel, _, memory) =>
        {
            NativeMemory.Clear((void*)memory, (nuint)bytes);
            for (int lane = 0; lane < SparsePanels.Lanes; lane++)
                if (_shape.SourceRow(_problem.Layer.N, panel, lane) is >= 0 and var source) _rows(source, (byte*)memory + lane * row);
            body(panel, (byte*)memory);
            return memory;
        }, memory => NativeMemory.Free((void*)memory));
    }

    private void Count(long panel, byte* rows)
    {
        for (long block = 0; block < _shape.Blocks; block++)
        {
            long count = 0, end = Math.Min((block + 1) * SparsePanels.Block, _shape.KPadded);
            for (long k = block * SparsePanels.Block; k < end; k += _shape.Step) count += BitOperations.PopCount(Operand(rows, k));
            _offsets[panel * _shape.Blocks + block] = count;
        }
    }

    private ulong Operand(byte* rows, long k)
    {
        ulong bits = 0;
        for (int lane = 0; lane < SparsePanels.Lanes; lane++)
            for (int i = 0; i < _shape.Step; i++)
                if (At(rows, lane, k + i) != 0) bits |= 1UL << (lane * _shape.Step + i);
        return bits;
    }

    private uint At(byte* rows, int lane, long k)
    {
        byte* at = rows + (lane * _shape.KPadded + k) * _shape.Element;
        return _shape.Element switch { 4 => *(uint*)at, 2 => *(ushort*)at, _ => *at };
    }

    private bool WritePanel(long panel, byte* rows, byte* packed)
    {
        byte* to = packed + _shape.ValuesAt + _offsets[panel * _shape.Blocks] * _shape.Element;
        byte* bitmap = packed + _shape.BitsAt + panel * _shape.KPadded * 2;
        int* sums = (int*)(packed + _shape.SumsAt) + panel * SparsePanels.Lanes;
        long left = 0;  // values of the block
        for (long k = 0; k < _shape.KPadded; k += _shape.Step)
        {
            if (k % SparsePanels.Block == 0)
            {
                if (left != 0) return false;
                long block = panel * _shape.Blocks + k / SparsePanels.Block;
                left = _offsets[block + 1] - _offsets[block];
            }
            ulong bits = Operand(rows, k);
            if ((left -= BitOperations.PopCount(bits)) < 0) return false;
            for (int i = 0; i < 2 * _shape.Step; i++) bitmap[k * 2 + i] = (byte)(bits >> (8 * i));
            for (; bits != 0; bits &= bits - 1, to += _shape.Element)
            {
                int at = BitOperations.TrailingZeroCount(bits), lane = at / _shape.Step;
                uint value = At(rows, lane, k + at % _shape.Step);
                if (_shape.Element == 4) *(uint*)to = value;
                else if (_shape.Element == 2) *(ushort*)to = (ushort)value;
                else *to = (byte)value;
                if (_shape.Element == 1) sums[lane] += (sbyte)value;
            }
        }
        return left == 0;
    }
}
