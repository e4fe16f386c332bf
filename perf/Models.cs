using System.Text.Json;
using System.Text.Json.Serialization;

namespace Kernels.Perf;

/// <summary>One weight matrix of a model.</summary>
internal sealed record ModelMatrix([property: JsonRequired] string Matrix, [property: JsonRequired] int N, [property: JsonRequired] int K, bool Tune = true);

/// <summary>The attention of a model.</summary>
internal sealed record ModelAttention([property: JsonRequired] int QHeads, [property: JsonRequired] int KvHeads, [property: JsonRequired] int HeadDim, int Window = 0, float Softcap = 0);

/// <summary>The shapes of a model, from models/NAME.json or a file of the same form.</summary>
internal sealed record Model(string Name, [property: JsonRequired] IReadOnlyList<ModelMatrix> FlatGemm, ModelAttention? DecodeAttention)
{
    private static readonly JsonSerializerOptions s_json = new() { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower, ReadCommentHandling = JsonCommentHandling.Skip };

    private static string Folder => Path.Combine(AppContext.BaseDirectory, "models");

    public static IEnumerable<string> Names =>
        Directory.Exists(Folder) ? Directory.EnumerateFiles(Folder, "*.json").Select(f => Path.GetFileNameWithoutExtension(f)).Order(StringComparer.Ordinal) : [];

    public static Model Load(string name)
    {
        string file = name.EndsWith(".json", StringComparison.Ordinal) ? name : Path.Combine(Folder, Path.GetFileName(name).ToLowerInvariant() + ".json");
        if (!File.Exists(file))
            throw new UsageException($"--model {name}: no such model; there are {string.Join(", ", Names)}, or the path of a .json file");
        try
        {
            Model model = JsonSerializer.Deserialize<Model>(File.ReadAllText(file), s_json) ?? throw new JsonException("null");
            if (model.FlatGemm is not { Count: > 0 } || model.FlatGemm.Any(m => m.N <= 0 || m.K <= 0))
                throw new JsonException("flat_gemm lists no matrices, or one without a positive n and k");
            return model;
        }
        catch (Exception e) when (e is JsonException or NotSupportedException)
        {
            throw new UsageException($"--model {name}: {file} is no model file: {e.Message}");
        }
    }
}
