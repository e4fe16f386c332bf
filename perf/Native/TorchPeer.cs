using System.ComponentModel;
using System.Diagnostics;
using System.Text.Json;
using Kernels.Tuning;

namespace Kernels.Perf;

/// <summary>
/// PyTorch as a peer, on the CPU or an NVIDIA GPU: torch_peer.py in a process of its own, which holds operands of the same shape and
/// times its own calls by the same policy, a sample whenever it is its turn. Started when first asked for; absent where python3
/// or its torch is. On a GPU not yet run.
/// </summary>
internal sealed class TorchPeer : IDisposable
{
    private static readonly TimeSpan s_farewell = TimeSpan.FromSeconds(5);

    private Process? _process;
    private string? _missing;

    /// <summary>The call of a shape, which torch_peer.py describes; null, and why, where it cannot be made. One at a time.</summary>
    public PeerCall? TryCreate(Device device, Dictionary<string, object> shape, string op, DType type, int copies, int threads, bool graph, out string reason)
    {
        if (device.Kind is not (DeviceKind.Cpu or DeviceKind.Cuda))
        {
            reason = $"PyTorch is no peer on {device}";
            return null;
        }
        if (!Started())
        {
            reason = _missing!;
            return null;
        }
        JsonElement answer = Ask(new(shape) { ["op"] = op, ["device"] = Devices.NameOf(device), ["dtype"] = type.Name(), ["copies"] = copies, ["threads"] = threads, ["graph"] = graph });
        reason = answer.TryGetProperty("refused", out JsonElement refused) ? refused.GetString()! : "";
        if (reason.Length > 0) return null;
        string name = answer.GetProperty("name").GetString()!;
        return new PeerCall(name, new TimedCall(name, _ => Sample()) { Clock = Sample }, null);
    }

    private double Sample()
    {
        JsonElement answer = Ask(new() { ["op"] = "sample" });
        return answer.TryGetProperty("seconds", out JsonElement seconds) ? seconds.GetDouble() : throw new KernelsException(Status.Device, "PyTorch", answer.GetProperty("refused").GetString()!);
    }

    private bool Started()
    {
        if (_process is not null || _missing is not null) return _missing is null;
        string python = OperatingSystem.IsWindows() ? "python" : "python3";
        try
        {
            _process = Process.Start(new ProcessStartInfo(python, [Path.Combine(AppContext.BaseDirectory, "torch_peer.py")]) { RedirectStandardInput = true, RedirectStandardOutput = true })!;
            if (Answer().TryGetProperty("refused", out JsonElement refused)) _missing = refused.GetString();
        }
        catch (Win32Exception e)
        {
            _missing = $"PyTorch is missing: {python}: {e.Message}";
        }
        catch (KernelsException e)
        {
            _missing = $"PyTorch is missing: {e.Message}";
        }
        return _missing is null;
    }

    private JsonElement Ask(Dictionary<string, object> request)
    {
        _process!.StandardInput.WriteLine(JsonSerializer.Serialize(request));
        return Answer();
    }

    private JsonElement Answer() => _process!.StandardOutput.ReadLine() is { } line
        ? JsonSerializer.Deserialize<JsonElement>(line)
        : throw new KernelsException(Status.Device, "PyTorch", "an answer from torch_peer.py, which has ended");

    /// <summary>The process ends by itself when nothing more can be asked.</summary>
    public void Dispose()
    {
        if (_process is null) return;
        _process.StandardInput.Close();
        if (!_process.WaitForExit(s_farewell)) _process.Kill();
        _process.Dispose();
    }
}
