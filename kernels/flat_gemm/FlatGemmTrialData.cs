using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>The operands of a trial: how they are made, changed, decoded and compared.</summary>
internal unsafe partial class FlatGemmTrial
{
    private const byte Gap = 0xa5, Unwritten = 0xff;

    /// <summary>Puts one element of x in place of what is there, before the first Check. s8 takes integers.</summary>
    public void SetX(int row, int i, float value) => Encode((DType)_problem->XType, _args.X, row * _args.Ldx + i, value);

    /// <summary>Likewise one element of w, before Prepare.</summary>
    public void SetW(int row, int i, float value) => Encode((DType)_problem->WType, _args.W, row * _args.Ldw + i, value);

    /// <summary>Likewise one scale of a row of w, before Prepare.</summary>
    public void SetScale(int row, int group, float value) => _args.Scales[row * Groups + group] = value;

    /// <summary>Makes rows i of x, its scales and the residual those of row i mod `period`, before the first Check.</summary>
    public void Repeat(int period)
    {
        for (int i = period; i < _problem->M; i++)
        {
            int from = i % period;
            CopyRow(_args.X, i, from, _args.Ldx, _problem->K, (DType)_problem->XType);
            if (_args.XScales != null) _args.XScales[i] = _args.XScales[from];
            if (_residual is not null) CopyRow(_residual.At, i, from, _args.Ldr, _problem->N, (DType)_problem->YType);
        }
        Poison();
    }

    /// <summary>Makes every element of y NaN, or the residual where that is in place, and marks the gaps: what a run must overwrite or leave.</summary>
    public void Poison()
    {
        _y.Fill(Gap);
        var type = (DType)_problem->YType;
        bool inPlace = _residual is not null && _args.Residual == _args.Y;
        for (long r = 0; r < _problem->M; r++)
        {
            long at = r * _args.Ldy * type.Bits() / 8, bytes = (long)_problem->N * type.Bits() / 8;
            if (inPlace) Buffer.MemoryCopy(_residual!.At + at, _y.At + at, bytes, bytes);
            else new Span<byte>(_y.At + at, (int)bytes).Fill(Unwritten);
        }
    }

    /// <summary>The first thing that the last run touched and must not have, or null.</summary>
    private string? Touched(int m)
    {
        if (!_y.Untouched(_y.Bytes)) return "y was written outside of its ends";
        if (_residual is not null && !_residual.Untouched(_residual.Bytes)) return "the residual was written";
        if (!_x.Untouched(_x.Bytes) || !_w.Untouched(_w.Bytes)) return "x or w was written";
        if (_last is { } last && last == _guarded && !_workspace.Untouched(last.WorkspaceBytes))
            return $"the workspace was written outside of its {last.WorkspaceBytes} bytes";
        foreach ((string layout, GuardedMemory[] copies) in _packed)
            foreach (GuardedMemory copy in copies)
                if (!copy.Untouched(copy.Bytes)) return $"packed weights ({layout}) were written outside of their {copy.Bytes} bytes";
        var type = (DType)_problem->YType;
        int width = _problem->N * type.Bits() / 8;
        bool inPlace = _residual is not null && _args.Residual == _args.Y;
        for (int r = 0; r < _problem->M && width > 0; r++)
        {
            byte* at = _y.At + r * _args.Ldy * type.Bits() / 8;
            int gap = r == _problem->M - 1 ? 0 : (int)(_args.Ldy * type.Bits() / 8) - width;
            if (new ReadOnlySpan<byte>(at + width, gap).IndexOfAnyExcept(Gap) >= 0) return $"y was written behind row {r}";
            if (r < m) continue;
            var row = new ReadOnlySpan<byte>(at, width);
            bool kept = inPlace
                ? row.SequenceEqual(new ReadOnlySpan<byte>(_residual!.At + r * _args.Ldr * type.Bits() / 8, width))
                : row.IndexOfAnyExcept(Unwritten) < 0;
            if (!kept) return $"row {r} of y was written in a call of {m} rows";
        }
        return null;
    }

    private Expected[] Expect()
    {
        KnFlatGemmProblem p = *_problem;
        int k = p.K;
        var expected = new Expected[_rows.Length * _columns.Length];
        var x = new double[(long)_rows.Length * k];
        for (int i = 0; i < _rows.Length; i++)
            for (int j = 0; j < k; j++)
            {
                double scale = _args.XScales == null ? 1 : _args.XScales[_rows[i]];
                x[(long)i * k + j] = Reads(j) ? scale * Decode((DType)p.XType, _args.X, _rows[i] * _args.Ldx + j) : 0;
            }
        var gate = new double[k];
        double[] up = Has(KnGemmFlags.Gated) ? new double[k] : [];
        for (int j = 0; j < _columns.Length; j++)
        {
            int column = _columns[j], upper = column + p.N;
            DecodeWeights(column, gate);
            if (Has(KnGemmFlags.Gated)) DecodeWeights(upper, up);
            double bias = _args.Bias == null ? 0 : _args.Bias[column];
            double upBias = _args.Bias == null || !Has(KnGemmFlags.Gated) ? 0 : _args.Bias[upper];
            for (int i = 0; i < _rows.Length; i++)
            {
                double residual = _residual is null ? 0 : Decode((DType)p.YType, _residual.At, _rows[i] * _args.Ldr + column);
                var row = new ReadOnlySpan<double>(x, i * k, k);
                expected[i * _columns.Length + j] = Computes(column)
                    ? FlatGemmOracle.Element(p, row, gate, up, bias, upBias, residual) : new Expected(residual, 0, Outcome.Finite);
            }
        }
        return expected;
    }

    private void DecodeWeights(long row, double[] to)
    {
        var type = (DType)_problem->WType;
        for (int i = 0; i < to.Length; i++)
        {
            double q = Decode(type, _args.W, row * _args.Ldw + i);
            if (type == DType.UInt4)
            {
                long group = row * Groups + i / _problem->Group;
                q = (q - (_args.Zeros == null ? 8 : _args.Zeros[group])) * _args.Scales[group];
            }
            else if (type == DType.Int8)
            {
                q *= _args.Scales[row];
            }
            to[i] = q;
        }
    }

    private protected static double Decode(DType type, void* at, long i) => type switch
    {
        DType.Float32 => ((float*)at)[i],
        DType.BFloat16 => (float)((BFloat16*)at)[i],
        DType.Float16 => (double)((Half*)at)[i],
        DType.Int8 => ((sbyte*)at)[i],
        _ => ((byte*)at)[i >> 1] >> (int)(i & 1) * 4 & 15,
    };

    private static void Encode(DType type, void* at, long i, float value)
    {
        switch (type)
        {
            case DType.Float32: ((float*)at)[i] = value; break;
            case DType.BFloat16: ((BFloat16*)at)[i] = (BFloat16)value; break;
            case DType.Float16: ((Half*)at)[i] = (Half)value; break;
            case DType.Int8: ((sbyte*)at)[i] = (sbyte)value; break;
            default: throw new ArgumentException("u4 has no elements of its own");
        }
    }

    private static void CopyRow(void* at, int to, int from, long ld, long columns, DType type)
    {
        long stride = ld * type.Bits() / 8, bytes = columns * type.Bits() / 8;
        Buffer.MemoryCopy((byte*)at + from * stride, (byte*)at + to * stride, bytes, bytes);
    }

    // Ends with its last element, not with the stride, so that the band starts where reading must stop.
    private GuardedMemory Matrix(DType type, long rows, long columns, long ld, ulong seed, int exponent, byte band)
    {
        long bytes = rows == 0 || columns == 0 ? 0 : (((rows - 1) * ld + columns) * type.Bits() + 7) / 8;
        var memory = new GuardedMemory(bytes, band);
        _owned.Add(memory);
        new TrialRandom(seed).Fill(type, memory.At, bytes, exponent);
        memory.EndAt(bytes);
        if (bytes == 0 || ld == columns) return memory;
        for (long r = 0; r + 1 < rows; r++)
        {
            byte* gap = memory.At + (r * ld + columns) * type.Bits() / 8 + (type == DType.UInt4 && columns % 2 != 0 ? 1 : 0);
            byte* next = memory.At + (r + 1) * ld * type.Bits() / 8;
            new Span<byte>(gap, (int)(next - gap)).Fill(Unwritten);
        }
        return memory;
    }

    private float* Floats(long count, ulong seed, float low, float high, int exponent)
    {
        var memory = new GuardedMemory(count * 4, 0xff);
        _owned.Add(memory);
        var random = new TrialRandom(seed);
        float scale = MathF.ScaleB(1, exponent);
        for (long i = 0; i < count; i++) ((float*)memory.At)[i] = scale * random.Uniform(low, high);
        return (float*)memory.At;
    }

    private byte* ZeroPoints(long count, ulong seed)
    {
        var memory = new GuardedMemory(count, 0xff);
        _owned.Add(memory);
        var random = new TrialRandom(seed);
        for (long i = 0; i < count; i++) memory.At[i] = (byte)(random.Next() >> 60);
        return memory.At;
    }

    private static int[] Sample(int count, int wanted, ref TrialRandom random)
    {
        if (wanted == 0 || wanted >= count) return [.. Enumerable.Range(0, count)];
        // The first and the last are where blocks begin and end.
        var chosen = new SortedSet<int> { 0, count - 1 };
        while (chosen.Count < Math.Max(wanted, 2)) chosen.Add((int)(random.Next() % (ulong)count));
        return [.. chosen];
    }

    private KnStatus Pack(Row row, long bytes, out GuardedMemory[] packed)
    {
        packed = new GuardedMemory[_copies];
        for (int i = 0; i < _copies; i++)
        {
            _owned.Add(packed[i] = new GuardedMemory(bytes));
            if (i > 0) Buffer.MemoryCopy(packed[0].At, packed[i].At, bytes, bytes);
            if (i > 0) continue;
            packed[0].Fill(Unwritten);
            KnFlatGemmArgs args = _args;
            args.Packed = packed[0].At;
            args.PackedBytes = bytes;
            KnStatus status = PackRow(row, args);
            if (status != KnStatus.Ok) return status;
        }
        return KnStatus.Ok;
    }

    private void CopyWeights()
    {
        if (_raw is not null) return;
        _raw = new GuardedMemory[_copies - 1];
        for (int i = 0; i < _raw.Length; i++)
        {
            _owned.Add(_raw[i] = new GuardedMemory(_w.Bytes, 0xff));
            Buffer.MemoryCopy(_w.At, _raw[i].At, _w.Bytes, _w.Bytes);
        }
    }
}
