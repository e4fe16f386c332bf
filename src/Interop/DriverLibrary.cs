// Finds the drivers' libraries. They are installed by the system, so only their names are ours to know.
using System.Reflection;
using System.Runtime.InteropServices;

namespace Kernels.Interop;

/// <summary>
/// Resolves the names under which imports ask for a GPU driver, or for a library that comes with one. An assembly has one resolver, and it is set by
/// <see cref="Register"/>: nothing is loaded before a device of that kind is asked for.
/// </summary>
internal static class DriverLibrary
{
    internal const string Cuda = "cuda", Hip = "amdhip64", Cublas = "cublas";

    private static int s_registered;

    internal static void Register()
    {
        if (Interlocked.Exchange(ref s_registered, 1) == 0) NativeLibrary.SetDllImportResolver(typeof(DriverLibrary).Assembly, Resolve);
    }

    /// <summary>File names in the order they are tried. ROCm changes its number with every major version and is often not on the loader's path.</summary>
    internal static string[] Candidates(string name) => (name, OperatingSystem.IsWindows()) switch
    {
        (Cuda, true) => ["nvcuda.dll"],
        (Cuda, false) => ["libcuda.so.1"],
        (Hip, true) => ["amdhip64_7.dll", "amdhip64_6.dll", "amdhip64.dll"],
        (Hip, false) => ["libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5",
            "/opt/rocm/lib/libamdhip64.so.7", "/opt/rocm/lib/libamdhip64.so.6", "/opt/rocm/lib/libamdhip64.so.5"],
        (Cublas, true) => ["cublas64_13.dll", "cublas64_12.dll"],
        (Cublas, false) => ["libcublas.so.13", "libcublas.so.12", "/usr/local/cuda/lib64/libcublas.so.13", "/usr/local/cuda/lib64/libcublas.so.12"],
        _ => [],
    };

    private static nint Resolve(string name, Assembly assembly, DllImportSearchPath? path)
    {
        foreach (string candidate in Candidates(name))
            if (NativeLibrary.TryLoad(candidate, out nint handle)) return handle;
        return 0;  // the runtime then looks under the name itself and throws DllNotFoundException, which the caller turns into a reason
    }
}
