using System.Collections.Immutable;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>A launch parameter of a row: its name and the values worth trying, the default first.</summary>
internal sealed record RowParameter(string Name, ImmutableArray<int> Values);

/// <summary>
/// One kernel: a name, the hardware it needs, the problems it accepts, the workspace it wants, how it runs. Machine code and
/// plain C# look the same from here. Problems and args are the blittable structs of the operation.
/// </summary>
internal abstract unsafe class Row
{
    /// <summary>op/target[_variant].</summary>
    public abstract string Name { get; }

    public abstract KnOp Op { get; }

    public virtual KnCpu Needs => KnCpu.None;

    /// <summary>Rows with the same tag give the same bits for the same row of work. Null: no promise.</summary>
    public virtual string? Bits => null;

    /// <summary>Whether <see cref="Bits"/> holds for the default launch alone, because others divide the sums otherwise.</summary>
    public virtual bool BitsOfDefaultLaunch => false;

    public virtual ImmutableArray<RowParameter> Parameters => [];

    public abstract bool Accepts(void* problem, in KnLaunch launch, out string? why);

    /// <summary>The same without the reason, and so without an allocation.</summary>
    public virtual bool Accepts(void* problem, in KnLaunch launch) => Accepts(problem, launch, out _);

    /// <summary>Whether its weights, of any problem, are packed first.</summary>
    public virtual bool Packs => false;

    /// <summary>Bytes of 64-byte aligned scratch that Run wants.</summary>
    public abstract long Workspace(void* problem, in KnLaunch launch);

    /// <summary>Layout of packed weights; rows that answer the same share them. Null: reads weights as they are.</summary>
    public virtual string? Layout(void* problem) => null;

    public virtual long PackedBytes(void* problem) => 0;

    public virtual KnStatus Prepack(void* problem, void* args) => KnStatus.Ok;

    public abstract KnStatus Run(void* problem, in KnLaunch launch, void* args);

    /// <summary>Runs in the order of a device's stream, 0 the default one. A row of the CPU has none: it runs when it is called.</summary>
    public virtual KnStatus Run(void* problem, in KnLaunch launch, void* args, nint stream) => Run(problem, launch, args);

    /// <summary>The sentence for this thread's last failure of this row.</summary>
    public abstract string LastError { get; }

    /// <summary>The exception for what Run has just answered on this thread.</summary>
    public virtual KernelsException Failure(KnStatus status) => KernelsException.FromSentence((Status)status, Name, LastError);

    /// <summary>The part of the name between '/' and '_'.</summary>
    public string Target
    {
        get
        {
            string variant = Name[(Name.IndexOf('/') + 1)..];
            int end = variant.IndexOf('_');
            return end < 0 ? variant : variant[..end];
        }
    }

    /// <summary>Every launch: the product of the parameters' values, defaults first, in the order of the table.</summary>
    public IEnumerable<KnLaunch> Launches(int threads)
    {
        ImmutableArray<RowParameter> parameters = Parameters;
        int count = 1;
        foreach (RowParameter p in parameters) count *= p.Values.Length;
        for (int i = 0; i < count; i++)
        {
            KnLaunch launch = DefaultLaunch(threads);
            for (int j = 0, rest = i; j < parameters.Length; j++)
            {
                launch.Param[j] = parameters[j].Values[rest % parameters[j].Values.Length];
                rest /= parameters[j].Values.Length;
            }
            yield return launch;
        }
    }

    public KnLaunch DefaultLaunch(int threads)
    {
        var launch = new KnLaunch { Size = (uint)sizeof(KnLaunch), Threads = threads };
        for (int i = 0; i < Parameters.Length; i++) launch.Param[i] = Parameters[i].Values[0];
        return launch;
    }

    /// <summary>Place of a parameter, or -1.</summary>
    public int IndexOf(string parameter)
    {
        for (int i = 0; i < Parameters.Length; i++)
            if (Parameters[i].Name == parameter) return i;
        return -1;
    }

    /// <summary>What a launch gives a parameter: its default where the launch says 0, and 0 where the row does not have it.</summary>
    public int Value(in KnLaunch launch, string parameter) => IndexOf(parameter) is var i and >= 0
        ? launch.Param[i] == 0 ? Parameters[i].Values[0] : launch.Param[i]
        : 0;

    public Dataflow Dataflow(KnLaunch launch) => new(Name, launch.Threads, [.. ((ReadOnlySpan<int>)launch.Param)[..Parameters.Length]]);

    /// <summary>The launch of a dataflow of this row.</summary>
    public KnLaunch Launch(Dataflow dataflow)
    {
        KnLaunch launch = DefaultLaunch(dataflow.Threads);
        for (int i = 0; i < Math.Min(Parameters.Length, dataflow.Parameters.Length); i++) launch.Param[i] = dataflow.Parameters[i];
        return launch;
    }

    public override string ToString() => Name;
}
