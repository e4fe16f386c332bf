using System.Numerics;
using System.Runtime.InteropServices;
using System.Text;

namespace Kernels.Tests.SpGemm;

/// <summary>The reader and writer of Matrix Market files: all of the format, and what is none.</summary>
[TestFixture]
public sealed class MatrixMarketTests
{
    private static CsrMatrix<double> Read(string text) => MatrixMarket.Read<double>(new MemoryStream(Encoding.Latin1.GetBytes(text)));

    private static string Shown(CsrMatrix<double> x) => string.Join(' ', Enumerable.Range(0, (int)x.Rows).SelectMany(i =>
        Enumerable.Range((int)x.RowOffsets[i], (int)(x.RowOffsets[i + 1] - x.RowOffsets[i])).Select(j => $"{i},{x.ColumnIndices[j]}={(x.HasValues ? x.Values[j] : "")}")));

    private const string Coordinate = "%%MatrixMarket matrix coordinate ";

    [TestCase(Coordinate + "real general\n% a comment\n\n2 3 3\n1 1 1.5\n2 3 -2e3\r\n%another\n2 1 0\n", "0,0=1.5 1,0=0 1,2=-2000")]
    [TestCase(Coordinate + "real symmetric\n2 2 2\n1 1 1\n2 1 5", "0,0=1 0,1=5 1,0=5")]
    [TestCase(Coordinate + "integer skew-symmetric\n2 2 1\n2 1 7\n", "0,1=-7 1,0=7")]
    [TestCase("%%matrixmarket MATRIX Coordinate Pattern symmetric\n3 3 2\n2 2\n3 1\n", "0,2= 1,1= 2,0=")]
    [TestCase("%%MatrixMarket matrix array real general\n2 2\n1\n0\n3\n4\n", "0,0=1 0,1=3 1,1=4")]
    [TestCase("%%MatrixMarket matrix array real symmetric\n2 2\n1\n2\n3\n", "0,0=1 0,1=2 1,0=2 1,1=3")]
    [TestCase("%%MatrixMarket matrix array real skew-symmetric\n2 2\n2\n", "0,1=-2 1,0=2")]
    [TestCase(Coordinate + "real general\n1 1 2\n1 1 2\n1 1 1.0D+01\n", "0,0=12")]
    [TestCase(Coordinate + "real general\n1 2 2\n1 1 inf\n1 2 NaN\n", "0,0=Infinity 0,1=NaN")]
    [TestCase(Coordinate + "real general\n0 5 0\n", "")]
    [TestCase(Coordinate + "real symmetric\n2 2 2\n1 1 1\n1 2 5", "0,0=1 0,1=5 1,0=5")]
    [TestCase(Coordinate + "integer skew-symmetric\n2 2 1\n1 2 -7\n", "0,1=-7 1,0=7")]
    [TestCase(Coordinate + "pattern symmetric\n3 3 2\n2 2\n1 3\n", "0,2= 1,1= 2,0=")]
    [TestCase(Coordinate + "real symmetric\n2 2 4\n2 1 5\n2 2 1\n2 1 2\n2 2 1\n", "0,1=7 1,0=7 1,1=2")]
    [TestCase(Coordinate + "real skew-symmetric\n2 2 2\n1 2 5\n1 2 2\n", "0,1=7 1,0=-7")]
    public void Reads(string text, string expected)
    {
        using CsrMatrix<double> x = Read(text);
        Assert.That(Shown(x), Is.EqualTo(expected));
    }

    [TestCase("", "line 1: %%MatrixMarket")]
    [TestCase("%%MatrixMarket vector coordinate real general\n", "line 1: %%MatrixMarket")]
    [TestCase(Coordinate + "complex general\n", "line 1: real, integer or pattern: complex")]
    [TestCase(Coordinate + "real hermitian\n", "hermitian")]
    [TestCase(Coordinate + "quaternion general\n", "not quaternion")]
    [TestCase("%%MatrixMarket matrix array pattern general\n", "not an array")]
    [TestCase(Coordinate + "real general\n", "a size line")]
    [TestCase(Coordinate + "real general\n2 2\n", "line 2: a whole number as number of entries, not the end")]
    [TestCase(Coordinate + "real general\n2 2 1 9\n", "line 2: the end of the line, not 9")]
    [TestCase(Coordinate + "real general\n-2 2 1\n", "line 2: 0 <= rows < 2^31, not -2")]
    [TestCase(Coordinate + "real general\n3000000000 2 1\n", "line 2: 0 <= rows")]
    [TestCase(Coordinate + "real general\n2 2 -1\n", "line 2: 0 <= number of entries")]
    [TestCase(Coordinate + "real general\n2 2 1\n3 1 1\n", "line 3: 1 <= row <= 2, not 3")]
    [TestCase(Coordinate + "real general\n2 2 1\n\n1 0 1\n", "line 4: 1 <= column <= 2, not 0")]
    [TestCase(Coordinate + "real general\n2 2 1\n1 1 x\n", "line 3: a value of Double, not x")]
    [TestCase(Coordinate + "real general\n2 2 1\n1 1\n", "line 3: a value of Double, not the end of the line")]
    [TestCase(Coordinate + "integer general\n2 2 2\n1 1 +3\n2 2 1.5\n", "line 4: a whole number, as the header says, not 1.5")]
    [TestCase(Coordinate + "pattern general\n2 2 1\n1 1 5\n", "line 3: the end of the line, not 5")]
    [TestCase(Coordinate + "real general\n2 2 900000000000\n1 1 1\n", "900000000000 entries, as the size line says, not 1")]
    [TestCase(Coordinate + "real general\n2 2 1\n1 1 1\n2 2 2\n", "line 4: the end after the last entry")]
    [TestCase(Coordinate + "real symmetric\n2 3 1\n1 1 1\n", "line 2: as many rows as columns")]
    [TestCase(Coordinate + "real skew-symmetric\n2 2 1\n1 1 1\n", "line 3: nothing on the diagonal")]
    [TestCase("%%MatrixMarket matrix array real general\n2 2\n1\n2\n3\n", "row 2 of column 2")]
    [TestCase(Coordinate + "real general\n2000000000 2 1\n1 1 1\n", "an entry for 1024 rows")]
    [TestCase("%%MatrixMarket matrix array real general\n2 2\n1 2\n", "line 3: the end of the line, not 2")]
    [TestCase(Coordinate + "real symmetric\n2 2 2\n2 1 5\n1 2 5\n", "line 4: entries below the diagonal alone, as those before, of what is symmetric, not row 1 and column 2")]
    [TestCase(Coordinate + "real skew-symmetric\n3 3 3\n1 2 5\n1 3 1\n% a comment\n3 2 5\n", "line 6: entries above the diagonal alone")]
    [TestCase(Coordinate + "pattern symmetric\n3 3 4\n3 3\n3 1\n2 2\n2 3\n", "line 6: entries below the diagonal alone")]
    public void RefusesWithTheLine(string text, string message) =>
        Assert.That(Assert.Throws<KernelsException>(() => Read(text))!.Message, Does.Contain(message));

    [Test]
    public void AValueWithoutANegativeIsNotSkewSymmetric() =>
        Assert.That(() => MatrixMarket.Read<uint>(new MemoryStream(Encoding.Latin1.GetBytes(Coordinate + "integer skew-symmetric\n2 2 1\n2 1 7\n"))),
            Throws.TypeOf<KernelsException>().With.Message.Contains("line 3").And.Message.Contains("UInt32"));

    /// <summary>The place is named, for what comes together there is known only when all lines are read.</summary>
    [Test]
    public void ASumOfAPlaceThatOverflowsIsRefused() =>
        Assert.That(() => MatrixMarket.Read<int>(new MemoryStream(Encoding.Latin1.GetBytes(Coordinate + "integer symmetric\n3 3 2\n3 2 2147483647\n3 2 1\n"))),
            Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("values").And.Message.Contains("[1, 2]").And.Message.Contains("Int32"));

    [Test]
    public void AnEndlessLineIsRefused() =>
        Assert.That(() => Read(Coordinate + "real general\n" + new string('1', 1 << 18)), Throws.TypeOf<KernelsException>().With.Message.Contains("line 2"));

    [Test]
    public void WhatIsWrittenIsReadBackAsTheSameBits([Values] bool values)
    {
        SparseStructure s = SpGemmMatrices.Rmat(7, 5, 9);
        var random = new Random(4);
        using CsrMatrix<double> x = values ? SpGemmTests.Of(s, _ => random.NextDouble() * Math.Pow(10, random.Next(-300, 300))) : CsrMatrix.Create<double>(s.Rows, s.Columns, s.Offsets, s.Indices);
        var file = new MemoryStream();
        MatrixMarket.Write(file, x, "two\nlines");
        file.Position = 0;
        using CsrMatrix<double> back = MatrixMarket.Read<double>(file);
        Assert.That(back.RowOffsets.ToArray(), Is.EqualTo(x.RowOffsets.ToArray()));
        Assert.That(back.ColumnIndices.ToArray(), Is.EqualTo(x.ColumnIndices.ToArray()));
        Assert.That(back.Values.ToArray(), Is.EqualTo(x.Values.ToArray()));
    }

    /// <summary>A matrix that is what the symmetry says, of a third of its places.</summary>
    private static CsrMatrix<double> Random(MatrixMarketSymmetry symmetry, int rows, int columns, bool values = true)
    {
        var random = new Random((int)symmetry + 6);
        var entries = new List<(int Row, int Column, double Value)>();
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < (symmetry == MatrixMarketSymmetry.General ? columns : symmetry == MatrixMarketSymmetry.Symmetric ? i + 1 : i); j++)
            {
                if (random.Next(3) != 0) continue;
                double value = (random.NextDouble() - 0.5) * Math.Pow(10, random.Next(-300, 300));
                entries.Add((i, j, value));
                if (symmetry != MatrixMarketSymmetry.General && i != j) entries.Add((j, i, symmetry == MatrixMarketSymmetry.Symmetric ? value : -value));
            }
        return CsrMatrix.FromCoo<double>(rows, columns, [.. entries.Select(e => e.Row)], [.. entries.Select(e => e.Column)], values ? [.. entries.Select(e => e.Value)] : []);
    }

    [TestCase(MatrixMarketFormat.Coordinate, MatrixMarketSymmetry.Symmetric, true)]
    [TestCase(MatrixMarketFormat.Coordinate, MatrixMarketSymmetry.Symmetric, false)]
    [TestCase(MatrixMarketFormat.Coordinate, MatrixMarketSymmetry.SkewSymmetric, true)]
    [TestCase(MatrixMarketFormat.Array, MatrixMarketSymmetry.General, true)]
    [TestCase(MatrixMarketFormat.Array, MatrixMarketSymmetry.Symmetric, true)]
    [TestCase(MatrixMarketFormat.Array, MatrixMarketSymmetry.SkewSymmetric, true)]
    public void EveryFormIsReadBackAsTheSameBits(MatrixMarketFormat format, MatrixMarketSymmetry symmetry, bool values)
    {
        using CsrMatrix<double> x = Random(symmetry, 23, symmetry == MatrixMarketSymmetry.General ? 31 : 23, values);
        var file = new MemoryStream();
        MatrixMarket.Write(file, x, "a comment", format, symmetry);
        string[] lines = Encoding.Latin1.GetString(file.ToArray()).Split('\n', StringSplitOptions.RemoveEmptyEntries);
        long diagonal = Enumerable.Range(0, 23).Count(i => x.ColumnIndices[(int)x.RowOffsets[i]..(int)x.RowOffsets[i + 1]].Contains(i));
        long listed = format == MatrixMarketFormat.Coordinate ? (x.NonZeros + diagonal) / 2 : symmetry switch { MatrixMarketSymmetry.General => 23 * 31, MatrixMarketSymmetry.Symmetric => 23 * 24 / 2, _ => 23 * 22 / 2 };
        Assert.That(lines, Has.Length.EqualTo(3 + listed), "one triangle alone");
        file.Position = 0;
        using CsrMatrix<double> back = MatrixMarket.Read<double>(file);
        Assert.That((back.Rows, back.Columns, back.HasValues), Is.EqualTo((x.Rows, x.Columns, values)));
        Assert.That(back.RowOffsets.SequenceEqual(x.RowOffsets) && back.ColumnIndices.SequenceEqual(x.ColumnIndices) && back.Values.SequenceEqual(x.Values));
    }

    [Test]
    public void AnArrayIsWrittenColumnByColumn()
    {
        using CsrMatrix<int> x = CsrMatrix.Create<int>(2, 2, [0, 1, 2], (int[])[1, 0], [-7, 7]);
        string Written(MatrixMarketFormat format, MatrixMarketSymmetry symmetry)
        {
            var file = new MemoryStream();
            MatrixMarket.Write(file, x, null, format, symmetry);
            return Encoding.Latin1.GetString(file.ToArray());
        }
        Assert.That(Written(MatrixMarketFormat.Array, MatrixMarketSymmetry.General), Is.EqualTo("%%MatrixMarket matrix array integer general\n2 2\n0\n7\n-7\n0\n"));
        Assert.That(Written(MatrixMarketFormat.Array, MatrixMarketSymmetry.SkewSymmetric), Is.EqualTo("%%MatrixMarket matrix array integer skew-symmetric\n2 2\n7\n"));
        Assert.That(Written(MatrixMarketFormat.Coordinate, MatrixMarketSymmetry.SkewSymmetric), Is.EqualTo("%%MatrixMarket matrix coordinate integer skew-symmetric\n2 2 1\n2 1 7\n"));
    }

    /// <summary>What the header would not be true of: nothing is written, and a file that is there stays.</summary>
    [TestCase("2 3 1\n1 1 1", MatrixMarketFormat.Coordinate, MatrixMarketSymmetry.Symmetric, "symmetry", "2 x 3")]
    [TestCase("2 2 1\n2 1 1", MatrixMarketFormat.Coordinate, MatrixMarketSymmetry.Symmetric, "symmetry", "row 0 as in column 0")]
    [TestCase("3 3 3\n2 1 1\n3 2 1\n1 3 1", MatrixMarketFormat.Array, MatrixMarketSymmetry.Symmetric, "symmetry", "an entry at [0, 1], as at [1, 0]")]
    [TestCase("2 2 2\n2 1 1\n1 2 3", MatrixMarketFormat.Array, MatrixMarketSymmetry.Symmetric, "symmetry", "3 at [1, 0], not 1")]
    [TestCase("2 2 2\n2 1 1\n1 2 1", MatrixMarketFormat.Coordinate, MatrixMarketSymmetry.SkewSymmetric, "symmetry", "-1 at [1, 0], not 1")]
    [TestCase("2 2 1\n1 1 0", MatrixMarketFormat.Coordinate, MatrixMarketSymmetry.SkewSymmetric, "symmetry", "[0, 0]")]
    [TestCase("2 2 0", (MatrixMarketFormat)7, MatrixMarketSymmetry.General, "format", "7")]
    [TestCase("2 2 0", MatrixMarketFormat.Array, (MatrixMarketSymmetry)(-1), "symmetry", "-1")]
    public void WhatIsNotSymmetricIsNotWritten(string entries, MatrixMarketFormat format, MatrixMarketSymmetry symmetry, string argument, string rule)
    {
        using var directory = new Tuning.Scratch();
        string path = Path.Combine(directory.Path, "a.mtx");
        File.WriteAllText(path, "before");
        using CsrMatrix<double> x = Read(Coordinate + $"real general\n{entries}\n");
        var file = new MemoryStream();
        foreach (Action write in (Action[])[() => MatrixMarket.Write(file, x, null, format, symmetry), () => MatrixMarket.Write(path, x, null, format, symmetry)])
            Assert.That(write, Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo(argument).And.Message.Contains(rule));
        Assert.That((file.Length, File.ReadAllText(path)), Is.EqualTo((0, "before")));
    }

    /// <summary>Of memory of the caller's one part is enough: a file that is there keeps its bytes, and none is made.</summary>
    [Test]
    public void WhatWasDisposedIsNotWritten()
    {
        using var directory = new Tuning.Scratch();
        string there = directory["a.mtx"], none = directory["b.mtx"];
        File.WriteAllText(there, "before");
        CsrMatrix<double> gone = Read(Coordinate + "real general\n1 1 1\n1 1 2\n");
        gone.Dispose();
        using Buffer<long> offsets = Buffer<long>.Of([0L, 1]);
        using Buffer<int> columns = Buffer<int>.Of([0]);
        Buffer<double> values = Buffer<double>.Of([2.0]);
        CsrMatrix<double> part = CsrMatrix.Wrap(1, 1, offsets, columns, values);
        values.Dispose();
        var file = new MemoryStream();
        foreach (CsrMatrix<double> x in (CsrMatrix<double>[])[gone, part])
            foreach (Action write in (Action[])[() => MatrixMarket.Write(file, x), () => MatrixMarket.Write(there, x), () => MatrixMarket.Write(none, x)])
                Assert.That(write, Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("matrix"));
        Assert.That((file.Length, File.ReadAllText(there), File.Exists(none)), Is.EqualTo((0, "before", false)));
    }

    [Test]
    public void APatternHasCoordinatesAndNoSkew()
    {
        using CsrMatrix<double> x = Random(MatrixMarketSymmetry.Symmetric, 9, 9, values: false);
        Assert.That(() => MatrixMarket.Write(new MemoryStream(), x, null, MatrixMarketFormat.Array), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("format"));
        Assert.That(() => MatrixMarket.Write(new MemoryStream(), x, null, MatrixMarketFormat.Coordinate, MatrixMarketSymmetry.SkewSymmetric), Throws.TypeOf<KernelsException>().With.Property("Argument").EqualTo("symmetry"));
    }

    [Test]
    public void AFileByItsPathInFloat()
    {
        using var directory = new Tuning.Scratch();
        string path = Path.Combine(directory.Path, "a.mtx");
        SparseStructure s = SpGemmMatrices.Rmat(6, 4, 2);
        var random = new Random(5);
        using CsrMatrix<float> x = SpGemmTests.Of(s, _ => (float)(random.NextDouble() * Math.Pow(10, random.Next(-44, 38))));
        MatrixMarket.Write(path, x, "float");
        using CsrMatrix<float> back = MatrixMarket.Read<float>(path);
        using CsrMatrix<double> wide = MatrixMarket.Read<double>(path);
        Assert.That(back.ColumnIndices.ToArray(), Is.EqualTo(x.ColumnIndices.ToArray()));
        Assert.That(back.Values.SequenceEqual(x.Values));
        Assert.That(wide.Values.ToArray().Select(v => (float)v), Is.EqualTo(x.Values.ToArray()));
        Assert.That(() => MatrixMarket.Read<float>(Path.Combine(directory.Path, "b.mtx")), Throws.TypeOf<FileNotFoundException>());
    }

    private static readonly byte[][] s_good = [.. new[]
    {
        Coordinate + "real general\n% c\n4 5 4\n1 1 1.5\n2 3 -2e3\n4 5 7\n1 2 3\n",
        Coordinate + "pattern symmetric\n4 4 3\n1 1\n3 2\n4 1\n",
        "%%MatrixMarket matrix array real general\n2 3\n1\n2\n3\n4\n5\n6\n",
        Coordinate + "real symmetric\n4 4 4\n1 1 1.5\n3 1 -2\n4 2 0.25\n4 4 7\n",
        Coordinate + "real skew-symmetric\n3 3 3\n2 1 4\n3 1 -0\n3 2 -1e2\n",
        Coordinate + "integer general\n3 4 4\n1 1 3\n2 4 -7\n2 4 9\n3 2 0\n",
        "%%MatrixMarket matrix array real symmetric\n3 3\n1\n2\n3\n4\n0\n6\n",
    }.Select(Encoding.Latin1.GetBytes)];

    /// <summary>In structure and bits; a NaN is as any other.</summary>
    private static bool Same<T>(CsrMatrix<T> x, CsrMatrix<T> y) where T : unmanaged, INumber<T>
    {
        if ((x.Rows, x.Columns, x.HasValues, x.Values.Length) != (y.Rows, y.Columns, y.HasValues, y.Values.Length)) return false;
        for (int j = 0; j < x.Values.Length; j++)
            if (!(T.IsNaN(x.Values[j]) ? T.IsNaN(y.Values[j]) : MemoryMarshal.AsBytes(x.Values.Slice(j, 1)).SequenceEqual(MemoryMarshal.AsBytes(y.Values.Slice(j, 1))))) return false;
        return x.RowOffsets.SequenceEqual(y.RowOffsets) && x.ColumnIndices.SequenceEqual(y.ColumnIndices);
    }

    private static bool IsReadBack<T>(CsrMatrix<T> x) where T : unmanaged, INumber<T>
    {
        var file = new MemoryStream();
        MatrixMarket.Write(file, x);
        file.Position = 0;
        using CsrMatrix<T> back = MatrixMarket.Read<T>(file);
        return Same(x, back);
    }

    [Test]
    public void DamagedFilesAreReadOrRefused() => Damage<double>(10_000);

    [Test]
    public void DamagedFilesOfOtherTypesAreReadOrRefused()
    {
        Damage<float>(3000);
        Damage<int>(3000);
    }

    /// <summary>Thousands of damaged files, one in four whole: read, and then written and read again as the same, or refused with a line or for a sum; never anything else.</summary>
    private static void Damage<T>(int files) where T : unmanaged, INumber<T>
    {
        int seed = (int)Tables.Seed, read = 0, refused = 0;
        var random = new Random(seed);
        for (int i = 0; i < files; i++)
        {
            byte[] bytes = [.. s_good[i % s_good.Length]];
            for (int faults = random.Next(0, 4); faults > 0; faults--)
            {
                int at = random.Next(bytes.Length);
                switch (random.Next(4))
                {
                    case 0: bytes[at] = (byte)random.Next(256); break;
                    case 1: bytes = bytes[..at]; break;
                    case 2: bytes = [.. bytes[..at], .. Encoding.Latin1.GetBytes(random.Next(-9, 1 << 20).ToString()), .. bytes[at..]]; break;
                    default: bytes = [.. bytes[..at], .. bytes[random.Next(bytes.Length)..]]; break;
                }
                if (bytes.Length == 0) break;
            }
            CsrMatrix<T>? x = null;
            try
            {
                x = MatrixMarket.Read<T>(new MemoryStream(bytes));
                read++;
            }
            catch (KernelsException e) when (e.Argument == "values" || e.Argument.StartsWith("line ", StringComparison.Ordinal))
            {
                refused++;
            }
            catch (Exception e)
            {
                Assert.Fail($"seed {seed}, {i}: {e.GetType().Name} {e.Message}: {Encoding.Latin1.GetString(bytes)}");
            }
            using (x)
                if (x is not null && !IsReadBack(x)) Assert.Fail($"seed {seed}, {i}: not read back as it was: {Encoding.Latin1.GetString(bytes)}");
        }
        Assert.That(refused, Is.GreaterThan(files * 3 / 10));
        Assert.That(read, Is.GreaterThan(files / 20));
    }
}
