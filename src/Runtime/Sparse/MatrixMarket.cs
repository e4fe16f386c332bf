using System.Globalization;
using System.Numerics;
using System.Text;

namespace Kernels;

/// <summary>
/// The Matrix Market exchange format (Boisvert, Pozo, Remington, NISTIR 5935): coordinate and array; real, integer and pattern;
/// general, symmetric and skew-symmetric. Complex and hermitian files are refused. Symmetric files are expanded, entries at
/// equal places added, explicit zeros kept; of an array the zeros are left out.
/// </summary>
public static class MatrixMarket
{
    /// <summary>Reads a file.</summary>
    /// <exception cref="KernelsException">What is wrong, with the number of the line.</exception>
    public static CsrMatrix<T> Read<T>(string path) where T : unmanaged, INumber<T>
    {
        using FileStream file = File.OpenRead(path);
        return Read<T>(file);
    }

    /// <summary>Reads a stream line by line; memory grows with what is there, not with what the size line announces.</summary>
    /// <exception cref="KernelsException">What is wrong, with the number of the line.</exception>
    public static CsrMatrix<T> Read<T>(System.IO.Stream stream) where T : unmanaged, INumber<T>
    {
        ArgumentNullException.ThrowIfNull(stream);
        return new MatrixMarketReader<T>(stream).Read();
    }

    /// <summary>Writes a matrix in coordinates, general; a pattern where it has no values. Numbers are read back as the same bits.</summary>
    public static void Write<T>(System.IO.Stream stream, CsrMatrix<T> matrix, string? comment = null) where T : unmanaged, INumber<T>
    {
        ArgumentNullException.ThrowIfNull(stream);
        ArgumentNullException.ThrowIfNull(matrix);
        matrix.RequireHost();
        using var writer = new StreamWriter(stream, new UTF8Encoding(false), 1 << 16, leaveOpen: true) { NewLine = "\n" };
        bool integer = typeof(T) == typeof(int) || typeof(T) == typeof(long) || typeof(T) == typeof(short) || typeof(T) == typeof(sbyte) || typeof(T) == typeof(byte);
        writer.WriteLine($"%%MatrixMarket matrix coordinate {(!matrix.HasValues ? "pattern" : integer ? "integer" : "real")} general");
        if (comment is not null)
            foreach (string line in comment.Split('\n')) writer.WriteLine($"%{line.TrimEnd('\r')}");
        writer.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{matrix.Rows} {matrix.Columns} {matrix.NonZeros}"));
        for (long i = 0; i < matrix.Rows; i++) WriteRow(writer, matrix, i);
    }

    /// <summary>Writes a file.</summary>
    public static void Write<T>(string path, CsrMatrix<T> matrix, string? comment = null) where T : unmanaged, INumber<T>
    {
        using FileStream file = File.Create(path);
        Write(file, matrix, comment);
    }

    private static unsafe void WriteRow<T>(StreamWriter writer, CsrMatrix<T> matrix, long i) where T : unmanaged, INumber<T>
    {
        for (long j = matrix.OffsetsAt[i]; j < matrix.OffsetsAt[i + 1]; j++)
        {
            writer.Write(string.Create(CultureInfo.InvariantCulture, $"{i + 1} {matrix.ColumnAt(j) + 1}"));
            if (matrix.HasValues) writer.Write(string.Create(CultureInfo.InvariantCulture, $" {matrix.ValuesAt[j]}"));
            writer.WriteLine();
        }
    }
}
