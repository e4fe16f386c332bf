using System.IO.MemoryMappedFiles;
using System.Text;

namespace Kernels.Tuning;

/// <summary>
/// A page of memory in which a process that tunes leaves what it runs, for the process that watches it: when it ends or hangs, the
/// candidate is known. To write there costs nothing that a timing would show, which a line on a pipe does.
/// </summary>
internal sealed class TrialWatch : IDisposable
{
    private const int Bytes = 4096, Text = 16;
    private readonly MemoryMappedFile _file;
    private readonly MemoryMappedViewAccessor _page;
    private readonly Dictionary<Dataflow, byte[]> _texts = [];

    /// <summary>Opens the page, which is made if it is not there.</summary>
    /// <param name="path">A file that both processes name.</param>
    /// <param name="failures">Candidates that are not run, and why.</param>
    public TrialWatch(string path, IReadOnlyDictionary<Dataflow, Failure> failures)
    {
        Failures = failures;
        _file = MemoryMappedFile.CreateFromFile(path, FileMode.OpenOrCreate, null, Bytes);
        _page = _file.CreateViewAccessor();
    }

    public IReadOnlyDictionary<Dataflow, Failure> Failures { get; }

    /// <summary>How often something began or ended; odd while something runs.</summary>
    public long Beats => _page.ReadInt64(0);

    /// <summary>What runs, or ran when the process ended; null for nothing.</summary>
    public Dataflow? Running
    {
        get
        {
            var text = new byte[Math.Clamp(_page.ReadInt32(8), 0, Bytes - Text)];
            _page.ReadArray(Text, text, 0, text.Length);
            return Beats % 2 != 0 && Dataflow.TryParse(Encoding.UTF8.GetString(text), out Dataflow? dataflow) ? dataflow : null;
        }
    }

    public void Begin(Dataflow dataflow)
    {
        if (!_texts.TryGetValue(dataflow, out byte[]? text)) _texts[dataflow] = text = Encoding.UTF8.GetBytes(dataflow.ToString());
        _page.Write(8, text.Length);
        _page.WriteArray(Text, text, 0, text.Length);
        _page.Write(0, Beats | 1);
    }

    public void End() => _page.Write(0, (Beats | 1) + 1);

    /// <summary>Forgets what a process that ended has left.</summary>
    public void Clear() => _page.Write(0, 0L);

    public void Dispose()
    {
        _page.Dispose();
        _file.Dispose();
    }
}
