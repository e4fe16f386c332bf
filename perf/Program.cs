using System.CommandLine;

namespace Kernels.Perf;

internal static class Program
{
    private static int Main(string[] args)
    {
        var root = new RootCommand($"Checks, times, compares and tunes the rows of Kernels on this machine. {Exit.Help}");
        foreach (Command verb in (Command[])[DoctorVerb.Create(), ListVerb.Create(), ExplainVerb.Create(), CheckVerb.Create(), BenchVerb.Create(),
            TuneVerb.Create(), CalibrateVerb.Create(), CompareVerb.Create(), ReportVerb.Create(), DbVerb.Create()])
            root.Add(verb);
        ParseResult parsed = root.Parse(args);
        if (parsed.Errors.Count > 0)
        {
            foreach (var error in parsed.Errors) Console.Error.WriteLine($"perf: {error.Message}");
            Console.Error.WriteLine("perf --help and perf VERB --help list what there is.");
            return Exit.Usage;
        }
        // The run in progress is finished and what was measured is kept, however long that takes; a second Ctrl-C ends it at once.
        return parsed.Invoke(new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = TimeSpan.FromMinutes(5) });
    }

    /// <summary>Runs a verb and turns what it throws into a sentence and a code.</summary>
    internal static int Guard(Func<int> verb)
    {
        try
        {
            return verb();
        }
        catch (UsageException e)
        {
            return Say(e.Message, Exit.Usage);
        }
        catch (MissingException e)
        {
            return Say(e.Message, Exit.Missing);
        }
        catch (KernelsException e)
        {
            return Say(e.Message, e.Status switch
            {
                Status.Invalid or Status.Unsupported => Exit.Usage,
                Status.Device or Status.AbiMismatch or Status.NoMemory => Exit.Missing,
                _ => Exit.Bad,
            });
        }
        catch (OutOfMemoryException e)
        {
            return Say($"memory ran out: {e.Message}", Exit.Missing);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return Say(e.Message, Exit.Missing);
        }
        catch (Exception e)
        {
            return Say($"a defect of perf or of the library: {e}", Exit.Bad);
        }
    }

    private static int Say(string sentence, int code)
    {
        Console.Error.WriteLine($"perf: {sentence}");
        return code;
    }
}
