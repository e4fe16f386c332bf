namespace Kernels.Perf;

/// <summary>Exit codes, which scripts rely on.</summary>
internal static class Exit
{
    public const int Ok = 0, Bad = 1, Usage = 2, Missing = 3;

    public const string Help = "Exit codes: 0 all is well, 1 a result is bad, 2 wrong usage, 3 something it needs is missing.";
}

/// <summary>The command line asks for what cannot be meant.</summary>
internal sealed class UsageException(string sentence) : Exception(sentence);

/// <summary>A library, file or right is missing; the sentence says how to get it.</summary>
internal sealed class MissingException(string sentence) : Exception(sentence);
