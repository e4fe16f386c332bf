using System.Globalization;
using System.Numerics;
using System.Runtime.InteropServices;

namespace Kernels;

/// <summary>Reads one Matrix Market stream. Lines are split in place, so that a value costs no allocation.</summary>
internal sealed class MatrixMarketReader<T>(System.IO.Stream stream) where T : unmanaged, INumber<T>
{
    private enum Symmetry { General, Symmetric, Skew }

    // A line is a few numbers, or a comment: what is longer is no Matrix Market file.
    private const int LongestLine = 1 << 16;
    private const long RowsAnyway = 1 << 24, RowsPerEntry = 1024;

    private readonly byte[] _buffer = new byte[1 << 17];
    private readonly List<int> _rows = [], _columns = [];
    private readonly List<T> _values = [];
    private int _begin, _end;
    private bool _done;
    private long _line;

    private bool _array, _pattern, _integer;
    private Symmetry _symmetry;
    private int _side;  // of the diagonal, where the entries of what is symmetric are: 1 below, -1 above, 0 not known yet

    public CsrMatrix<T> Read()
    {
        Header();
        ReadOnlySpan<byte> line = Content();
        if (line.IsEmpty) throw Bad("a size line, not the end");
        long rows = Extent(ref line, "rows"), columns = Extent(ref line, "columns"), entries = 0;
        if (!_array) entries = Count(ref line);
        End(line);
        if (_symmetry != Symmetry.General && rows != columns) throw Bad($"as many rows as columns of what is symmetric, not {rows} x {columns}");
        if (_array) Dense(rows, columns);
        else Coordinates(rows, columns, entries);
        if (!Content().IsEmpty) throw Bad("the end after the last entry");
        // Compressed rows cost 8 bytes each, entries or none: a size line alone must not ask for gigabytes.
        if (rows > RowsAnyway && rows / RowsPerEntry > _rows.Count) throw Bad($"an entry for {RowsPerEntry} rows at least, not {_rows.Count} for {rows}");
        return CooMatrix.Compress<int, T>(rows, columns, CollectionsMarshal.AsSpan(_rows), CollectionsMarshal.AsSpan(_columns), _pattern ? default : CollectionsMarshal.AsSpan(_values));
    }

    private KernelsException Bad(string rule) => new(Status.Invalid, $"line {_line}", rule);

    private void Header()
    {
        if (!Line(out ReadOnlySpan<byte> line)) throw Bad("%%MatrixMarket matrix ..., not an empty file");
        string[] words = System.Text.Encoding.Latin1.GetString(line).ToLowerInvariant().Split((char[])[' ', '\t', '\r'], StringSplitOptions.RemoveEmptyEntries);
        if (words.Length != 5 || words[0] != "%%matrixmarket" || words[1] != "matrix")
            throw Bad("%%MatrixMarket matrix FORMAT FIELD SYMMETRY");
        _array = words[2] switch { "array" => true, "coordinate" => false, _ => throw Bad($"coordinate or array, not {Shown(words[2])}") };
        _pattern = words[3] switch
        {
            "pattern" => true,
            "real" or "integer" or "double" => false,
            "complex" => throw new KernelsException(Status.Unsupported, $"line {_line}", "real, integer or pattern: complex matrices are not read"),
            _ => throw Bad($"real, integer or pattern, not {Shown(words[3])}"),
        };
        _integer = words[3] == "integer";
        _symmetry = words[4] switch
        {
            "general" => Symmetry.General,
            "symmetric" => Symmetry.Symmetric,
            "skew-symmetric" => Symmetry.Skew,
            "hermitian" => throw new KernelsException(Status.Unsupported, $"line {_line}", "general, symmetric or skew-symmetric: hermitian matrices are complex and not read"),
            _ => throw Bad($"general, symmetric or skew-symmetric, not {Shown(words[4])}"),
        };
        if (_pattern && _array) throw Bad("coordinates of a pattern, not an array");
        if (_pattern && _symmetry == Symmetry.Skew) throw Bad("values of what is skew-symmetric, not a pattern");
    }

    private static string Shown(string word) => word.Length <= 40 ? word : word[..40] + "...";

    private void Coordinates(long rows, long columns, long entries)
    {
        for (long e = 0; e < entries; e++)
        {
            ReadOnlySpan<byte> line = Content();
            if (line.IsEmpty) throw Bad($"{entries} entries, as the size line says, not {e}");
            long row = Index(ref line, "row", rows), column = Index(ref line, "column", columns);
            T value = _pattern ? T.One : Value(ref line);
            End(line);
            if (_symmetry == Symmetry.Skew && row == column) throw Bad("nothing on the diagonal of what is skew-symmetric");
            if (_symmetry != Symmetry.General) RequireSide(row, column);
            Add(row, column, value);
        }
    }

    /// <summary>Entries stand for their mirror images: a file that lists both would have each of them twice.</summary>
    private void RequireSide(long row, long column)
    {
        int side = row.CompareTo(column);
        if (side == 0) return;
        if (_side == -side) throw Bad($"entries {(side > 0 ? "above" : "below")} the diagonal alone, as those before, of what is symmetric, not row {row + 1} and column {column + 1}");
        _side = side;
    }

    private void Dense(long rows, long columns)
    {
        for (long column = 0; column < columns; column++)
        {
            long first = _symmetry == Symmetry.General ? 0 : _symmetry == Symmetry.Symmetric ? column : column + 1;
            for (long row = first; row < rows; row++)
            {
                ReadOnlySpan<byte> line = Content();
                if (line.IsEmpty) throw Bad($"a value for every place, not the end before row {row + 1} of column {column + 1}");
                T value = Value(ref line);
                End(line);
                if (!T.IsZero(value)) Add(row, column, value);
            }
        }
    }

    private void Add(long row, long column, T value)
    {
        // CooMatrix numbers entries by 32 bits.
        if (_rows.Count >= Array.MaxLength - 2) throw Bad("less than 2^31 entries");
        One(row, column, value);
        if (_symmetry != Symmetry.General && row != column) One(column, row, _symmetry == Symmetry.Skew ? Negated(value) : value);
    }

    private T Negated(T value)
    {
        try
        {
            return checked(-value);
        }
        catch (OverflowException)
        {
            throw Bad($"a value whose negative is one of {typeof(T).Name}, not {value}");
        }
    }

    private void One(long row, long column, T value)
    {
        _rows.Add((int)row);
        _columns.Add((int)column);
        if (!_pattern) _values.Add(value);
    }

    private long Extent(ref ReadOnlySpan<byte> line, string what)
    {
        long value = Number(ref line, what);
        return value is >= 0 and <= int.MaxValue ? value : throw Bad($"0 <= {what} < 2^31, not {value}");
    }

    private long Count(ref ReadOnlySpan<byte> line)
    {
        long value = Number(ref line, "number of entries");
        return value >= 0 ? value : throw Bad($"0 <= number of entries, not {value}");
    }

    private long Index(ref ReadOnlySpan<byte> line, string what, long extent)
    {
        long value = Number(ref line, what);
        return value >= 1 && value <= extent ? value - 1 : throw Bad($"1 <= {what} <= {extent}, not {value}");
    }

    private long Number(ref ReadOnlySpan<byte> line, string what)
    {
        ReadOnlySpan<byte> word = Word(ref line);
        return long.TryParse(word, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long value) ? value : throw Bad($"a whole number as {what}{Got(word)}");
    }

    private T Value(ref ReadOnlySpan<byte> line)
    {
        ReadOnlySpan<byte> word = Word(ref line);
        if (_integer && (word.IsEmpty || word[(word[0] is (byte)'+' or (byte)'-' ? 1 : 0)..].ContainsAnyExceptInRange((byte)'0', (byte)'9'))) throw Bad($"a whole number, as the header says{Got(word)}");
        if (T.TryParse(word, NumberStyles.Float, CultureInfo.InvariantCulture, out T value)) return value;
        // Fortran writes 1.0D+03.
        if (word.Length is > 0 and < 64 && word.IndexOfAny((byte)'d', (byte)'D') > 0)
        {
            Span<byte> other = stackalloc byte[word.Length];
            word.CopyTo(other);
            other[word.IndexOfAny((byte)'d', (byte)'D')] = (byte)'e';
            if (T.TryParse(other, NumberStyles.Float, CultureInfo.InvariantCulture, out value)) return value;
        }
        // C writes inf.
        string text = System.Text.Encoding.Latin1.GetString(word).ToLowerInvariant();
        double? special = text switch { "inf" or "+inf" => double.PositiveInfinity, "-inf" => double.NegativeInfinity, "nan" or "-nan" => double.NaN, _ => null };
        if (special is { } s && (typeof(T) == typeof(double) || typeof(T) == typeof(float))) return T.CreateSaturating(s);
        throw Bad($"a value of {typeof(T).Name}{Got(word)}");
    }

    private static string Got(ReadOnlySpan<byte> word) => word.IsEmpty ? ", not the end of the line" : $", not {Shown(System.Text.Encoding.Latin1.GetString(word))}";

    private static ReadOnlySpan<byte> Word(ref ReadOnlySpan<byte> line)
    {
        line = line.TrimStart(" \t\r"u8);
        int end = line.IndexOfAny(" \t\r"u8);
        ReadOnlySpan<byte> word = end < 0 ? line : line[..end];
        line = line[word.Length..];
        return word;
    }

    private void End(ReadOnlySpan<byte> line)
    {
        ReadOnlySpan<byte> word = Word(ref line);
        if (!word.IsEmpty) throw Bad($"the end of the line{Got(word)}");
    }

    /// <summary>The next line that is neither empty nor a comment; empty at the end.</summary>
    private ReadOnlySpan<byte> Content()
    {
        while (Line(out ReadOnlySpan<byte> line))
        {
            line = line.Trim(" \t\r"u8);
            if (!line.IsEmpty && line[0] != '%') return line;
        }
        return default;
    }

    private bool Line(out ReadOnlySpan<byte> line)
    {
        _line++;
        for (int looked = _begin; ;)
        {
            int at = _buffer.AsSpan(looked, _end - looked).IndexOf((byte)'\n');
            if (at >= 0)
            {
                line = _buffer.AsSpan(_begin, looked + at - _begin);
                _begin = looked + at + 1;
                return true;
            }
            if (_end - _begin > LongestLine) throw Bad($"at most {LongestLine} characters");
            if (_done)
            {
                line = _buffer.AsSpan(_begin, _end - _begin);
                _begin = _end;
                return line.Length > 0;
            }
            _buffer.AsSpan(_begin, _end - _begin).CopyTo(_buffer);
            (looked, _end, _begin) = (_end - _begin, _end - _begin, 0);
            int read = stream.Read(_buffer, _end, _buffer.Length - _end);
            _done = read == 0;
            _end += read;
        }
    }
}
