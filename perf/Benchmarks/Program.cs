using BenchmarkDotNet.Columns;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Diagnosers;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Loggers;
using BenchmarkDotNet.Reports;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.NoEmit;
using BenchmarkDotNet.Validators;

// dotnet run -c Release --project perf/Benchmarks [-- --filter '*Span*']
// Fails when a call of Run allocates: that is a promise of the library, not a figure.
var job = Job.Default.WithToolchain(InProcessNoEmitToolchain.Instance).WithId("in process");
IConfig config = ManualConfig.CreateEmpty().AddJob(args.Contains("--short") ? job.WithWarmupCount(3).WithIterationCount(5) : job)
    .AddColumnProvider(DefaultColumnProviders.Instance).AddLogger(ConsoleLogger.Default).AddDiagnoser(MemoryDiagnoser.Default)
    .AddValidator(JitOptimizationsValidator.DontFailOnError).WithOptions(ConfigOptions.DisableLogFile);
Summary[] summaries = [.. BenchmarkSwitcher.FromAssembly(typeof(Program).Assembly).Run([.. args.Where(a => a != "--short"), .. args.Contains("--filter") ? (string[])[] : ["--filter", "*"]], config)];
bool allocates = summaries.SelectMany(s => s.Reports).Any(r => r.GcStats.GetBytesAllocatedPerOperation(r.BenchmarkCase) is > 0);
if (allocates) Console.Error.WriteLine("A call allocates.");
return allocates || summaries.Length == 0 || summaries.Any(s => s.Reports.Any(r => !r.Success)) ? 1 : 0;
