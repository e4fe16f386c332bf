namespace Kernels;

/// <summary>One kernel of a device by name: found, and its image loaded, when it is first launched.</summary>
internal sealed unsafe class GpuKernel(GpuDriver gpu, string file, string name)
{
    private const int Unasked = 48 * 1024;  // dynamic shared memory that every kernel may have

    private nint _function;
    private int _granted = Unasked;

    public string Name => name;

    public GpuKernelFacts Facts => gpu.Facts(Function());

    /// <summary>Launches with <paramref name="args"/>, which is copied, as the kernel's only parameter.</summary>
    public void Launch<T>(in GpuGrid grid, nint stream, in T args) where T : unmanaged
    {
        nint function = _function != 0 ? _function : Function();
        if (grid.SharedBytes > _granted) Grant(function, grid.SharedBytes);
        fixed (T* at = &args) gpu.Launch(function, grid, stream, at, sizeof(T));
    }

    // Two threads that come at once find the same.
    private nint Function() => _function = gpu.Function(gpu.Module(file), name);

    private void Grant(nint function, int bytes)
    {
        if (bytes > gpu.Limits.SharedBytesPerBlock)
            throw new KernelsException(Status.Unsupported, name, $"needs {bytes} bytes of shared memory, a block of {gpu.Limits.Name} has {gpu.Limits.SharedBytesPerBlock}") { DeviceFailure = DeviceFailure.TooLarge };
        gpu.GrantShared(function, bytes);
        _granted = bytes;
    }
}
