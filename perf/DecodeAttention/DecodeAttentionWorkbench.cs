using System.Runtime.InteropServices;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels.Perf;

internal sealed partial class DecodeAttentionOperation
{
    public override Workbench Open(Layer layer, IReadOnlyList<int> points, Conditions on, TuningStore store) => new DecodeAttentionWorkbench((DecodeAttentionLayer)layer, on, store);

    public override Work WorkOf(Layer layer, int at) => WorkOf((DecodeAttentionLayer)layer, at);

    /// <summary>Keys that a token sees, and of them and their values the bytes and multiply-adds.</summary>
    internal static Work WorkOf(DecodeAttentionLayer layer, int at)
    {
        DecodeAttentionOptions o = layer.Options, one = o with { MaxBatch = 1 };
        int[] seen = [.. layer.KvLens(at).Select(l => o.Window > 0 ? Math.Min(l, o.Window + o.MaxQLen - 1) : l)];
        return new Work(seen.Sum(one.KvBytes), 2.0 * o.MaxQLen * o.QHeads * seen.Sum(l => (long)l) * (o.HeadDim + o.ValueDim), o.Query == DType.BFloat16 ? ["bf16", "f32"] : ["f32"]);
    }
}

/// <summary>Operands of one attention at one kv_len after the other, with the calls of ours and of a peer on them.</summary>
internal sealed unsafe class DecodeAttentionWorkbench(DecodeAttentionLayer layer, Conditions on, TuningStore store) : Workbench
{
    private readonly Dictionary<string, (KnSoftmax Softmax, long Recomputed)> _ran = [];
    private DecodeAttentionTrial? _trial;
    private CallTimer? _timer;
    private bool _norms;
    private int _at;

    public override Layer Layer => layer;

    public override CallTimer Timer => _timer ?? throw new InvalidOperationException("no calls were made");

    public override Work WorkAt(int at)
    {
        Work work = DecodeAttentionOperation.WorkOf(layer, at);
        // Tensor cores add products of f16 in f32; no CPU does.
        return on.Device.Gpu is not null && layer.Options.Query == DType.Float16 ? work with { PeakKinds = ["f16", "f32"] } : work;
    }

    public override long? RecomputedRows(string dataflow) => _ran.TryGetValue(dataflow, out var ran) && ran.Softmax is KnSoftmax.Unified or KnSoftmax.Bounded ? ran.Recomputed : null;

    public override string? SoftmaxOf(string dataflow) => _ran.TryGetValue(dataflow, out var ran) ? ran.Softmax.ToString().ToLowerInvariant() : null;

    /// <summary>
    /// Chosen first; with <paramref name="every"/> the best launch of every row and every softmax by the model, on a cache that keeps key norms:
    /// all four can be compared, whatever a plan of these options may choose.
    /// </summary>
    public override IReadOnlyList<TimedCall> Calls(int at, int threads, bool every)
    {
        if (!Narrow(at, every && !layer.Options.BatchInvariant)) return [];
        DecodeAttentionOptions options = layer.Options with { Threads = threads, MaxKvLen = at };
        Segment<KnDecodeAttentionProblem> chosen = DecodeAttentionSelection.Choose(on.Device, options, layer.Phi, store, on.Cache)[^1];
        var calls = new List<(Row Row, KnLaunch Launch)> { (chosen.Row, chosen.Launch) };
        if (every) calls.AddRange(Others(options, at));
        return [.. calls.DistinctBy(c => c.Row.Dataflow(c.Launch)).Select(c => Call(c.Row, c.Launch))];
    }

    private IEnumerable<(Row, KnLaunch)> Others(DecodeAttentionOptions options, int at)
    {
        foreach (Row row in on.Device.Table.Of(KnOp.DecodeAttention).Where(r => on.Device.Table.Runs(r, out _)))
            foreach (SoftmaxDataflow softmax in (SoftmaxDataflow[])[SoftmaxDataflow.Sync, SoftmaxDataflow.Lazy, SoftmaxDataflow.Unified, SoftmaxDataflow.Bounded])
            {
                var selection = new DecodeAttentionSelection(on.Device, options with { Row = row.Name, Softmax = softmax, KeyNorms = _norms }, layer.Phi);
                if (!row.Launches(options.Threads).Any(l => selection.Accepts(row, at, l))) continue;
                (_, KnLaunch launch, _) = selection.Best(at);
                yield return (row, launch);
            }
    }

    /// <summary>False where the cache alone is more than a measurement may take of this machine's memory.</summary>
    private bool Narrow(int at, bool norms = false)
    {
        if (_at == at && _trial is not null) return true;
        Dispose();
        long bytes = layer.KvBytes(at);
        if (bytes > CallTimer.MemoryCap)
        {
            Screen.Note($"{layer.Case}, {layer.Extents}, kv_len {Format.Int(at)}: left out, {Format.Bytes(bytes)} of cache are more than a third of this machine's memory");
            return false;
        }
        int copies = CallTimer.Copies(on.Device, on.Cache, bytes);
        (_at, _norms) = (at, norms || layer.Options.KeyNorms);
        _trial = new DecodeAttentionTrial((layer.Options with { KeyNorms = _norms }).Problem(at, layer.Phi), new DecodeAttentionData(7)
        {
            KvLens = layer.KvLens(at),
            QLens = [.. Enumerable.Repeat(layer.Options.MaxQLen, layer.Options.MaxBatch)],
            HeadMajor = layer.Layout == KvLayout.Hnd,
            Phi = layer.Reference,
            Copies = copies,
            SampleRows = 8,
        });
        _timer = CallTimer.On(on.Device, copies, on.Cache, on.Eager);
        return true;
    }

    /// <summary>A call that has been run once and found right: a wrong result has no speed.</summary>
    private TimedCall Call(Row row, KnLaunch launch)
    {
        DecodeAttentionTrial trial = _trial!;
        if (!trial.Prepare(row, launch, out string error)) throw new KernelsException(Status.Unsupported, row.Name, error);
        var call = new TimedCall(row.Dataflow(launch).ToString(), copy =>
        {
            KnStatus done = _timer is DeviceTimer timer ? trial.TurnThere((GpuRow)row, launch, copy, timer.Stream.Handle) : trial.Turn(row, launch, copy);
            if (done != KnStatus.Ok) throw row.Failure(done);
        });
        trial.Poison();
        if (trial.Run(row, launch) is var ran and not KnStatus.Ok) throw row.Failure(ran);
        DecodeAttentionVerdict verdict = trial.Check();
        _ran[call.Name] = ((KnSoftmax)row.Value(launch, DecodeAttentionSelection.Softmax), trial.Recomputed);
        return verdict.Ok ? call : throw new KernelsException(Status.Internal, call.Name, $"{layer.Case}, kv_len {_at}: {verdict}");
    }

    public override IReadOnlyList<PeerCall> Peers(int at, int threads, PeerSet peers, List<string> reasons)
    {
        if (!Narrow(at)) return [];
        DecodeAttentionOptions o = layer.Options;
        if (on.Device.Gpu is not null) return Torch(peers, at, 0, reasons) is { } fused ? [fused] : [];
        if (o.Kv != o.Query || o.Output != o.Query || o.Query == DType.Float16)
        {
            reasons.Add($"no peer takes {layer.Dtypes}");
            return [];
        }
        if (layer.Ragged || o.Window > 0 || o.SoftCap > 0 || o.Alibi || o.Sinks || o.Mask == AttentionMask.Tree)
        {
            reasons.Add("oneDNN's composition takes sequences of one length, without window, softcap, ALiBi, sinks and trees");
            return [];
        }
        if (o.PageSize > 0) reasons.Add("oneDNN has no pages: its k and v are contiguous, of the same size");
        if (o.MaxQLen > 1) reasons.Add("oneDNN's composition has no causal mask: its q_len tokens see every key, which is a little more work and no mask");
        var calls = new List<PeerCall>();
        foreach (Peer peer in peers.Native)
            if (Peer(peer, at, threads == 0 ? Device.Cpu.Threads : threads, reasons) is { } call) calls.Add(call);
        if (Torch(peers, at, threads == 0 ? Device.Cpu.Threads : threads, reasons) is { } torch) calls.Add(torch);
        return calls;
    }

    /// <summary>PyTorch's fused attention on a contiguous cache: no pages, no mask, one type.</summary>
    private PeerCall? Torch(PeerSet peers, int at, int threads, List<string> reasons)
    {
        DecodeAttentionOptions o = layer.Options;
        if (o.Kv != o.Query || o.Output != o.Query || Cublas.TypeOf(o.Kv) is null || o.Window > 0 || o.SoftCap > 0 || o.Alibi || o.Sinks || o.Mask == AttentionMask.Tree)
        {
            reasons.Add($"PyTorch's fused attention takes f32, bf16 or f16 throughout, without window, softcap, ALiBi, sinks and trees, not {layer.Case}, {layer.Dtypes}");
            return null;
        }
        if (o.PageSize > 0) reasons.Add("PyTorch's fused attention has no pages: its k and v are contiguous, of the same size");
        if (o.MaxQLen > 1 && o.Mask == AttentionMask.Causal) reasons.Add("PyTorch's fused attention is called without a causal mask: its q_len tokens see every key, which is a little more work and no mask");
        var shape = new Dictionary<string, object>
        {
            ["batch"] = o.MaxBatch,
            ["kv_heads"] = o.KvHeads,
            ["rows"] = o.QHeads / o.KvHeads * o.MaxQLen,
            ["head_dim"] = o.HeadDim,
            ["v_head_dim"] = o.ValueDim,
            ["kv_len"] = at,
            ["scale"] = o.ScoreScale,
            ["head_major"] = layer.Layout == KvLayout.Hnd,
        };
        PeerCall? call = peers.Torch.TryCreate(on.Device, shape, "decode_attention", o.Kv, _timer!.Count, threads, !on.Eager, out string reason);
        if (call is null) reasons.Add(reason);
        return call;
    }

    private PeerCall? Peer(Peer peer, int at, int threads, List<string> reasons)
    {
        DecodeAttentionOptions o = layer.Options;
        bool hnd = layer.Layout == KvLayout.Hnd;
        int rows = o.QHeads / o.KvHeads * o.MaxQLen, element = o.Kv.Bits() / 8;
        var problem = new PeerAttentionProblem
        {
            Type = (int)o.Kv,
            Batch = o.MaxBatch,
            KvHeads = o.KvHeads,
            Rows = rows,
            HeadDim = o.HeadDim,
            VHeadDim = o.ValueDim,
            KvLen = at,
            Threads = threads,
            Scale = _trial!.Args.Scale,
            KBatch = (long)at * o.KvHeads * o.HeadDim,
            KHead = hnd ? (long)at * o.HeadDim : o.HeadDim,
            KToken = hnd ? o.HeadDim : (long)o.KvHeads * o.HeadDim,
            VBatch = (long)at * o.KvHeads * o.ValueDim,
            VHead = hnd ? (long)at * o.ValueDim : o.ValueDim,
            VToken = hnd ? o.ValueDim : (long)o.KvHeads * o.ValueDim,
        };
        if (!peer.TryCreate(problem, out PeerAttention? attention, out string reason))
        {
            reasons.Add(reason);
            return null;
        }
        DecodeAttentionTrial trial = _trial;
        Buffer<byte> q = Buffer<byte>.Allocate((long)o.MaxBatch * o.KvHeads * rows * o.HeadDim * element), result = Buffer<byte>.Allocate((long)o.MaxBatch * o.KvHeads * rows * o.ValueDim * element);
        trial.CopyQ(q.Pointer);
        nint qs = (nint)q.Pointer, outs = (nint)result.Pointer;
        if (layer.KvBytes(at) <= MostChecked) Require(peer.Name, attention!, problem, qs, outs, reasons);
        else reasons.Add($"{peer.Name} was not held to the exact result where the cache is larger than {Format.Bytes(MostChecked)}");
        // Pages in their random order are as good a cache as any: how long a peer takes does not depend on what they hold.
        var call = new TimedCall(peer.Name, copy => attention!.Run((void*)qs, trial.Call(copy).K, trial.Call(copy).V, (void*)outs));
        call.Run(0);
        return new PeerCall(peer.Name, call, new Held(attention!, q, result));
    }

    // The copy without pages is memory beside that of the trial.
    private const long MostChecked = 1L << 30;

    /// <summary>A peer is held to what our rows are held to, on a copy of the cache without pages: in rows of the last new token, which sees every key as all of the peer's do.</summary>
    private void Require(string name, PeerAttention attention, in PeerAttentionProblem problem, nint q, nint result, List<string> reasons)
    {
        DecodeAttentionTrial trial = _trial!;
        DecodeAttentionOptions o = layer.Options;
        int element = o.Kv.Bits() / 8, group = o.QHeads / o.KvHeads;
        using Buffer<byte> k = Buffer<byte>.Allocate(problem.Batch * problem.KBatch * element), v = Buffer<byte>.Allocate(problem.Batch * problem.VBatch * element);
        trial.CopyCache(values: false, problem.KBatch, problem.KToken, problem.KHead, k.Pointer);
        trial.CopyCache(values: true, problem.VBatch, problem.VToken, problem.VHead, v.Pointer);
        attention.Run((void*)q, k.Pointer, v.Pointer, (void*)result);
        DecodeAttentionTrial.Rows rows = trial.Expect();
        double allowed = 2 * rows.PlainError + rows.Spread;
        int looked = 0;
        foreach (DecodeAttentionTrial.RowExpected row in rows.Each.Where(r => r.Token % o.MaxQLen == o.MaxQLen - 1))
        {
            looked++;
            long at = ((row.Sequence * (long)o.KvHeads + row.Head / group) * problem.Rows + (o.MaxQLen - 1) * group + row.Head % group) * o.ValueDim;
            for (int d = 0; d < o.ValueDim; d++)
                if (DecodeAttentionTrial.Decode(o.Output, (void*)result, at + d) is var theirs && !(Math.Abs(theirs - row.Out[d].Value) <= allowed))
                    throw new KernelsException(Status.Internal, name, $"{layer.Case}, kv_len {_at}: {theirs:r} at [{row.Token}, {row.Head}, {d}], exact {row.Out[d].Value:r}, off by {allowed:0.##e+0} at most");
        }
        if (looked == 0) reasons.Add($"{name} was not held to the exact result: no row of a last token is among those looked at");
    }

    public override void Dispose()
    {
        _timer?.Dispose();
        _trial?.Dispose();
        (_timer, _trial) = (null, null);
    }

    private sealed class Held(PeerAttention attention, params Buffer<byte>[] buffers) : IDisposable
    {
        public void Dispose()
        {
            attention.Dispose();
            foreach (Buffer<byte> buffer in buffers) buffer.Dispose();
        }
    }
}
