using Kernels.Tuning;

namespace Kernels;

/// <summary>Where the entries of a generated matrix are: CSR, columns of a row ascending and distinct.</summary>
internal sealed record SparseStructure(long Rows, long Columns, long[] Offsets, int[] Indices)
{
    public long NonZeros => Offsets[Rows];
}

/// <summary>Matrices that tests and measurements make themselves, by rules that give the same one everywhere.</summary>
internal static class SpGemmMatrices
{
    /// <summary>Collects rows; columns of a row may come in any order and more than once.</summary>
    private static SparseStructure Collect(long rows, long columns, Action<long, List<int>> row)
    {
        var offsets = new long[rows + 1];
        var indices = new List<int>();
        var current = new List<int>();
        for (long i = 0; i < rows; i++)
        {
            current.Clear();
            row(i, current);
            current.Sort();
            int last = -1;
            foreach (int c in current)
            {
                if (c != last) indices.Add(c);
                last = c;
            }
            offsets[i + 1] = indices.Count;
        }
        return new SparseStructure(rows, columns, offsets, [.. indices]);
    }

    public static SparseStructure Empty(long rows, long columns) => new(rows, columns, new long[rows + 1], []);

    public static SparseStructure Identity(int n) => Collect(n, n, (i, row) => row.Add((int)i));

    /// <summary>One entry a row and a column.</summary>
    public static SparseStructure Permutation(int n, ulong seed)
    {
        int[] to = [.. Enumerable.Range(0, n)];
        var random = new TrialRandom(seed);
        for (int i = n - 1; i > 0; i--)
        {
            int j = (int)(random.Next() % (ulong)(i + 1));
            (to[i], to[j]) = (to[j], to[i]);
        }
        return Collect(n, n, (i, row) => row.Add(to[i]));
    }

    /// <summary>Entry (i, i mod columns).</summary>
    public static SparseStructure Cyclic(int rows, int columns) => Collect(rows, columns, (i, row) => row.Add((int)(i % columns)));

    /// <summary>Two rows of a window's five and a little less: one of the last fifth of the columns, one of the first. Shared by columns, most of each is in one share.</summary>
    public static SparseStructure Ends(int window) => Collect(2, 25 * window, (i, row) => row.AddRange(Enumerable.Range(i == 0 ? 20 * window : 0, 5 * window - (i == 0 ? 100 : 0))));

    /// <summary>Every row draws <paramref name="perRow"/> columns; equal draws are one entry.</summary>
    public static SparseStructure Uniform(long rows, long columns, int perRow, ulong seed)
    {
        var random = new TrialRandom(seed);
        return Collect(rows, columns, (_, row) =>
        {
            for (int j = 0; j < perRow && columns > 0; j++) row.Add((int)(random.Next() % (ulong)columns));
        });
    }

    /// <summary>R-MAT (Chakrabarti, Zhan, Faloutsos 2004) with the probabilities of Graph500: .57 .19 .19 .05.</summary>
    public static SparseStructure Rmat(int scale, int edgeFactor, ulong seed)
    {
        int n = 1 << scale;
        var random = new TrialRandom(seed);
        var rows = new List<int>[n];
        for (long e = 0; e < (long)n * edgeFactor; e++)
        {
            int r = 0, c = 0;
            for (int bit = 0; bit < scale; bit++)
            {
                double x = (random.Next() >> 11) * (1.0 / (1L << 53));
                r = 2 * r + (x >= 0.76 ? 1 : 0);
                c = 2 * c + (x is >= 0.57 and < 0.76 or >= 0.95 ? 1 : 0);
            }
            (rows[r] ??= []).Add(c);
        }
        return Collect(n, n, (i, row) => row.AddRange(rows[i] ?? []));
    }

    /// <summary>Row i has the columns i + <paramref name="offsets"/>[i modulo their count] that there are.</summary>
    public static SparseStructure Stencils(int n, params int[][] offsets) =>
        Collect(n, n, (i, row) => row.AddRange(offsets[i % offsets.Length].Select(o => (int)i + o).Where(c => c >= 0 && c < n)));

    /// <summary>Five-point stencil on a square of side <paramref name="side"/>.</summary>
    public static SparseStructure Laplace2D(int side) => Collect((long)side * side, (long)side * side, (i, row) =>
    {
        long x = i % side, y = i / side;
        if (y > 0) row.Add((int)(i - side));
        if (x > 0) row.Add((int)(i - 1));
        row.Add((int)i);
        if (x < side - 1) row.Add((int)(i + 1));
        if (y < side - 1) row.Add((int)(i + side));
    });

    /// <summary>Seven-point stencil on a cube of side <paramref name="side"/>.</summary>
    public static SparseStructure Laplace3D(int side)
    {
        long plane = (long)side * side;
        return Collect(plane * side, plane * side, (i, row) =>
        {
            long x = i % side, y = i / side % side, z = i / plane;
            row.Add((int)i);
            if (x > 0) row.Add((int)(i - 1));
            if (x < side - 1) row.Add((int)(i + 1));
            if (y > 0) row.Add((int)(i - side));
            if (y < side - 1) row.Add((int)(i + side));
            if (z > 0) row.Add((int)(i - plane));
            if (z < side - 1) row.Add((int)(i + plane));
        });
    }

    /// <summary>
    /// Like a finite-element matrix: nodes of <paramref name="block"/> unknowns, each coupled with its neighbours up to
    /// <paramref name="near"/> away and with some up to sixteen times as far.
    /// </summary>
    public static SparseStructure Banded(int nodes, int block, int near, ulong seed) => Collect((long)nodes * block, (long)nodes * block, (i, row) =>
    {
        long node = i / block;
        var random = new TrialRandom(seed + (ulong)node);
        for (long j = -near; j <= 2 * near; j++)
        {
            long other = node + (j <= near ? j : (long)(random.Next() % (ulong)(32 * near + 1)) - 16 * near);
            if (other < 0 || other >= nodes) continue;
            for (int b = 0; b < block; b++) row.Add((int)(other * block + b));
        }
    });

    /// <summary>Row i has about degree * (n / (i + 1))^0.6 entries, one row in the middle has all.</summary>
    public static SparseStructure PowerLaw(int n, int degree, ulong seed)
    {
        var random = new TrialRandom(seed);
        return Collect(n, n, (i, row) =>
        {
            if (i == n / 2)
            {
                for (int c = 0; c < n; c++) row.Add(c);
                return;
            }
            double entries = Math.Min(n / 2.0, 0.4 * degree * Math.Pow(n / (i + 1.0), 0.6));
            // Columns of low number are frequent too: u^2 of a uniform u.
            for (int j = 0; j <= entries; j++)
            {
                double u = (random.Next() >> 11) * (1.0 / (1L << 53));
                row.Add((int)(u * u * n));
            }
        });
    }

    public static SparseStructure Transpose(SparseStructure x)
    {
        var offsets = new long[x.Columns + 1];
        foreach (int c in x.Indices) offsets[c + 1]++;
        for (long i = 0; i < x.Columns; i++) offsets[i + 1] += offsets[i];
        var next = (long[])offsets.Clone();
        var indices = new int[x.NonZeros];
        for (long i = 0; i < x.Rows; i++)
            for (long j = x.Offsets[i]; j < x.Offsets[i + 1]; j++) indices[next[x.Indices[j]]++] = (int)i;
        return new SparseStructure(x.Columns, x.Rows, offsets, indices);
    }
}
