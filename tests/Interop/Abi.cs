using System.Reflection;
using System.Runtime.InteropServices;
using Kernels.Interop.Native;

namespace Kernels.Tests.Interop;

/// <summary>The structs are the same on both sides, and what is wrong in the arguments of the door is answered, not obeyed.</summary>
[TestFixture]
public sealed unsafe class Abi
{
    private static readonly Type[] s_types = [typeof(KnParam), typeof(KnLaunch), typeof(KnRow), typeof(KnLibrary), typeof(KnFlatGemmProblem), typeof(KnFlatGemmArgs),
        typeof(KnDecodeAttentionProblem), typeof(KnDecodeAttentionArgs),
        typeof(KnSpgemmProblem), typeof(KnCsr), typeof(KnSpgemmTerm), typeof(KnSpgemmSchedule), typeof(KnSpgemmArgs), typeof(KnSparseLinearProblem), typeof(KnSparseLinearArgs)];

    private static KnLibrary Library
    {
        get
        {
            if (KernelTable.Default.Path is null) Assert.Ignore($"no native library: {KernelTable.Default.Problem}");
            return KernelTable.Default.Library;
        }
    }

    /// <summary>kn_flat_gemm_problem is KnFlatGemmProblem, q_heads is QHeads.</summary>
    private static string Pascal(string name) =>
        string.Concat(name.Split('_').Select(word => char.ToUpperInvariant(word[0]) + word[1..]));

    [Test]
    public void StructsHaveTheSameSizesAndOffsets()
    {
        KnLibrary library = Library;
        var seen = new HashSet<Type>();
        for (int i = 0; i < library.StructCount; i++)
        {
            ref KnStruct native = ref library.Structs[i];
            string name = Marshal.PtrToStringUTF8((nint)native.Name)!;
            Type? type = s_types.FirstOrDefault(t => t.Name == Pascal(name));
            Assert.That(type, Is.Not.Null, $"{name} has no mirror in C#, or this test does not know it");
            seen.Add(type!);
            FieldInfo[] fields = [.. type!.GetFields(BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic).OrderBy(f => f.MetadataToken)];
            int[] offsets = [.. ((ReadOnlySpan<int>)native.Offsets).ToArray().TakeWhile(o => o >= 0)];
            Assert.That(Marshal.SizeOf(type), Is.EqualTo(native.Size), name);
            Assert.That(fields.Select(f => (int)Marshal.OffsetOf(type, f.Name)), Is.EqualTo(offsets), name);
        }
        Assert.That(seen, Is.EquivalentTo(s_types), "the library does not describe every struct that C# mirrors");
        Assert.That(sizeof(KnLibrary), Is.EqualTo(Marshal.SizeOf<KnLibrary>()));
    }

    [Test]
    public void RowsAreComplete()
    {
        KnLibrary library = Library;
        Assert.That(library.Rows[library.RowCount] == null, "the list of rows ends with null");
        var names = new HashSet<string>();
        for (int i = 0; i < library.RowCount; i++)
        {
            ref KnRow row = ref *library.Rows[i];
            string name = Marshal.PtrToStringUTF8((nint)row.Name) ?? "";
            Assert.That(names.Add(name), $"{name} is there twice");
            Assert.That(name, Does.Match("^[a-z0-9_]+/[a-z0-9_]+$"));
            Assert.That(row.Accepts != null && row.Workspace != null && row.Run != null, name);
            Assert.That((row.Layout == null, row.PackedBytes == null, row.Prepack == null), Is.EqualTo((row.Layout == null, row.Layout == null, row.Layout == null)), name);
            Assert.That(row.ParamCount, Is.InRange(0, 6), name);
            for (int j = 0; j < row.ParamCount; j++)
            {
                Assert.That(Marshal.PtrToStringUTF8((nint)row.Params[j].Name), Is.Not.Empty, name);
                Assert.That(row.Params[j].Count, Is.InRange(1, 8), name);
            }
        }
    }

    [Test]
    public void KnGetRefusesOtherVersions()
    {
        _ = Library;
        nint handle = NativeLibrary.Load(KernelTable.Default.Path!);
        var get = (delegate* unmanaged[Cdecl]<uint, KnLibrary*, int>)NativeLibrary.GetExport(handle, "kn_get");
        var library = new KnLibrary { Size = (uint)sizeof(KnLibrary) };
        Assert.That((KnStatus)get(KnExports.Abi, null), Is.EqualTo(KnStatus.Invalid));
        Assert.That((KnStatus)get(KnExports.Abi + 1, &library), Is.EqualTo(KnStatus.AbiMismatch));
        Assert.That(library.Abi, Is.EqualTo(KnExports.Abi), "the library says which version it is");
        Assert.That(library.Rows == null, "nothing else is filled in");
        library.Size--;
        Assert.That((KnStatus)get(KnExports.Abi, &library), Is.EqualTo(KnStatus.AbiMismatch));
        library.Size++;
        Assert.That((KnStatus)get(KnExports.Abi, &library), Is.EqualTo(KnStatus.Ok));
    }

    [Test]
    public void ThreadsOutOfRangeAreRefused()
    {
        KnLibrary library = Library;
        int before = library.GetThreads();
        Assert.That((KnStatus)library.SetThreads(-1, 0), Is.EqualTo(KnStatus.Invalid));
        Assert.That((KnStatus)library.SetThreads(100_000, 0), Is.EqualTo(KnStatus.Invalid));
        Assert.That(library.GetThreads(), Is.EqualTo(before));
        Assert.That((KnStatus)library.SetThreads(3, 0), Is.EqualTo(KnStatus.Ok));
        Assert.That(library.GetThreads(), Is.EqualTo(3));
        Assert.That((KnStatus)library.SetThreads(0, 0), Is.EqualTo(KnStatus.Ok));
        Assert.That(library.GetThreads(), Is.Positive);
    }

    /// <summary>Null where a struct belongs, at every function that is a door: run and prepack check, the others follow accepts.</summary>
    [Test]
    public void NullsAreAnswered()
    {
        KnLibrary library = Library;
        KnFlatGemmProblem problem = FlatGemmCases.Problem(FlatGemmCases.MainKinds[0], 1, 16, 32);
        var launch = new KnLaunch { Size = (uint)sizeof(KnLaunch) };
        var args = new KnFlatGemmArgs { Size = (uint)sizeof(KnFlatGemmArgs) };
        for (int i = 0; i < library.RowCount; i++)
        {
            ref KnRow row = ref *library.Rows[i];
            if (row.Op != (uint)KnOp.FlatGemm || ((KnCpu)row.Needs & ~KernelTable.Default.Features) != 0) continue;
            string name = Marshal.PtrToStringUTF8((nint)row.Name)!;
            Assert.That((KnStatus)row.Run(null, &launch, &args), Is.EqualTo(KnStatus.Invalid), name);
            Assert.That((KnStatus)row.Run(&problem, null, &args), Is.EqualTo(KnStatus.Invalid), name);
            Assert.That((KnStatus)row.Run(&problem, &launch, null), Is.EqualTo(KnStatus.Invalid), name);
            Assert.That(Marshal.PtrToStringUTF8((nint)library.LastError()), Does.Contain("null"), name);
            if (row.Prepack == null) continue;
            Assert.That((KnStatus)row.Prepack(null, &args), Is.EqualTo(KnStatus.Invalid), name);
            Assert.That((KnStatus)row.Prepack(&problem, null), Is.EqualTo(KnStatus.Invalid), name);
            Assert.That(row.PackedBytes(null), Is.Zero, name);
        }
    }

    /// <summary>The largest dimensions that `valid` lets through: sizes must neither be negative nor wrap around.</summary>
    [Test]
    public void SizesOfTheLargestProblemsDoNotWrap()
    {
        foreach ((_, Row row, string name) in Tables.Runnable())
            foreach (FlatGemmCases.Kind kind in FlatGemmCases.Kinds())
                foreach (KnGemmFlags gated in (KnGemmFlags[])[KnGemmFlags.None, KnGemmFlags.Gated])
                {
                    const int Most = FlatGemmRules.Longest;
                    KnFlatGemmProblem p = FlatGemmCases.Problem(kind, Most, Most, Most, FlatGemmActivation.Silu, gated);
                    if (!row.Accepts(&p, row.DefaultLaunch(0), out _)) continue;
                    double bits = kind.W.Bits(), least = (gated == KnGemmFlags.Gated ? 2.0 : 1) * Most * Most * bits / 8;
                    if (row.Layout(&p) is not null) Assert.That((double)row.PackedBytes(&p), Is.GreaterThanOrEqualTo(least), $"{name}: {FlatGemmCases.Describe(p)}");
                    Assert.That(row.Workspace(&p, row.DefaultLaunch(0)), Is.GreaterThanOrEqualTo(0), $"{name}: {FlatGemmCases.Describe(p)}");
                }
    }
}
