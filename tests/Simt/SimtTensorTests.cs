using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Kernels.Tests.Simt;

/// <summary>
/// mma.sync, ldmatrix and cp.async against the layouts in the PTX ISA, section "Warp-level matrix instructions", here as
/// functions from a lane and an element to a row and a column.
/// </summary>
[TestFixture]
public sealed class SimtTensorTests
{
    [TearDown]
    public void FreeMemory()
    {
        SimtLibrary.Get(check: true).FreeAll();
        SimtLibrary.Get(check: false).FreeAll();
    }

    // PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type": groupID = laneid >> 2, threadID_in_group = laneid % 4.
    // A: row = groupID for a0 a1 a4 a5, else + 8; col = threadID * 2 + (i & 1) for i < 4, else + 8.
    private static (int Row, int K) A16(int lane, int i) => ((lane >> 2) + (i is 2 or 3 or 6 or 7 ? 8 : 0), lane % 4 * 2 + (i & 1) + (i < 4 ? 0 : 8));

    // B: row = threadID * 2 + (i & 1) for i < 2, else + 8; col = groupID.
    private static (int K, int Column) B16(int lane, int i) => (lane % 4 * 2 + (i & 1) + (i < 2 ? 0 : 8), lane >> 2);

    // C and D: row = groupID for c0 c1, else + 8; col = threadID * 2 + (i & 1).
    private static (int Row, int Column) C(int lane, int i) => ((lane >> 2) + (i < 2 ? 0 : 8), lane % 4 * 2 + (i & 1));

    // "Matrix Fragments for mma.m16n8k32": A: row = groupID for 0 <= i < 4 and 8 <= i < 12, else + 8; col = threadID * 4 + (i & 3), + 16 for i >= 8.
    private static (int Row, int K) A8(int lane, int i) => ((lane >> 2) + (i is < 4 or (>= 8 and < 12) ? 0 : 8), lane % 4 * 4 + (i & 3) + (i < 8 ? 0 : 16));

    // B: row = threadID * 4 + (i & 3), + 16 for i >= 4; col = groupID.
    private static (int K, int Column) B8(int lane, int i) => (lane % 4 * 4 + (i & 3) + (i < 4 ? 0 : 16), lane >> 2);

    [Test]
    public void Mma16([Values] bool check, [Values] bool bf16)
    {
        // Small integers: every product and sum is exact in every order.
        var random = new Random(11);
        float[,] a = Integers(random, 16, 16), b = Integers(random, 16, 8), c = Integers(random, 16, 8);
        byte[] registers = new byte[32 * 40];
        for (int lane = 0; lane < 32; lane++)
        {
            Span<byte> own = registers.AsSpan(lane * 40, 40);
            for (int i = 0; i < 8; i++) Write16(own[(i * 2)..], a[A16(lane, i).Row, A16(lane, i).K], bf16);
            for (int i = 0; i < 4; i++) Write16(own[(16 + i * 2)..], b[B16(lane, i).K, B16(lane, i).Column], bf16);
            for (int i = 0; i < 4; i++) BinaryPrimitives.WriteSingleLittleEndian(own[(24 + i * 4)..], c[C(lane, i).Row, C(lane, i).Column]);
        }
        SimtLibrary simt = SimtLibrary.Get(check);
        nint output = simt.Allocate(32 * 16);
        simt.Run("simt_mma", 1, 32, 0, new() { In = simt.Upload<byte>(registers), Out = output, Mode = bf16 ? 0 : 1 });
        float[] d = simt.Download<float>(output, 128);
        for (int lane = 0; lane < 32; lane++)
        {
            for (int i = 0; i < 4; i++)
            {
                (int row, int column) = C(lane, i);
                float expected = c[row, column] + Enumerable.Range(0, 16).Sum(k => a[row, k] * b[k, column]);
                Assert.That(d[lane * 4 + i], Is.EqualTo(expected), $"({row}, {column})");
            }
        }
    }

    [Test]
    public void Mma8([Values] bool check)
    {
        var random = new Random(12);
        sbyte[,] a = Bytes(random, 16, 32), b = Bytes(random, 32, 8);
        byte[] registers = new byte[32 * 40];
        for (int lane = 0; lane < 32; lane++)
        {
            Span<byte> own = registers.AsSpan(lane * 40, 40);
            for (int i = 0; i < 16; i++) own[i] = (byte)a[A8(lane, i).Row, A8(lane, i).K];
            for (int i = 0; i < 8; i++) own[16 + i] = (byte)b[B8(lane, i).K, B8(lane, i).Column];
            for (int i = 0; i < 4; i++) BinaryPrimitives.WriteInt32LittleEndian(own[(24 + i * 4)..], C(lane, i).Row * 1000 - C(lane, i).Column);
        }
        SimtLibrary simt = SimtLibrary.Get(check);
        nint output = simt.Allocate(32 * 16);
        simt.Run("simt_mma", 1, 32, 0, new() { In = simt.Upload<byte>(registers), Out = output, Mode = 2 });
        int[] d = simt.Download<int>(output, 128);
        for (int lane = 0; lane < 32; lane++)
        {
            for (int i = 0; i < 4; i++)
            {
                (int row, int column) = C(lane, i);
                Assert.That(d[lane * 4 + i], Is.EqualTo(row * 1000 - column + Enumerable.Range(0, 32).Sum(k => a[row, k] * b[k, column])), $"({row}, {column})");
            }
        }
    }

    /// <summary>Lane l gives the address of row l % 8 of matrix l / 8 and gets elements 2 (l % 4) and + 1 of row l / 4.</summary>
    [Test]
    public void Ldmatrix([Values] bool check, [Values(1, 2, 4)] int count, [Values] bool transposed)
    {
        ushort[] rows = [.. Enumerable.Range(0, 256).Select(i => (ushort)(i * 251))];
        SimtLibrary simt = SimtLibrary.Get(check);
        nint output = simt.Allocate(32 * 16);
        simt.Run("simt_ldmatrix", 1, 32, 512, new() { In = simt.Upload<ushort>(rows), Out = output, N = count, Mode = transposed ? 1 : 0 });
        ushort[] got = simt.Download<ushort>(output, 256);
        for (int lane = 0; lane < 32; lane++)
        {
            for (int e = 0; e < 8; e++)
            {
                int matrix = e / 2, row = lane / 4, column = lane % 4 * 2 + e % 2;
                if (transposed) (row, column) = (column, row);
                int stored = (row + 3) % 8;  // the kernel names the rows in this order
                Assert.That(got[lane * 8 + e], Is.EqualTo(matrix < count ? rows[matrix * 64 + stored * 8 + column] : 0), $"lane {lane}, element {e}");
            }
        }
    }

    [Test]
    public void AsyncCopies([Values] bool check, [Values(0, 4, 16)] int zeros)
    {
        const int Steps = 5;
        byte[] values = [.. Enumerable.Range(0, Steps * 512).Select(i => (byte)(i * 31 % 255 + 1))];
        SimtLibrary simt = SimtLibrary.Get(check);
        nint output = simt.Allocate(values.Length);
        simt.Run("simt_pipeline", 1, 32, 1024, new() { In = simt.Upload<byte>(values), Out = output, N = Steps * 32, Mode = zeros });
        byte[] got = simt.Download<byte>(output, values.Length);
        for (int i = 0; i < values.Length; i++)
        {
            int from = i / 512 * 512 + (31 - i % 512 / 16) * 16 + i % 16;
            Assert.That(got[i], Is.EqualTo(i % 16 < 16 - zeros ? values[from] : 0), $"byte {i}");
        }
    }

    private static float[,] Integers(Random random, int rows, int columns)
    {
        var values = new float[rows, columns];
        foreach (ref float v in MemoryMarshal.CreateSpan(ref values[0, 0], values.Length)) v = random.Next(-9, 10);
        return values;
    }

    private static sbyte[,] Bytes(Random random, int rows, int columns)
    {
        var values = new sbyte[rows, columns];
        foreach (ref sbyte v in MemoryMarshal.CreateSpan(ref values[0, 0], values.Length)) v = (sbyte)random.Next(-128, 128);
        return values;
    }

    private static void Write16(Span<byte> to, float value, bool bf16)
    {
        if (bf16)
            BinaryPrimitives.WriteUInt16LittleEndian(to, (ushort)(BitConverter.SingleToUInt32Bits(value) >> 16));
        else
            BinaryPrimitives.WriteHalfLittleEndian(to, (Half)value);
    }
}
