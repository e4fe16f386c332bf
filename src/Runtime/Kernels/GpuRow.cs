using Kernels.Interop.Native;

namespace Kernels;

/// <summary>
/// A row of a GPU: kernels of one source file, launched from C#. Args hold addresses of the device. What the driver refuses is
/// this row's failure, with the driver's words; what a kernel does wrong shows at the next call that waits for it.
/// </summary>
/// <param name="gpu">The device.</param>
/// <param name="name">op/target.</param>
/// <param name="file">kernels/op/file.cu.</param>
/// <param name="kernel">One kernel of the file: where it is, the others are.</param>
internal abstract unsafe class GpuRow(GpuDriver gpu, string name, string file, string kernel) : Row
{
    [ThreadStatic] private static KernelsException? t_failure;

    public GpuDriver Gpu => gpu;

    public override string Name => name;

    /// <summary>What the device lacks to run this row, or null.</summary>
    public virtual string? Lacks => gpu.HasImage(file, kernel, out string reason) ? null : reason;

    public override string LastError => t_failure?.Message ?? "";

    public override KernelsException Failure(KnStatus status) => t_failure ?? base.Failure(status);

    public sealed override KnStatus Run(void* problem, in KnLaunch launch, void* args) => Run(problem, launch, args, 0);

    public sealed override KnStatus Run(void* problem, in KnLaunch launch, void* args, nint stream)
    {
        try
        {
            KernelsException.Require(problem != null && args != null, "problem, launch, args", "not null");
            if (!Accepts(problem, launch, out string? why)) throw new KernelsException(Status.Unsupported, name, $"requires {why}");
            Enqueue(problem, launch, args, stream);
            return KnStatus.Ok;
        }
        catch (KernelsException e)
        {
            t_failure = e;
            return (KnStatus)e.Status;
        }
    }

    /// <summary>Checks the arguments and launches.</summary>
    protected abstract void Enqueue(void* problem, in KnLaunch launch, void* args, nint stream);

    protected GpuKernel Kernel(string entry) => new(gpu, file, entry);

    protected static long RoundUp(long value, long step) => (value + step - 1) / step * step;
}
