using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Serialization;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>
/// Tunes one layer in a process of its own, this program called again with --child. A candidate that crashes or hangs ends that process
/// alone: it is recorded as failed, and the layer is measured again without it, in what is left of the time.
/// </summary>
internal sealed class TuneProcess(int layer, TimeSpan timeOut, Action<int, int> progress, CancellationToken cancellation)
{
    private sealed record Order(int Layer, double Seconds, Dictionary<string, Failure> Failures);

    /// <summary>A line of the child: a point that is begun, with <see cref="Stored"/> the result, or that the layer is refused.</summary>
    private sealed record Line(int At, int Done, bool? Stored = null, string Problem = "", string? Record = null, Refusal? Refused = null);

    private sealed record Refusal(Status Status, string Argument, string Rule);

    private static readonly JsonSerializerOptions s_json = new(JsonSerializerDefaults.Web) { Converters = { new JsonStringEnumConverter() } };

    public TuningResult Tune(TimeSpan budget)
    {
        long start = Stopwatch.GetTimestamp();
        string page = Path.GetTempFileName();
        var failures = new Dictionary<Dataflow, Failure>();
        try
        {
            using var watch = new TrialWatch(page, failures);
            while (true)
            {
                watch.Clear();
                using Process child = Start(page, new Order(layer, Math.Max(0, (budget - Stopwatch.GetElapsedTime(start)).TotalSeconds), failures.ToDictionary(f => f.Key.ToString(), f => f.Value)));
                Line? result = Follow(child, watch, out bool killed);
                if (result?.Refused is { } r) throw new KernelsException(r.Status, r.Argument, r.Rule);
                if (result is not null) return new TuningResult(RecordOf(result), result.Stored == true, result.Problem);
                string end = $"its process ended with code {child.ExitCode}";
                if (cancellation.IsCancellationRequested) return new TuningResult(null, false, end);
                if (watch.Running is not { } dataflow) throw new KernelsException(Status.Internal, "tune", end);
                failures[dataflow] = killed ? new Failure(FailureKind.Timeout, $"no end after {timeOut.TotalSeconds:G3} s") : new Failure(FailureKind.Crash, end);
                Screen.Note($"{dataflow}: {failures[dataflow].Detail}; measuring without it");
            }
        }
        finally
        {
            File.Delete(page);
        }
    }

    /// <summary>The other side: measures the layer that it is asked for on standard input.</summary>
    public static int Serve(string page, Func<int, TimeSpan, CancellationToken, Action<int, int>, TrialWatch, TuningResult> tune, CancellationToken cancellation)
    {
        Order order = JsonSerializer.Deserialize<Order>(Console.In.ReadLine() ?? "null", s_json) ?? throw new UsageException("--child: an order on standard input is missing");
        using var cancel = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        // Standard input ends when the other process is cancelled, or is gone.
        var ended = new Thread(() =>
        {
            if (Console.In.ReadLine() is null) cancel.Cancel();
        })
        { IsBackground = true };
        ended.Start();
        var failures = order.Failures.ToDictionary(f => Dataflow.TryParse(f.Key, out Dataflow? dataflow) ? dataflow : throw new UsageException($"--child: {f.Key}"), f => f.Value);
        using var watch = new TrialWatch(page, failures);
        try
        {
            TuningResult result = tune(order.Layer, TimeSpan.FromSeconds(order.Seconds), cancel.Token, (at, done) => Say(new Line(at, done)), watch);
            Say(new Line(0, 0, result.Stored, result.Problem, result.Record is null ? null : Convert.ToBase64String(result.Record.ToJson())));
        }
        catch (KernelsException e)
        {
            Say(new Line(0, 0, Refused: new Refusal(e.Status, e.Argument, e.Rule)));
        }
        return Exit.Ok;
    }

    private static void Say(Line line) => Console.Out.WriteLine(JsonSerializer.Serialize(line, s_json));

    private static TuningRecord? RecordOf(Line line) =>
        line.Record is null ? null : TuningRecord.Parse("the child's", TuningSource.User, Convert.FromBase64String(line.Record)).Record;

    private static Process Start(string page, Order order)
    {
        string[] arguments = Environment.GetCommandLineArgs();
        string program = Environment.ProcessPath ?? "dotnet";
        bool hosted = Path.GetFileNameWithoutExtension(program) == "dotnet";
        var start = new ProcessStartInfo(program, [.. hosted ? arguments[..1] : [], .. arguments[1..], "--child", page]) { RedirectStandardInput = true, RedirectStandardOutput = true };
        Process child = Process.Start(start) ?? throw new MissingException($"{program} cannot be started");
        child.StandardInput.WriteLine(JsonSerializer.Serialize(order, s_json));
        child.StandardInput.Flush();
        return child;
    }

    /// <summary>The result, or null where the child ended without one; it is ended when one candidate runs for too long.</summary>
    private Line? Follow(Process child, TrialWatch watch, out bool killed)
    {
        Line? result = null;
        child.OutputDataReceived += (_, e) =>
        {
            if (e.Data is not ['{', ..] || JsonSerializer.Deserialize<Line>(e.Data, s_json) is not { } line) return;
            if (line.Stored is null && line.Refused is null) progress(line.At, line.Done);
            else result = line;
        };
        child.BeginOutputReadLine();
        using CancellationTokenRegistration cancelled = cancellation.Register(child.StandardInput.Close);
        killed = false;
        (long beats, long since) = (watch.Beats, Stopwatch.GetTimestamp());
        while (!child.WaitForExit(100))
        {
            if (watch.Beats != beats) (beats, since) = (watch.Beats, Stopwatch.GetTimestamp());
            else if (beats % 2 != 0 && !killed && Stopwatch.GetElapsedTime(since) > timeOut)
            {
                killed = true;
                child.Kill(entireProcessTree: true);
            }
        }
        child.WaitForExit();  // the last lines are read
        return result;
    }
}
