using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.RegularExpressions;

namespace Kernels.Perf;

/// <summary>A NumPy array of f32, f16 or f64 in a file (.npy, format 1 to 3, little-endian, C order), read row by row along its last dimension.</summary>
internal sealed partial class NumpyArray : IDisposable
{
    private const int Magic = 8;  // "\x93NUMPY" and the version

    private readonly FileStream _file;
    private readonly int _size;  // bytes of an element
    private byte[] _row = [];

    /// <exception cref="UsageException">No such array.</exception>
    public NumpyArray(string path)
    {
        Path = path;
        if (!File.Exists(path)) throw new UsageException($"{path}: no such file");
        _file = File.OpenRead(path);
        try
        {
            Match header = Header().Match(HeaderText());
            if (!header.Success) throw Wrong("a .npy header of a little-endian array of float16, float32 or float64 in C order");
            _size = header.Groups["size"].ValueSpan[0] - '0';
            Shape = [.. header.Groups["shape"].Value.Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).Select(n => int.Parse(n, CultureInfo.InvariantCulture))];
            if (Shape.Aggregate((Int128)_size, (n, extent) => n * extent) is var bytes && _file.Length - _file.Position != bytes) throw Wrong($"{bytes} bytes of elements, as its shape says");
        }
        catch
        {
            _file.Dispose();
            throw;
        }
    }

    public string Path { get; }

    public int[] Shape { get; } = [];

    /// <summary>The error that names the file and the rule.</summary>
    public UsageException Wrong(string rule) => new($"{Path}: requires {rule}");

    /// <summary>The next row.</summary>
    public void Read(Span<float> row)
    {
        if (_row.Length != row.Length * _size) _row = new byte[row.Length * _size];
        _file.ReadExactly(_row);
        ReadOnlySpan<byte> bytes = _row;
        for (int i = 0; i < row.Length; i++)
            row[i] = _size switch
            {
                2 => (float)MemoryMarshal.Cast<byte, Half>(bytes)[i],
                4 => MemoryMarshal.Cast<byte, float>(bytes)[i],
                _ => (float)MemoryMarshal.Cast<byte, double>(bytes)[i],
            };
    }

    public void Dispose() => _file.Dispose();

    private string HeaderText()
    {
        Span<byte> head = stackalloc byte[Magic + 4];
        if (_file.ReadAtLeast(head, head.Length, throwOnEndOfStream: false) < head.Length || head[0] != 0x93 || !head[1..6].SequenceEqual("NUMPY"u8)) return "";
        int length = head[6] == 1 ? BitConverter.ToUInt16(head[Magic..]) : BitConverter.ToInt32(head[Magic..]);
        _file.Position = Magic + (head[6] == 1 ? 2 : 4);
        if (length < 0 || length > _file.Length - _file.Position) return "";
        var text = new byte[length];
        _file.ReadExactly(text);
        return Encoding.Latin1.GetString(text);
    }

    [GeneratedRegex(@"^\{\s*'descr':\s*'<f(?<size>[248])',\s*'fortran_order':\s*False,\s*'shape':\s*\((?<shape>[\d,\s]*)\),?\s*\}\s*$")]
    private static partial Regex Header();
}
