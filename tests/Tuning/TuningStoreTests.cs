using System.Collections.Immutable;
using System.IO;
using System.Text;
using Kernels.Tuning;
using NUnit.Framework;
using static Kernels.Tests.Tuning.Sample;

namespace Kernels.Tests.Tuning;

public class TuningStoreTests
{
    private Scratch scratch = null!;
    private TuningStore store = null!;

    [SetUp]
    public void SetUp()
    {
        scratch = new Scratch();
        store = new TuningStore(scratch.Path);
    }

    [TearDown]
    public void TearDown() => scratch.Dispose();

    private string PathOf(TuningKey key) => scratch[key.FileName() + ".v1.json"];

    private void Store(TuningRecord record) => Assert.That(store.TryWrite(record, out string reason), Is.True, reason);

    private static TuningRecord Only(TuningKey key, Dataflow dataflow, DateTimeOffset? date = null) =>
        TuningRecord.Pin(key, date ?? Date, dataflow) with { Intervals = [new MInterval(1, 64, dataflow, null)] };

    private static MemoryStream Document(params TuningRecord[] records)
    {
        var stream = new MemoryStream();
        TuningDocument.Write(stream, records);
        stream.Position = 0;
        return stream;
    }

    [Test]
    public void WhatIsWrittenIsFound()
    {
        Store(Record());
        Assert.That(store.Read(Key()).Record!.ToJson(), Is.EqualTo(Record().ToJson()));
        TuningAnswer answer = store.Find(Key(), 8, Accept);
        Assert.That(answer.Dataflow, Is.EqualTo(Flat));
        Assert.That(answer.Source, Is.EqualTo(TuningSource.User));
        Assert.That(Directory.GetFiles(scratch.Path), Is.EqualTo(new[] { PathOf(Key()) }), "no temporary file is left");
    }

    [Test]
    public void OutsideTheMeasuredRangeTheModelDecides()
    {
        Store(Record());
        TuningAnswer answer = store.Find(Key(), 65, Accept);
        Assert.That(answer.Dataflow, Is.Null);
        Assert.That(answer.Reason, Does.Contain("user: m 65 is outside the measured range"));
        Assert.That(store.Find(Key(n: 4097), 8, Accept).Source, Is.EqualTo(TuningSource.None));
    }

    [Test]
    public void ARefusedDataflowMakesTheRecordAMiss()
    {
        Store(Record());
        TuningAnswer answer = store.Find(Key(), 8, i => i.Dataflow == Block ? "no such row" : null);
        Assert.That(answer.Dataflow, Is.Null);
        Assert.That(answer.Reason, Does.Contain("no such row"));
    }

    [Test]
    public void ARecordUnderAnotherKeysNameIsAMiss()
    {
        Store(Record());
        File.Move(PathOf(Key()), PathOf(Key(n: 1)));
        Assert.That(store.Read(Key(n: 1)).Kind, Is.EqualTo(TuningMiss.OtherKey));
    }

    [Test]
    public void PinOverUserOverDeviceOverArchitecture()
    {
        TuningKey near = Key(model: "Xeon 8470", cores: 52, threads: 52), far = Key(model: "Xeon 8452Y", cores: 36, threads: 36);
        var layered = new TuningStore(scratch.Path, [Only(far, Flat), Only(near, Gemv.WithThreads(52)), Only(Key(build: "older"), Block)]);
        string? RefuseBlock(MInterval i) => i.Dataflow == Block ? "too large" : null;

        TuningAnswer architecture = layered.Find(Key(), 4, RefuseBlock);
        Assert.That(architecture.Source, Is.EqualTo(TuningSource.Architecture));
        Assert.That(architecture.Dataflow, Is.EqualTo(Gemv.WithThreads(56)), "the nearest device; all its threads become all of ours");
        TuningAnswer device = layered.Find(Key(), 4, Accept);
        Assert.That((device.Source, device.Dataflow), Is.EqualTo((TuningSource.Device, Block)));

        Assert.That(layered.TryWrite(Only(Key(), Flat), out _), Is.True);
        Assert.That(layered.Find(Key(), 4, Accept).Source, Is.EqualTo(TuningSource.User));
        Assert.That(layered.TryPin(Key(), Gemv, Date, out _), Is.True);
        Assert.That(layered.Find(Key(build: "newer"), 1000, Accept), Has.Property("Source").EqualTo(TuningSource.Pin).And.Property("Dataflow").EqualTo(Gemv));
        Assert.That(layered.List().Select(e => e.Source), Is.EqualTo(new[]
            { TuningSource.Pin, TuningSource.User, TuningSource.Device, TuningSource.Device, TuningSource.Device }));

        Assert.That(layered.TryUnpin(Key(), out _), Is.True);
        Assert.That(layered.TryUnpin(Key(), out _), Is.True, "where there is none");
        Assert.That(layered.Find(Key(), 4, Accept).Source, Is.EqualTo(TuningSource.User));
    }

    [Test]
    public void APinIsAskedAboutItsMAlone()
    {
        Assert.That(store.TryPin(Key(), Gemv, Date, out _), Is.True);
        string? UpTo4(MInterval i) => i.To > 4 ? "m above 4" : null;
        Assert.That(store.Find(Key(), 4, UpTo4).Dataflow, Is.EqualTo(Gemv));
        Assert.That(store.Find(Key(), 5, UpTo4).Reason, Does.Contain("pin: m above 4"));
    }

    [Test]
    public void TheEmbeddedLayerMayBeADocument()
    {
        using MemoryStream stream = Document(Record());
        Assert.That(new TuningStore("", stream).Find(Key(build: "another"), 8, Accept), Has.Property("Source").EqualTo(TuningSource.Device));
    }

    [TestCase("")]
    [TestCase("{")]
    [TestCase("not json")]
    [TestCase("{\"schema\":1,\"key\":{}}")]
    public void ACorruptFileIsAMissAndCanBeReplaced(string content)
    {
        File.WriteAllText(PathOf(Key()), content);
        Assert.That(store.Read(Key()).Kind, Is.EqualTo(TuningMiss.Corrupt));
        Assert.That(store.List().Single().Record, Is.Null);
        Assert.That(store.Find(Key(), 8, Accept).Reason, Is.Not.Empty);
        Store(Record());
        Assert.That(store.Read(Key()).Record, Is.Not.Null);
    }

    [Test]
    public void AForeignSchemaIsLeftUntouched()
    {
        string foreign = Encoding.UTF8.GetString(Record().ToJson()).Replace("\"schema\":1", "\"schema\":7");
        File.WriteAllText(PathOf(Key()), foreign);
        File.WriteAllText(scratch[Key().FileName(KeyScope.Device) + ".pin.v1.json"], foreign);
        Assert.That(store.Read(Key()).Kind, Is.EqualTo(TuningMiss.Foreign));
        Assert.That(store.TryWrite(Record(), out string reason), Is.False);
        Assert.That(reason, Does.Contain("schema 7"));
        Assert.That(store.TryPin(Key(), Gemv, Date, out _), Is.False);
        Assert.That(store.TryUnpin(Key(), out _), Is.False);
        using MemoryStream stream = Document(Record());
        Assert.That(store.Import(stream, force: true).Refused, Has.Length.EqualTo(1));
        Assert.That(File.ReadAllText(PathOf(Key())), Is.EqualTo(foreign));
    }

    [Test]
    public void AHugeFileIsAMissThatIsNotRead()
    {
        using (FileStream huge = File.Create(PathOf(Key())))
            huge.SetLength(1L << 40);
        long before = GC.GetAllocatedBytesForCurrentThread();
        Assert.That(store.Read(Key()).Kind, Is.EqualTo(TuningMiss.Unreadable));
        Assert.That(GC.GetAllocatedBytesForCurrentThread() - before, Is.LessThan(1 << 20));
    }

    [Test]
    public void ADirectoryOrALinkInPlaceOfAFileIsAMiss()
    {
        string target = Directory.CreateDirectory(scratch["target"]).FullName;
        Directory.CreateDirectory(PathOf(Key()));
        Directory.CreateSymbolicLink(PathOf(Key(n: 1)), target);
        File.CreateSymbolicLink(PathOf(Key(n: 2)), scratch["nothing"]);
        File.CreateSymbolicLink(PathOf(Key(n: 3)), PathOf(Key(n: 3)));
        Assert.That(store.Read(Key()).Kind, Is.EqualTo(TuningMiss.Unreadable));
        Assert.That(store.Read(Key(n: 1)).Record, Is.Null);
        Assert.That(store.Read(Key(n: 2)).Record, Is.Null);
        Assert.That(store.Read(Key(n: 3)).Record, Is.Null);
        Assert.That(store.TryWrite(Record(), out string reason), Is.False);
        Assert.That(reason, Is.Not.Empty);
        Assert.That(Directory.GetFiles(scratch.Path, ".*.tmp"), Is.Empty);
    }

    [Test, Platform("Linux"), CancelAfter(20_000)]
    public void ALinkToADeviceOrAPipeIsAMiss()
    {
        File.CreateSymbolicLink(PathOf(Key()), "/dev/zero");
        Assert.That(store.Read(Key()).Record, Is.Null);
        using var mkfifo = System.Diagnostics.Process.Start("mkfifo", [PathOf(Key(n: 1))]);
        mkfifo.WaitForExit();
        Assume.That(mkfifo.ExitCode, Is.Zero);
        Assert.That(store.Read(Key(n: 1)).Record, Is.Null);
    }

    [Test]
    public void AnUnwritableDirectoryIsTold()
    {
        File.WriteAllText(scratch["file"], "");
        var below = new TuningStore(scratch["file/store"]);
        Assert.That(below.TryWrite(Record(), out string reason), Is.False);
        Assert.That(reason, Is.Not.Empty);
        Assert.That(below.Read(Key()).Record, Is.Null);
        Assert.That(below.List(), Is.Empty);
        Assert.That(below.TryPin(Key(), Gemv, Date, out reason), Is.False);

        var none = new TuningStore("");
        Assert.That(none.TryWrite(Record(), out reason), Is.False);
        Assert.That(reason, Is.EqualTo("no cache directory"));
        Assert.That(none.Find(Key(), 1, Accept).Source, Is.EqualTo(TuningSource.None));
    }

    [Test]
    public void ABrokenRecordIsNotWritten()
    {
        Store(Record());
        Assert.That(store.TryWrite(Record() with { Intervals = default }, out string reason), Is.False);
        Assert.That(reason, Is.Not.Empty);
        Assert.That(store.Read(Key()).Record, Is.Not.Null, "the one before is still there");
    }

    [Test]
    public void AKillInTheMiddleOfAWriteLeavesAReadableStore()
    {
        Store(Record());
        byte[] json = Record(seed: 2).ToJson();
        foreach (int written in new[] { 0, 1, json.Length / 2, json.Length })
            File.WriteAllBytes(scratch[$".{Key().FileName()}.v1.json.{Guid.NewGuid():N}.tmp"], json[..written]);
        Assert.That(store.Read(Key()).Record!.ToJson(), Is.EqualTo(Record().ToJson()));
        Assert.That(store.List(), Has.Length.EqualTo(1));
        Store(Record(seed: 2));
        Assert.That(store.Read(Key()).Record!.ToJson(), Is.EqualTo(json));
    }

    [Test]
    public void ManyWritersOfOneKeySucceedAndReadersSeeWholeRecords()
    {
        TuningRecord[] records = [.. Enumerable.Range(1, 4).Select(seed => Record(seed: seed))];
        string[] texts = [.. records.Select(r => Encoding.UTF8.GetString(r.ToJson()))];
        Store(records[0]);
        using var done = new CancellationTokenSource();
        Task<int> reader = Task.Run(() =>
        {
            int reads = 0;
            for (; !done.IsCancellationRequested; reads++)
            {
                TuningEntry entry = new TuningStore(scratch.Path).Read(Key());
                if (entry.Record is null || !texts.Contains(Encoding.UTF8.GetString(entry.Record.ToJson())))
                    throw new InvalidOperationException(entry.Reason);
            }
            return reads;
        });
        int failed = 0;
        Parallel.ForEach(records, record =>
        {
            var mine = new TuningStore(scratch.Path);
            for (int i = 0; i < 50; i++)
            {
                if (!mine.TryWrite(record, out _))
                    Interlocked.Increment(ref failed);
            }
        });
        done.Cancel();
        Assert.That(failed, Is.Zero);
        Assert.That(reader.GetAwaiter().GetResult(), Is.Positive);
        Assert.That(texts, Does.Contain(Encoding.UTF8.GetString(store.Read(Key()).Record!.ToJson())));
        Assert.That(Directory.GetFiles(scratch.Path), Has.Length.EqualTo(1));
    }

    [Test]
    public void ExportAndImportAreInverse()
    {
        Store(Record());
        Store(Record(Key(n: 11008), seed: 9));
        Assert.That(store.TryPin(Key(), Gemv, Date, out _), Is.True);
        using var stream = new MemoryStream();
        store.Export(stream);
        stream.Position = 0;
        var other = new TuningStore(scratch["other"]);
        Assert.That(other.Import(stream), Has.Property("Written").EqualTo(2).And.Property("Refused").Empty);
        Assert.That(TuningStore.Diff(store, other), Is.Empty);
        using var again = new MemoryStream();
        other.Export(again);
        Assert.That(again.ToArray(), Is.EqualTo(stream.ToArray()));
    }

    [Test]
    public void ImportKeepsTheNewerUnlessForced()
    {
        TuningRecord older = Only(Key(), Gemv, Date.AddDays(-1)), newer = Only(Key(), Block, Date.AddDays(1));
        Store(Only(Key(), Flat));
        using MemoryStream a = Document(older), b = Document(newer), c = Document(older);
        Assert.That(store.Import(a), Has.Property("Kept").EqualTo(1));
        Assert.That(store.Find(Key(), 8, Accept).Dataflow, Is.EqualTo(Flat));
        Assert.That(store.Import(b), Has.Property("Written").EqualTo(1));
        Assert.That(store.Find(Key(), 8, Accept).Dataflow, Is.EqualTo(Block));
        Assert.That(store.Import(c, force: true), Has.Property("Written").EqualTo(1));
        Assert.That(store.Find(Key(), 8, Accept).Dataflow, Is.EqualTo(Gemv));
    }

    [Test]
    public void ImportTakesTheSoundPartOfADocument()
    {
        string text = Encoding.UTF8.GetString(Document(Record(), Record(Key(n: 1)), Record(Key(n: 2))).ToArray());
        text = text.Replace("\"n\":\"1\"", "\"n\":1");
        using var stream = new MemoryStream(Encoding.UTF8.GetBytes(text));
        ImportReport report = store.Import(stream, refuse: r => r.Key.Problem["n"] == "2" ? "not here" : null);
        Assert.That(report.Written, Is.EqualTo(1));
        Assert.That(report.Refused, Has.Length.EqualTo(2));
        foreach (string broken in new[] { "", "[]", "{}", "{\"schema\":2,\"records\":[]}", "{\"schema\":1,\"records\":7}" })
        {
            using var none = new MemoryStream(Encoding.UTF8.GetBytes(broken));
            Assert.That(store.Import(none).Refused, Has.Length.EqualTo(1), broken);
        }
    }

    [Test]
    public void DiffNamesWhatDiffers()
    {
        var other = new TuningStore(scratch["other"]);
        Store(Only(Key(), Flat));
        Store(Only(Key(n: 1), Flat));
        Store(Only(Key(n: 2), Flat));
        Assert.That(other.TryWrite(Only(Key(), Flat, Date.AddDays(5)), out _) && other.TryWrite(Only(Key(n: 2), Gemv), out _)
            && other.TryWrite(Only(Key(n: 3), Gemv), out _), Is.True);
        ImmutableArray<TuningDifference> diff = TuningStore.Diff(store, other);
        Assert.That(diff.Select(d => (d.Key, d.Left is null, d.Right is null)), Is.EqualTo(new[]
            { (Key(n: 1).Text, false, true), (Key(n: 2).Text, false, false), (Key(n: 3).Text, true, false) }));
    }

    [Test, Platform("Linux")]
    public void TheDefaultDirectoryFollowsXdg()
    {
        string? before = Environment.GetEnvironmentVariable("XDG_CACHE_HOME");
        try
        {
            Environment.SetEnvironmentVariable("XDG_CACHE_HOME", "/somewhere");
            Assert.That(TuningStore.DefaultDirectory, Is.EqualTo("/somewhere/kernels"));
            Environment.SetEnvironmentVariable("XDG_CACHE_HOME", "relative");
            Assert.That(TuningStore.DefaultDirectory, Does.EndWith("/.cache/kernels"));
        }
        finally
        {
            Environment.SetEnvironmentVariable("XDG_CACHE_HOME", before);
        }
    }
}
