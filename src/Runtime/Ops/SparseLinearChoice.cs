using System.Globalization;
using Kernels.Tuning;

namespace Kernels;

/// <summary>Which form of a layer is the faster one at one m, what both cost by their models, and where these cross.</summary>
/// <param name="M">Rows of x.</param>
/// <param name="Density">Part of the weights that is not 0.</param>
/// <param name="IsSparse">Whether the sparse layer is the faster one.</param>
/// <param name="Source">Tuned where both forms were measured against each other for this layer and m, else modelled.</param>
/// <param name="Evidence">The same in words.</param>
/// <param name="Sparse">What sparse_linear would run.</param>
/// <param name="SparseSeconds">Its cost by the model.</param>
/// <param name="Dense">What flat_gemm would run on the same weights, zeros stored.</param>
/// <param name="DenseSeconds">Its cost by the model.</param>
/// <param name="Crossover">The density from which on the dense one is faster by the models: 0 where it always is, 1 where it never is.</param>
public sealed record SparseLinearChoice(int M, double Density, bool IsSparse, ChoiceSource Source, string Evidence, Dataflow Sparse, double SparseSeconds,
    Dataflow Dense, double DenseSeconds, double Crossover)
{
    /// <summary>The choice in words.</summary>
    public string Reason => string.Create(CultureInfo.InvariantCulture,
        $"{(IsSparse ? "sparse" : "dense")}, {Evidence}; models: sparse {SparseSeconds * 1e6:0.0} us, dense {DenseSeconds * 1e6:0.0}, dense from density {Crossover:0.00}");
}
