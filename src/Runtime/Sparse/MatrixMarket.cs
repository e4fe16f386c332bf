using System.Numerics;

namespace Kernels;

/// <summary>
/// The Matrix Market exchange format (Boisvert, Pozo, Remington, NISTIR 5935): coordinate and array; real, integer and pattern;
/// general, symmetric and skew-symmetric. Complex and hermitian files are refused. Symmetric files are expanded, entries at
/// equal places added, explicit zeros kept; of an array the zeros are left out. What is beyond the range of float or double is read as infinity.
/// Of a symmetric matrix the format lists what is on the diagonal and below it; a file that lists all of the rest above instead is read, too.
/// </summary>
public static class MatrixMarket
{
    /// <summary>Reads a file, as the other overload reads a stream.</summary>
    /// <exception cref="KernelsException">What is wrong, with the number of the line; of a sum that <typeparamref name="T"/> does not hold with its place.</exception>
    public static CsrMatrix<T> Read<T>(string path) where T : unmanaged, INumber<T>
    {
        using FileStream file = File.OpenRead(path);
        return Read<T>(file);
    }

    /// <summary>
    /// Reads a stream line by line; memory grows with what is there, not with what the size line announces. Entries of a symmetric or skew-symmetric file are on one
    /// side of the diagonal, or on it: one on the other side is refused, since a file that lists both would come out doubled, or as 0.
    /// </summary>
    /// <exception cref="KernelsException">What is wrong, with the number of the line; of a sum that <typeparamref name="T"/> does not hold with its place.</exception>
    public static CsrMatrix<T> Read<T>(System.IO.Stream stream) where T : unmanaged, INumber<T>
    {
        ArgumentNullException.ThrowIfNull(stream);
        return new MatrixMarketReader<T>(stream).Read();
    }

    /// <summary>
    /// Writes a matrix; a pattern where it has no values. Numbers are read back as the same bits, but a NaN as any NaN, and a zero above the diagonal of what is
    /// symmetric or skew-symmetric with the sign that its mirror image gives it. Of an array the zeros are not read back.
    /// </summary>
    /// <param name="stream">Stays open.</param>
    /// <param name="matrix">In the host's memory.</param>
    /// <param name="comment">Lines after the header.</param>
    /// <param name="format">Entries, or all places; a pattern has entries alone.</param>
    /// <param name="symmetry">General, or what <paramref name="matrix"/> is: of others nothing is written.</param>
    /// <exception cref="KernelsException">A matrix that is not what <paramref name="symmetry"/> says, with the place; an array of a pattern; or a matrix that was disposed.</exception>
    public static void Write<T>(System.IO.Stream stream, CsrMatrix<T> matrix, string? comment = null, MatrixMarketFormat format = MatrixMarketFormat.Coordinate,
        MatrixMarketSymmetry symmetry = MatrixMarketSymmetry.General) where T : unmanaged, INumber<T>
    {
        ArgumentNullException.ThrowIfNull(stream);
        ArgumentNullException.ThrowIfNull(matrix);
        using var writer = new MatrixMarketWriter<T>(matrix, format, symmetry);
        writer.Write(stream, comment);
    }

    /// <summary>Writes a file, as the other overload does; none is made or changed where the matrix is refused.</summary>
    /// <exception cref="KernelsException">A matrix that is not what <paramref name="symmetry"/> says, with the place; an array of a pattern; or a matrix that was disposed.</exception>
    public static void Write<T>(string path, CsrMatrix<T> matrix, string? comment = null, MatrixMarketFormat format = MatrixMarketFormat.Coordinate,
        MatrixMarketSymmetry symmetry = MatrixMarketSymmetry.General) where T : unmanaged, INumber<T>
    {
        ArgumentNullException.ThrowIfNull(matrix);
        using var writer = new MatrixMarketWriter<T>(matrix, format, symmetry);
        using FileStream file = File.Create(path);
        writer.Write(file, comment);
    }
}
