using System.Reflection;
using Kernels.Tests.Gpu;

namespace Kernels.Tests;

/// <summary>The entry point of what needs a process of its own: a scenario of <see cref="DriverStubs"/>, "class.method". Test runners do not come here.</summary>
internal static class Program
{
    private static int Main(string[] arguments)
    {
        try
        {
            string[] names = arguments[0].Split('.');
            typeof(DriverStubs).Assembly.GetType($"{typeof(DriverStubs).Namespace}.{names[0]}")!.GetMethod(names[1])!.Invoke(null, BindingFlags.DoNotWrapExceptions, null, null, null);
            return 0;
        }
        catch (Exception e)
        {
            Console.Error.WriteLine(e);
            return 1;
        }
    }
}
