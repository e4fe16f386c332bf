using System.Numerics;
using Kernels.Interop.Native;
using Kernels.Tuning;

namespace Kernels;

/// <summary>The rows of a trial: what the oracle and the plain reference make of them.</summary>
internal sealed unsafe partial class DecodeAttentionTrial
{
    /// <summary>One row: the keys that it sees, expected out [Dv] and lse.</summary>
    internal sealed class RowExpected(long token, int head, int sequence, int[] keys, Expected[] @out, Expected lse)
    {
        public readonly long Token = token;
        public readonly int Head = head, Sequence = sequence;
        public readonly int[] Keys = keys;
        public readonly Expected[] Out = @out;
        public readonly Expected Lse = lse;
    }

    /// <summary>All rows that are looked at, the largest error of the plain reference over them and the largest spread of f32.</summary>
    internal sealed record Rows(RowExpected[] Each, double PlainError, double Spread);

    private Rows ExpectRows()
    {
        ref readonly KnDecodeAttentionProblem p = ref *_problem;
        int group = p.QHeads / p.KvHeads;
        double error = 0, spread = 0;
        var rows = new List<RowExpected>();
        var plain = new float[p.VHeadDim];
        HashSet<(int, int, int)>? sample = Sample();
        for (int b = 0; b < _qLens.Length; b++)
            for (int kvHead = 0; kvHead < p.KvHeads; kvHead++)
            {
                DecodeAttentionView? view = null;
                for (int t = 0; t < _qLens[b]; t++)
                    for (int h = kvHead * group; h < (kvHead + 1) * group; h++)
                    {
                        if (sample is not null && !sample.Contains((b, t, h))) continue;
                        view ??= DecodeCache(b, kvHead);
                        View(view, b, t, h);
                        var @out = new Expected[p.VHeadDim];
                        DecodeAttentionOracle.Row(p, view, @out, out Expected lse, out double own);
                        rows.Add(new RowExpected(_firstToken[b] + t, h, b, view.Visible, @out, lse));
                        spread = Math.Max(spread, own);
                        for (int i = 0; i < DecodeAttentionPlain.References; i++)
                        {
                            DecodeAttentionPlain.Row(p, view, plain, i);
                            for (int d = 0; d < p.VHeadDim; d++)
                                if (@out[d].Outcome == Outcome.Finite && float.IsFinite(plain[d])) error = Math.Max(error, Math.Abs(plain[d] - @out[d].Value));
                        }
                    }
            }
        return new Rows([.. rows], error, spread);
    }

    private HashSet<(int, int, int)>? Sample()
    {
        if (Data.SampleRows == 0 || Data.SampleRows >= Tokens * _problem->QHeads) return null;
        var random = new TrialRandom(Data.Seed + 5);
        var chosen = new HashSet<(int, int, int)>();
        while (chosen.Count < Data.SampleRows)
        {
            int b = (int)(random.Next() % (ulong)_qLens.Length);
            if (_qLens[b] > 0) chosen.Add((b, (int)(random.Next() % (ulong)_qLens[b]), (int)(random.Next() % (ulong)_problem->QHeads)));
        }
        return chosen;
    }

    private DecodeAttentionView DecodeCache(int b, int kvHead)
    {
        ref readonly KnDecodeAttentionProblem p = ref *_problem;
        var type = (DType)p.KvType;
        int length = _kvLens[b];
        var view = new DecodeAttentionView
        {
            Q = new double[p.HeadDim],
            K = new double[(long)length * p.HeadDim],
            V = new double[(long)length * p.VHeadDim],
            KScales = new double[length],
            VScales = new double[length],
            Bias = [],
            Visible = [],
            Scale = _args.Scale,
        };
        for (int j = 0; j < length; j++)
        {
            (long k, long v, long scale) = Places(b, j, kvHead);
            for (int d = 0; d < p.HeadDim; d++) view.K[(long)j * p.HeadDim + d] = Decode(type, _args.K, k + d);
            for (int d = 0; d < p.VHeadDim; d++) view.V[(long)j * p.VHeadDim + d] = Decode(type, _args.V, v + d);
            view.KScales[j] = _args.KScales == null ? 1 : _args.KScales[scale];
            view.VScales[j] = _args.VScales == null ? 1 : _args.VScales[scale];
        }
        return view;
    }

    // The keys that head h of token t sees and what ALiBi adds to them, from the words of decode_attention.h.
    private void View(DecodeAttentionView view, int b, int t, int h)
    {
        ref readonly KnDecodeAttentionProblem p = ref *_problem;
        int length = _kvLens[b], fresh = FirstNew(b);
        var visible = new List<int>();
        var bias = new List<double>();
        int position = Position(b, t);
        for (int j = 0; j < length; j++)
        {
            int keyPosition = j >= fresh ? Position(b, j - fresh) : j;
            bool sees = Has(KnAttentionFlags.Full) || (Has(KnAttentionFlags.Tree)
                ? j < fresh || (_args.Tree[_firstToken[b] + t] >> (j - fresh) & 1) != 0
                : keyPosition <= position);
            if (!sees || (p.Window > 0 && keyPosition <= (long)position - p.Window)) continue;
            visible.Add(j);
            bias.Add(Has(KnAttentionFlags.Alibi) ? _args.Alibi[h] * (double)(keyPosition - position) : 0);
        }
        (view.Visible, view.Bias) = ([.. visible], [.. bias]);
        for (int d = 0; d < p.HeadDim; d++) view.Q[d] = Decode((DType)p.QType, _args.Q, (_firstToken[b] + t) * _args.QToken + h * _args.QHead + d);
        view.Sink = Has(KnAttentionFlags.Sinks) ? _args.Sinks[h] : double.NaN;
        view.Reference = Math.Max(Has(KnAttentionFlags.Phi) ? Math.Abs(_args.Phi[h]) : 0, Has(KnAttentionFlags.Norms) ? Bound(view) : 0);
    }

    private int FirstNew(int b) => DecodeAttentionRules.FirstNew(_args, b, _qLens[b]);

    private int Position(int b, int t) => FirstNew(b)
        + (Has(KnAttentionFlags.Tree) ? BitOperations.PopCount(_args.Tree[_firstToken[b] + t]) - 1 : t);

    // |q| max |k| scale: the largest reference that bounded may take.
    private double Bound(DecodeAttentionView view)
    {
        double q = 0, longest = 0;
        foreach (double v in view.Q) q += v * v;
        int dim = _problem->HeadDim;
        foreach (int j in view.Visible)
        {
            double square = 0;
            for (int d = 0; d < dim; d++) square += view.K[(long)j * dim + d] * view.K[(long)j * dim + d];
            if (square * view.KScales[j] * view.KScales[j] > longest) longest = square * view.KScales[j] * view.KScales[j];
        }
        double bound = Math.Sqrt(q * longest) * view.Scale;
        return double.IsFinite(bound) ? bound : 0;
    }
}
