namespace Kernels.Perf;

/// <summary>What is measured where no matrix is named: the files that are there, and matrices that are made by rule.</summary>
internal static class SpGemmSuite
{
    /// <summary>R-MAT with fewer edges a node the larger it is: C must fit.</summary>
    public static readonly string[] Generated =
    [
        "rmat:14:16", "rmat:15:8", "rmat:16:4", "rmat:17:4", "rmat:18:3", "laplace2d:500", "laplace2d:1000", "laplace3d:60", "laplace3d:100",
        "banded:10000:3:5", "banded:5000:6:3", "uniform:100000:8", "powerlaw:50000:8",
    ];

    private const string Variable = "KN_MATRICES";

    public static string Help => $"the *.mtx of ${Variable}, else of ../shared/data/matrices beside the repository, and {string.Join(",", Generated)}, each A·A and A·Aᵀ";

    public static IReadOnlyList<string> Matrices()
    {
        string? root = AppContext.BaseDirectory;
        while (root is not null && !File.Exists(Path.Combine(root, "Kernels.sln"))) root = Path.GetDirectoryName(root);
        string folder = Environment.GetEnvironmentVariable(Variable) ?? Path.GetFullPath(Path.Combine(root ?? ".", "..", "shared", "data", "matrices"));
        if (Directory.Exists(folder)) return [.. Files(folder), .. Generated];
        Screen.Note($"files are left out: {folder} is not there; {Variable} names another folder of .mtx files, and --matrix file:PATH one file");
        return Generated;
    }

    /// <summary>"file:PATH" of a folder is every .mtx in it.</summary>
    public static IEnumerable<string> Expand(string spec) => spec.StartsWith("file:", StringComparison.Ordinal) && Directory.Exists(spec[5..]) ? Files(spec[5..]) : [spec];

    private static IEnumerable<string> Files(string folder)
    {
        string[] files = [.. Directory.EnumerateFiles(folder, "*.mtx").Order(StringComparer.Ordinal)];
        return files.Length > 0 ? files.Select(f => $"file:{f}") : throw new UsageException($"--matrix file:{folder}: no .mtx is there");
    }
}
