using System.Runtime.InteropServices;
using Kernels.Interop.Cuda;
using Kernels.Interop.Native;

namespace Kernels.Tests.Simt;

/// <summary>
/// Tensor copies, mbarriers and wgmma: layouts against the PTX ISA ("Shared memory matrix layout", 128-byte swizzle; "Register
/// fragments for wgmma.mma_async.m64nNk16"), and each planted fault of native/simt/kernels/faults_sm90.cu.
/// </summary>
[TestFixture]
public sealed unsafe class SimtSm90Tests
{
    private const int GlobalBounds = 2, Uninitialised = 5, Race = 6, Divergent = 7, Async = 8, Trap = 9, SharedBounds = 1, Misaligned = 4;
    private const int Rows = 64, K = 64;  // of a; k of a tile

    /// <summary>The argument of the kernels in *_sm90.cu.</summary>
    [StructLayout(LayoutKind.Sequential, Size = 192)]
    private struct TensorTestArgs
    {
        public CUtensorMap Map;
        public SimtTestArgs Test;
    }

    [TearDown]
    public void FreeMemory()
    {
        SimtLibrary.Get(check: true).FreeAll();
        SimtLibrary.Get(check: false).FreeAll();
    }

    private static KnSimtTensor Tensor(nint address, (long X, long Y, long Z) shape, (int Y, int Z) box, (long Y, long Z)? strides = null)
    {
        var tensor = new KnSimtTensor { Size = (uint)sizeof(KnSimtTensor), ElementBytes = 2, Address = (void*)address };
        (tensor.Shape[0], tensor.Shape[1], tensor.Shape[2]) = shape;
        (tensor.Strides[0], tensor.Strides[1]) = strides ?? (shape.X * 2, shape.X * shape.Y * 2);
        (tensor.Box[0], tensor.Box[1], tensor.Box[2]) = (K, box.Y, box.Z);
        return tensor;
    }

    private static TensorTestArgs Args(SimtLibrary simt, KnSimtTensor tensor, nint output, long n = 0, long mode = 0)
    {
        var args = new TensorTestArgs { Test = new() { Out = output, N = n, Mode = mode } };
        Assert.That(simt.Table.EncodeTensor(&tensor, &args.Map), Is.Zero, simt.LastError);
        return args;
    }

    /// <summary>Boxes inside, over every edge, and wholly outside of a tensor of [2, 11, 100] with gaps.</summary>
    [Test, Combinatorial]
    public void TensorCopies([Values] bool check, [Values(-500, -3, 0, 40, 99, 200)] int x, [Values(-2, 0, 9, 11)] int y, [Values(-1, 0, 1)] int z)
    {
        const int Wide = 100, High = 11, Deep = 2, Pitch = 104, Plane = Pitch * (High + 1), BoxY = 8, BoxZ = 2;
        ushort[] values = [.. Enumerable.Range(1, Plane * Deep).Select(i => (ushort)i)];
        SimtLibrary simt = SimtLibrary.Get(check);
        const int Bytes = BoxZ * BoxY * K * 2;
        nint output = simt.Allocate(Bytes);
        KnSimtTensor tensor = Tensor(simt.Upload<ushort>(values), (Wide, High, Deep), (BoxY, BoxZ), (Pitch * 2, Plane * 2));
        simt.Run("simt_copy_tensor", 1, 64, Bytes, Args(simt, tensor, output, x + 500 + (y + 500) * 1000L + (z + 500) * 1_000_000L));
        ushort[] got = simt.Download<ushort>(output, Bytes / 2);
        for (int i = 0; i < got.Length; i++)
        {
            // Piece p of 16 bytes of row r lies at p ^ r % 8.
            int row = i / K, element = (i % K / 8 ^ row % 8) * 8 + i % 8, cx = x + element, cy = y + row % BoxY, cz = z + row / BoxY;
            bool inside = cx >= 0 && cx < Wide && cy >= 0 && cy < High && cz >= 0 && cz < Deep;
            Assert.That(got[i], Is.EqualTo(inside ? values[cz * Plane + cy * Pitch + cx] : 0), $"row {row}, element {element}");
        }
    }

    [Test, Combinatorial]
    public void Wgmma([Values] bool check,
        [Values("bf16_n8", "bf16_n16", "bf16_n128", "f16_n8", "f16_n64", "transposed_bf16_n8", "transposed_bf16_n32", "transposed_f16_n16", "registers_bf16_n8", "registers_bf16_n64")] string kind, [Values] bool early)
    {
        bool transposed = kind.StartsWith("transposed", StringComparison.Ordinal);
        int n = int.Parse(kind.Split("_n")[^1], null);
        var random = new Random(n);
        float[] tile = [.. Enumerable.Range(0, (Rows + n) * K).Select(_ => (float)random.Next(-9, 10))];  // exact in every order
        ushort[] bits = [.. tile.Select(v => kind.Contains("bf16", StringComparison.Ordinal) ? (ushort)(BitConverter.SingleToUInt32Bits(v) >> 16) : BitConverter.HalfToUInt16Bits((Half)v))];
        SimtLibrary simt = SimtLibrary.Get(check);
        nint output = simt.Allocate(Rows * n * 4);
        KnSimtTensor tensor = Tensor(simt.Upload<ushort>(bits), (K, Rows + n, 1), (Rows + n, 1));
        simt.Run($"simt_wgmma_{kind}", 1, 128, (Rows + n) * K * 2, Args(simt, tensor, output, mode: early ? 1 : 0));
        float[] d = simt.Download<float>(output, Rows * n);
        for (int thread = 0; thread < 128; thread++)
        {
            for (int i = 0; i < n / 2; i++)
            {
                // d(i): row = 16 warp + groupID, + 8 for (i / 2) % 2; col = 8 (i / 4) + 2 threadID_in_group + i % 2.
                int row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + thread % 4 * 2 + i % 2;
                float sum = i + Enumerable.Range(0, K).Sum(k => tile[transposed ? k * K + row : row * K + k] * tile[(Rows + column) * K + k]);
                Assert.That(d[thread * n / 2 + i], early ? Is.NaN : Is.EqualTo(sum), $"({row}, {column})");
            }
        }
    }

    /// <summary>wgmma.m64nNk32 of s8: an accumulator lies as one of m64nNk16.</summary>
    [Test, Combinatorial]
    public void WgmmaOfBytes([Values] bool check, [Values(8, 128)] int n)
    {
        const int Bytes = 128;
        var random = new Random(n);
        sbyte[] tile = [.. Enumerable.Range(0, (Rows + n) * Bytes).Select(_ => (sbyte)random.Next(-128, 128))];
        SimtLibrary simt = SimtLibrary.Get(check);
        nint output = simt.Allocate(Rows * n * 4);
        KnSimtTensor tensor = Tensor(simt.Upload<sbyte>(tile), (Bytes, Rows + n, 1), (Rows + n, 1), (Bytes, Bytes)) with { ElementBytes = 1 };
        tensor.Box[0] = Bytes;
        simt.Run($"simt_wgmma_s8_n{n}", 1, 128, (Rows + n) * Bytes, Args(simt, tensor, output));
        int[] d = simt.Download<int>(output, Rows * n);
        for (int i = 0; i < d.Length; i++)
        {
            (int thread, int r) = (i / (n / 2), i % (n / 2));
            int row = thread / 32 * 16 + thread % 32 / 4 + r / 2 % 2 * 8, column = r / 4 * 8 + thread % 4 * 2 + r % 2;
            Assert.That(d[i], Is.EqualTo(r + Enumerable.Range(0, Bytes).Sum(k => tile[row * Bytes + k] * tile[(Rows + column) * Bytes + k])), $"({row}, {column})");
        }
    }

    /// <summary>stmatrix.x4.trans: of matrix i, register i of lane 4g + t holds (2t, g) low and (2t + 1, g) high.</summary>
    [Test]
    public void Stmatrix([Values] bool check)
    {
        SimtLibrary simt = SimtLibrary.Get(check);
        uint[] registers = [.. Enumerable.Range(0, 128).Select(i => (uint)(2 * i | (2 * i + 1) << 16))];
        nint output = simt.Allocate(512);
        TensorTestArgs args = new() { Test = new() { In = simt.Upload<uint>(registers), Out = output } };
        simt.Run("simt_stmatrix", 1, 32, 512, args);
        ushort[] got = simt.Download<ushort>(output, 256);
        for (int i = 0; i < 256; i++)
        {
            (int matrix, int row, int column) = (i / 64, i / 8 % 8, i % 8);
            int lane = column * 4 + row / 2;
            Assert.That(got[i], Is.EqualTo((lane * 4 + matrix) * 2 + row % 2), $"matrix {matrix} ({row}, {column})");
        }
    }

    /// <summary>Kernel, mode, kinds of which one is found: what an order of threads decides is a race or an unfinished copy.</summary>
    private static readonly (string Kernel, int Mode, int[] Kinds)[] s_planted =
    [
        ("copy_unwaited", 1, [Async]),
        ("copy_race", 1, [Race, Async]),
        ("copy_unfinished", 1, [Async]),
        ("copy_expected", 1, [Divergent]),
        ("copy_expected", 2, [Trap]),
        ("copy_bounds", 1, [GlobalBounds]),
        ("mbarrier_uninitialised", 1, [Uninitialised]),
        ("mbarrier_arrivals", 1, [Divergent]),
        ("mbarrier_overrun", 1, [Trap]),
        ("wgmma_released", 1, [Race, Async]),
        ("wgmma_proxy", 1, [Race]),
        ("wgmma_registers", 1, [Race]),
        ("wgmma_registers", 2, [Async]),
        ("wgmma_registers", 3, [Async]),
        ("wgmma_registers", 4, [Async]),
        ("wgmma_bounds", 1, [SharedBounds]),
        ("stmatrix", 1, [Race]),
        ("stmatrix", 2, [Race, Uninitialised]),
        ("stmatrix", 3, [Misaligned]),
        ("wgmma_transposed_bounds", 1, [SharedBounds]),
    ];

    private static IEnumerable<TestCaseData> Planted =>
        from order in new[] { 0u, 7u, 8u }
        from p in s_planted
        select new TestCaseData(p.Kernel, p.Mode, p.Kinds, order);

    [TestCaseSource(nameof(Planted))]
    public void PlantedFaultIsFound(string kernel, int mode, int[] kinds, uint order)
    {
        SimtLibrary simt = SimtLibrary.Get(check: true, order: order, checkGlobal: true);
        Assert.That(Launch(simt, kernel, mode), Is.EqualTo(4), "KN_DEVICE");
        SimtFault[] faults = simt.Faults();
        Assert.That(faults, Has.Length.EqualTo(1), string.Join('\n', faults.Select(f => f.Text)));
        Assert.That(kinds, Does.Contain(faults[0].Kind), faults[0].Text);
        Assert.That(PlantedLines(kernel), Has.Some.AnyOf(faults[0].Line, faults[0].OtherLine), faults[0].Text);
        Assert.That(faults[0].File, Does.EndWith("native/simt/kernels/faults_sm90.cu"));
    }

    [Test]
    public void CorrectKernelPasses([Values(0u, 7u, 8u)] uint order, [Values] bool check)
    {
        SimtLibrary simt = SimtLibrary.Get(check, order: order, checkGlobal: true);
        foreach (string kernel in s_planted.Select(p => p.Kernel).Distinct())
            Assert.That(Launch(simt, kernel, 0), Is.Zero, kernel + ": " + simt.LastError);
    }

    [Test]
    public void WrongTensorsAreRefused()
    {
        SimtLibrary simt = SimtLibrary.Get(check: true);
        KnSimtTensor sound = Tensor(simt.Allocate(1024), (64, 8, 1), (8, 1)), t = sound;
        Assert.That(Encode(simt, sound), Is.Zero);
        t.Address = (byte*)sound.Address + 8;
        Refused(t, "address");
        t = sound;
        t.Strides[0] = 120;
        Refused(t, "strides");
        t = sound;
        t.Strides[1] = 1L << 40;
        Refused(t, "strides");
        t = sound;
        t.Shape[1] = 0;
        Refused(t, "shape");
        t = sound;
        t.Box[0] = 32;
        Refused(t, "box");
        t = sound;
        t.Box[1] = 257;
        Refused(t, "box");
        Refused(sound with { ElementBytes = 3 }, "element_bytes");
        Refused(sound with { Size = 4 }, "tensor");
        Assert.That(simt.Table.EncodeTensor(&sound, null), Is.EqualTo(1));

        void Refused(KnSimtTensor wrong, string name)
        {
            Assert.That(Encode(simt, wrong), Is.EqualTo(1), name);
            Assert.That(simt.LastError, Does.StartWith(name));
        }
    }

    private static int Encode(SimtLibrary simt, KnSimtTensor tensor)
    {
        CUtensorMap map;
        return simt.Table.EncodeTensor(&tensor, &map);
    }

    private static int Launch(SimtLibrary simt, string kernel, int mode)
    {
        const int Bytes = (Rows + 8) * K * 2;
        nint output = simt.Allocate(160 * 4), tile = simt.Upload<byte>(new byte[Bytes]);
        // More rows than there are: copy_bounds reads them.
        KnSimtTensor tensor = Tensor(tile, (K, 2 * (Rows + 8), 1), (Rows + 8, 1));
        return simt.Launch("simt_fault_" + kernel, 1, 160, Bytes + (kernel == "stmatrix" ? 2048 : 0), Args(simt, tensor, output, mode: mode));
    }

    private static int[] PlantedLines(string kernel)
    {
        string[] lines = SimtLibrary.Source("faults_sm90.cu");
        int first = Array.FindIndex(lines, l => l.StartsWith($"KERNEL({kernel})", StringComparison.Ordinal)), last = Array.FindIndex(lines, first + 1, l => l.StartsWith('}'));
        return [.. Enumerable.Range(first, last - first).Where(i => lines[i].Contains("// planted", StringComparison.Ordinal)).Select(i => i + 1)];
    }
}
