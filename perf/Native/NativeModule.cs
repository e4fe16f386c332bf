// How perf finds its own native libraries: by path, so that a missing one is a reason and not a crash.
using System.Runtime.InteropServices;

namespace Kernels.Perf;

/// <summary>A loaded library, kept until the process ends: peers leave threads behind that must not lose their code.</summary>
internal readonly struct NativeModule
{
    private readonly nint _handle;

    private NativeModule(nint handle) => _handle = handle;

    /// <summary>Loads library <paramref name="name"/> (without prefix and suffix) of <paramref name="directory"/>.</summary>
    internal static bool TryLoad(string directory, string name, out NativeModule module, out string reason)
    {
        module = default;
        string file = OperatingSystem.IsWindows() ? $"{name}.dll" : OperatingSystem.IsMacOS() ? $"lib{name}.dylib" : $"lib{name}.so";
        string path = Path.GetFullPath(Path.Combine(directory, file));
        if (!File.Exists(path))
        {
            reason = $"{path} does not exist";
            return false;
        }
        try
        {
            module = new NativeModule(NativeLibrary.Load(path));
            reason = "";
            return true;
        }
        catch (Exception e) when (e is DllNotFoundException or BadImageFormatException)
        {
            reason = e.Message;
            return false;
        }
    }

    internal nint Export(string name) => NativeLibrary.GetExport(_handle, name);
}
