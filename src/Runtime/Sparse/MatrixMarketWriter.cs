using System.Globalization;
using System.Numerics;
using System.Text;

namespace Kernels;

/// <summary>How a Matrix Market file lists a matrix.</summary>
public enum MatrixMarketFormat
{
    /// <summary>Its entries, each with row and column.</summary>
    Coordinate,
    /// <summary>All values column by column, places without an entry as 0.</summary>
    Array,
}

/// <summary>What of a matrix a Matrix Market file lists.</summary>
public enum MatrixMarketSymmetry
{
    /// <summary>All of it.</summary>
    General,
    /// <summary>The lower triangle with the diagonal; the upper one has the same entries.</summary>
    Symmetric,
    /// <summary>The lower triangle without a diagonal; the upper one has the negated entries.</summary>
    SkewSymmetric,
}

/// <summary>Writes one matrix, which is held to what the header will say before a byte is written.</summary>
internal sealed unsafe class MatrixMarketWriter<T> : IDisposable where T : unmanaged, INumber<T>
{
    private readonly CsrMatrix<T> _matrix;
    private readonly CsrMatrix<T>? _columns;  // its transpose, where columns are looked at
    private readonly MatrixMarketFormat _format;
    private readonly MatrixMarketSymmetry _symmetry;

    public MatrixMarketWriter(CsrMatrix<T> matrix, MatrixMarketFormat format, MatrixMarketSymmetry symmetry)
    {
        matrix.RequireHost();
        matrix.RequireLiving(nameof(matrix));
        (_matrix, _format, _symmetry) = (matrix, format, symmetry);
        KernelsException.Require(Enum.IsDefined(format), nameof(format), $"a value of the enumeration, not {(int)format}");
        KernelsException.Require(Enum.IsDefined(symmetry), nameof(symmetry), $"a value of the enumeration, not {(int)symmetry}");
        KernelsException.Require(format == MatrixMarketFormat.Coordinate || matrix.HasValues, nameof(format), "coordinates of a pattern, not an array");
        KernelsException.Require(symmetry != MatrixMarketSymmetry.SkewSymmetric || matrix.HasValues, nameof(symmetry), "values of what is skew-symmetric, not a pattern");
        KernelsException.Require(symmetry == MatrixMarketSymmetry.General || matrix.Rows == matrix.Columns, nameof(symmetry),
            $"as many rows as columns of what is symmetric, not {matrix.Rows} x {matrix.Columns}");
        if (format == MatrixMarketFormat.Coordinate && symmetry == MatrixMarketSymmetry.General) return;
        _columns = matrix.Transpose();
        if (symmetry == MatrixMarketSymmetry.General || Unlike(_columns) is not { } rule) return;
        _columns.Dispose();
        throw new KernelsException(Status.Invalid, nameof(symmetry), rule);
    }

    /// <summary>The first place that is not as its mirror image, in words; null where all are.</summary>
    private string? Unlike(CsrMatrix<T> columns)
    {
        bool skew = _symmetry == MatrixMarketSymmetry.SkewSymmetric;
        using CsrMatrix<T> rows = columns.Transpose();  // the matrix with its rows sorted
        for (long i = 0; i < rows.Rows; i++)
        {
            if (rows.OffsetsAt[i + 1] != columns.OffsetsAt[i + 1]) return $"as many entries in row {i} as in column {i}";
            for (long j = rows.OffsetsAt[i]; j < rows.OffsetsAt[i + 1]; j++)
            {
                long c = rows.ColumnAt(j), mirrored = columns.ColumnAt(j);
                if (c != mirrored) return c < mirrored ? $"an entry at [{c}, {i}], as at [{i}, {c}]" : $"an entry at [{i}, {mirrored}], as at [{mirrored}, {i}]";
                if (skew && c == i) return $"nothing on the diagonal of what is skew-symmetric, but [{i}, {i}] is there";
                if (!rows.HasValues) continue;
                T here = rows.ValuesAt[j], there = columns.ValuesAt[j];
                if (!there.Equals(skew ? -here : here)) return string.Create(CultureInfo.InvariantCulture, $"{(skew ? -here : here)} at [{c}, {i}], not {there}");
            }
        }
        return null;
    }

    public void Write(System.IO.Stream stream, string? comment)
    {
        using var writer = new StreamWriter(stream, new UTF8Encoding(false), 1 << 16, leaveOpen: true) { NewLine = "\n" };
        bool integer = typeof(T) == typeof(int) || typeof(T) == typeof(long) || typeof(T) == typeof(short) || typeof(T) == typeof(sbyte) || typeof(T) == typeof(byte);
        string field = !_matrix.HasValues ? "pattern" : integer ? "integer" : "real";
        string symmetry = _symmetry switch { MatrixMarketSymmetry.Symmetric => "symmetric", MatrixMarketSymmetry.SkewSymmetric => "skew-symmetric", _ => "general" };
        bool array = _format == MatrixMarketFormat.Array;
        writer.WriteLine($"%%MatrixMarket matrix {(array ? "array" : "coordinate")} {field} {symmetry}");
        if (comment is not null)
            foreach (string line in comment.Split('\n')) writer.WriteLine($"%{line.TrimEnd('\r')}");
        writer.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{_matrix.Rows} {_matrix.Columns}{(array ? "" : $" {Listed()}")}"));
        for (long c = 0; array && c < _matrix.Columns; c++) WriteColumn(writer, _columns!, c);
        for (long i = 0; !array && i < _matrix.Rows; i++) WriteRow(writer, i);
        GC.KeepAlive(_matrix);
    }

    /// <summary>Whether the file lists a place.</summary>
    private bool Lists(long row, long column) => _symmetry == MatrixMarketSymmetry.General || row > column || (row == column && _symmetry == MatrixMarketSymmetry.Symmetric);

    private long Listed()
    {
        if (_symmetry == MatrixMarketSymmetry.General) return _matrix.NonZeros;
        long count = 0;
        for (long i = 0; i < _matrix.Rows; i++)
            for (long j = _matrix.OffsetsAt[i]; j < _matrix.OffsetsAt[i + 1]; j++)
                if (Lists(i, _matrix.ColumnAt(j))) count++;
        return count;
    }

    private void WriteRow(StreamWriter writer, long i)
    {
        for (long j = _matrix.OffsetsAt[i]; j < _matrix.OffsetsAt[i + 1]; j++)
        {
            if (!Lists(i, _matrix.ColumnAt(j))) continue;
            writer.Write(string.Create(CultureInfo.InvariantCulture, $"{i + 1} {_matrix.ColumnAt(j) + 1}"));
            if (_matrix.HasValues) writer.Write(string.Create(CultureInfo.InvariantCulture, $" {_matrix.ValuesAt[j]}"));
            writer.WriteLine();
        }
    }

    private void WriteColumn(StreamWriter writer, CsrMatrix<T> columns, long c)
    {
        long j = columns.OffsetsAt[c], end = columns.OffsetsAt[c + 1];
        for (long row = 0; row < _matrix.Rows; row++)
        {
            bool there = j < end && columns.ColumnAt(j) == row;
            if (Lists(row, c)) writer.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{(there ? columns.ValuesAt[j] : T.Zero)}"));
            if (there) j++;
        }
    }

    public void Dispose() => _columns?.Dispose();
}
