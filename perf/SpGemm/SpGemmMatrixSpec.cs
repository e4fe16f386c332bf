using System.Globalization;

namespace Kernels.Perf;

/// <summary>A matrix by name: "rmat:14:16" is generated, "file:PATH" is read. Made once and kept.</summary>
internal static class SpGemmMatrixSpec
{
    private const ulong Seed = 1;
    private static readonly Dictionary<string, (SparseStructure Structure, double[]? Values)> s_made = [];

    public const string Help = "rmat:SCALE:EDGES, laplace2d:SIDE, laplace3d:SIDE, uniform:ROWS:PER_ROW, banded:NODES:UNKNOWNS:NEAR, powerlaw:ROWS:DEGREE, file:PATH of a .mtx file or a folder of them";

    public static SparseStructure Structure(string spec) => Make(spec).Structure;

    private static (SparseStructure Structure, double[]? Values) Make(string spec)
    {
        if (s_made.TryGetValue(spec, out var made)) return made;
        return s_made[spec] = spec.StartsWith("file:", StringComparison.Ordinal) ? Load(spec[5..]) : (Generate(spec), null);
    }

    private static (SparseStructure, double[]?) Load(string path)
    {
        if (!File.Exists(path)) throw new UsageException($"--matrix file:{path}: no such file");
        using CsrMatrix<double> x = Read(path);
        if (!x.HasValues) Screen.Note($"{path} is a pattern: it gets values from 1 to 2");
        return (new SparseStructure(x.Rows, x.Columns, x.RowOffsets.ToArray(), x.ColumnIndices.ToArray()), x.HasValues ? x.Values.ToArray() : null);
    }

    private static CsrMatrix<double> Read(string path)
    {
        try
        {
            return MatrixMarket.Read<double>(path);
        }
        catch (KernelsException e)
        {
            throw new UsageException($"--matrix file:{path}: {e.Message}");
        }
    }

    private static SparseStructure Generate(string spec)
    {
        string[] parts = spec.Split(':');
        int Number(int i, int most) => i < parts.Length && int.TryParse(parts[i], NumberStyles.None, CultureInfo.InvariantCulture, out int value) && value >= 1 && value <= most
            ? value : throw new UsageException($"--matrix {spec}: {Help}; number {i} is from 1 to {most}");
        SparseStructure made = parts[0] switch
        {
            "rmat" => SpGemmMatrices.Rmat(Number(1, 24), Number(2, 64), Seed),
            "laplace2d" => SpGemmMatrices.Laplace2D(Number(1, 10_000)),
            "laplace3d" => SpGemmMatrices.Laplace3D(Number(1, 500)),
            "uniform" => SpGemmMatrices.Uniform(Number(1, 1 << 27), Number(1, 1 << 27), Number(2, 1024), Seed),
            "banded" => SpGemmMatrices.Banded(Number(1, 1 << 24), Number(2, 16), Number(3, 256), Seed),
            "powerlaw" => SpGemmMatrices.PowerLaw(Number(1, 1 << 24), Number(2, 64), Seed),
            _ => throw new UsageException($"--matrix {spec}: {Help}"),
        };
        int numbers = parts[0] switch { "laplace2d" or "laplace3d" => 1, "banded" => 3, _ => 2 };
        return parts.Length == numbers + 1 ? made : throw new UsageException($"--matrix {spec}: {Help}");
    }

    /// <summary>With the values of its file, else values of size one to two in a fixed order: sums of those do not cancel, and their rounding shows.</summary>
    public static CsrMatrix<T> Matrix<T>(string spec, int indexBits) where T : unmanaged, System.Numerics.INumber<T>
    {
        (SparseStructure s, double[]? known) = Make(spec);
        var values = new T[s.NonZeros];
        for (long j = 0; j < values.Length; j++) values[j] = T.CreateChecked(known is null ? 1 + j % 89 / 89.0 : known[j]);
        return indexBits == 32 ? CsrMatrix.Create<T>(s.Rows, s.Columns, s.Offsets, s.Indices, values)
            : CsrMatrix.Create<T>(s.Rows, s.Columns, s.Offsets, Array.ConvertAll(s.Indices, c => (long)c), values);
    }

    /// <summary>The entries that are not 0: where a valued mask counts.</summary>
    public static CsrMatrix<T> NotZero<T>(CsrMatrix<T> a) where T : unmanaged, System.Numerics.INumber<T>
    {
        var offsets = new long[a.Rows + 1];
        var indices = new List<long>();
        var values = new List<T>();
        for (int i = 0; i < a.Rows; i++)
        {
            for (long j = a.RowOffsets[i]; j < a.RowOffsets[i + 1]; j++)
            {
                if (T.IsZero(a.Values[(int)j])) continue;
                indices.Add(a.ColumnAt(j));
                values.Add(a.Values[(int)j]);
            }
            offsets[i + 1] = indices.Count;
        }
        return a.IndexBits == 64 ? CsrMatrix.Create<T>(a.Rows, a.Columns, offsets, indices.ToArray(), values.ToArray())
            : CsrMatrix.Create<T>(a.Rows, a.Columns, offsets, indices.ConvertAll(c => (int)c).ToArray(), values.ToArray());
    }
}
