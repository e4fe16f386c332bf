namespace Kernels;

/// <summary>Checks of views that a call brings on a GPU beside its matrices: lists and tables.</summary>
internal static class DeviceViews
{
    /// <summary>The length of a contiguous list of <paramref name="least"/> to <paramref name="most"/> elements on the device.</summary>
    public static int List<T>(Device device, in TensorView<T> view, string name, long most, long least = 0) where T : unmanaged
    {
        KernelsException.Require(view.Rank == 1 && (view.Stride(0) == 1 || view.Shape(0) <= 1), name, "one dimension, contiguous");
        if (least == most) KernelsException.Require(view.Shape(0) == most, name, $"{most} values, not {view.Shape(0)}");
        KernelsException.Require(view.Shape(0) >= least && view.Shape(0) <= most, name, $"{least} to {most} values, not {view.Shape(0)}");
        KernelsException.Require(view.Buffer.Device.Shares(device), name, $"a buffer on {device}, not on {view.Buffer.Device}");
        return (int)view.Shape(0);
    }

    /// <summary>The columns of a table of so many rows on the device, the last dimension contiguous.</summary>
    public static long Table<T>(Device device, in TensorView<T> view, string name, long rows) where T : unmanaged
    {
        KernelsException.Require(view.Rank == 2 && (view.Stride(1) == 1 || view.Shape(1) <= 1) && view.Shape(0) == rows, name, $"{rows} rows, the last dimension contiguous");
        KernelsException.Require(view.Buffer.Device.Shares(device), name, $"a buffer on {device}, not on {view.Buffer.Device}");
        return view.Shape(1);
    }
}
