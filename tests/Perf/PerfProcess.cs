using System.Diagnostics;
using System.Text.Json;

namespace Kernels.Tests.Perf;

/// <summary>The perf CLI in a process of its own, as a script starts it: nothing is a terminal.</summary>
internal sealed record PerfProcess(int Code, string Output, string Error)
{
    public const int Ok = 0, Bad = 1, Usage = 2, Missing = 3;

    public static string Root => Path.GetFullPath(Path.Combine(AppContext.BaseDirectory, "../../../.."));

    public static PerfProcess Run(params ReadOnlySpan<string> arguments) => Run([], arguments);

    public static PerfProcess Run((string Name, string Value)[] environment, params ReadOnlySpan<string> arguments)
    {
        string perf = Path.Combine(Root, "perf", "bin", AppContext.BaseDirectory.Contains("Release", StringComparison.Ordinal) ? "Release" : "Debug", "net10.0", "perf.dll");
        var start = new ProcessStartInfo("dotnet", [perf, .. arguments]) { RedirectStandardOutput = true, RedirectStandardError = true };
        foreach ((string name, string value) in environment) start.Environment[name] = value;
        using Process process = Process.Start(start)!;
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return new PerfProcess(process.ExitCode, output, error.Result);
    }

    /// <summary>Standard output, which must be JSON and nothing else.</summary>
    public JsonElement Json()
    {
        using JsonDocument document = JsonDocument.Parse(Output);
        return document.RootElement.Clone();
    }

    public PerfProcess Expect(int code)
    {
        Assert.That(Code, Is.EqualTo(code), $"{Output}\n{Error}");
        return this;
    }
}
