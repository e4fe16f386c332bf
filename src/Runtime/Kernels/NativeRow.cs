using System.Collections.Immutable;
using System.Runtime.InteropServices;
using Kernels.Interop.Native;

namespace Kernels;

/// <summary>A row of kn_cpu, called through its function pointers.</summary>
internal sealed unsafe class NativeRow : Row
{
    private readonly KnRow* _row;
    private readonly delegate* unmanaged[Cdecl]<byte*> _lastError;

    internal NativeRow(KnRow* row, delegate* unmanaged[Cdecl]<byte*> lastError)
    {
        _row = row;
        _lastError = lastError;
        Name = Text(row->Name)!;
        Bits = Text(row->Bits);
        var parameters = ImmutableArray.CreateBuilder<RowParameter>(row->ParamCount);
        for (int i = 0; i < row->ParamCount; i++)
        {
            ref KnParam p = ref row->Params[i];
            parameters.Add(new RowParameter(Text(p.Name)!, [.. ((ReadOnlySpan<int>)p.Values)[..p.Count]]));
        }
        Parameters = parameters.MoveToImmutable();
    }

    public override string Name { get; }

    public override KnOp Op => (KnOp)_row->Op;

    public override KnCpu Needs => (KnCpu)_row->Needs;

    public override string? Bits { get; }

    public override ImmutableArray<RowParameter> Parameters { get; }

    public override string LastError => Text(_lastError()) ?? "";

    public override bool Accepts(void* problem, in KnLaunch launch, out string? why)
    {
        bool accepts = Accepts(problem, launch, out byte* reason);
        why = accepts ? null : Text(reason);
        return accepts;
    }

    public override bool Accepts(void* problem, in KnLaunch launch) => Accepts(problem, launch, out byte* _);

    private bool Accepts(void* problem, in KnLaunch launch, out byte* reason)
    {
        byte* why = null;
        fixed (KnLaunch* at = &launch)
        {
            bool accepts = _row->Accepts(problem, at, &why) != 0;
            reason = why;
            return accepts;
        }
    }

    public override bool Packs => _row->Layout != null;

    public override long Workspace(void* problem, in KnLaunch launch)
    {
        fixed (KnLaunch* at = &launch) return _row->Workspace(problem, at);
    }

    public override string? Layout(void* problem) => _row->Layout == null ? null : Text(_row->Layout(problem));

    public override long PackedBytes(void* problem) => _row->PackedBytes == null ? 0 : _row->PackedBytes(problem);

    public override KnStatus Prepack(void* problem, void* args) =>
        _row->Prepack == null ? KnStatus.Ok : (KnStatus)_row->Prepack(problem, args);

    public override KnStatus Run(void* problem, in KnLaunch launch, void* args)
    {
        fixed (KnLaunch* at = &launch) return (KnStatus)_row->Run(problem, at, args);
    }

    private static string? Text(byte* utf8) => Marshal.PtrToStringUTF8((nint)utf8);
}
