using System.Numerics;

namespace Kernels;

/// <summary>
/// The Matrix Market exchange format (Boisvert, Pozo, Remington, NISTIR 5935): coordinate and array; real, integer and pattern;
/// general, symmetric and skew-symmetric. Complex and hermitian files are refused. Symmetric files are expanded, entries at
/// equal places added, explicit zeros kept; of an array the zeros are left out. What is beyond the range of float or double is read as infinity.
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

    /// <summary>Writes a matrix; a pattern where it has no values. Numbers are read back as the same bits; of an array the zeros are not read back.</summary>
    /// <param name="stream">Stays open.</param>
    /// <param name="matrix">In the host's memory.</param>
    /// <param name="comment">Lines after the header.</param>
    /// <param name="format">Entries, or all places; a pattern has entries alone.</param>
    /// <param name="symmetry">General, or what <paramref name="matrix"/> is: of others nothing is written.</param>
    /// <exception cref="KernelsException">A matrix that is not what <paramref name="symmetry"/> says, with the place; or an array of a pattern.</exception>
    public static void Write<T>(System.IO.Stream stream, CsrMatrix<T> matrix, string? comment = null, MatrixMarketFormat format = MatrixMarketFormat.Coordinate,
        MatrixMarketSymmetry symmetry = MatrixMarketSymmetry.General) where T : unmanaged, INumber<T>
    {
        ArgumentNullException.ThrowIfNull(stream);
        ArgumentNullException.ThrowIfNull(matrix);
        using var writer = new MatrixMarketWriter<T>(matrix, format, symmetry);
        writer.Write(stream, comment);
    }

    /// <summary>Writes a file, as the other overload does; none is made or changed where the matrix is refused.</summary>
    /// <exception cref="KernelsException">A matrix that is not what <paramref name="symmetry"/> says, with the place; or an array of a pattern.</exception>
    public static void Write<T>(string path, CsrMatrix<T> matrix, string? comment = null, MatrixMarketFormat format = MatrixMarketFormat.Coordinate,
        MatrixMarketSymmetry symmetry = MatrixMarketSymmetry.General) where T : unmanaged, INumber<T>
    {
        ArgumentNullException.ThrowIfNull(matrix);
        using var writer = new MatrixMarketWriter<T>(matrix, format, symmetry);
        using FileStream file = File.Create(path);
        writer.Write(file, comment);
    }
}
