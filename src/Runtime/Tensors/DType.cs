namespace Kernels;

/// <summary>Element types, numbered as in kn.h.</summary>
public enum DType
{
    /// <summary>IEEE binary32.</summary>
    Float32 = 0,
    /// <summary>The upper half of a binary32: 8 bits of exponent, 7 of fraction.</summary>
    BFloat16 = 1,
    /// <summary>IEEE binary16.</summary>
    Float16 = 2,
    /// <summary>Two's complement byte.</summary>
    Int8 = 3,
    /// <summary>Two to a byte along the last dimension, low nibble first; value = (q - zero) * scale.</summary>
    UInt4 = 4,
    /// <summary>OCP FP8 E4M3: bias 7, largest 448, no infinities.</summary>
    Float8E4M3 = 5,
}

/// <summary>Facts about <see cref="DType"/>.</summary>
public static class DTypes
{
    /// <summary>Bits of one element.</summary>
    public static int Bits(this DType type) => type switch
    {
        DType.Float32 => 32,
        DType.BFloat16 or DType.Float16 => 16,
        DType.Int8 or DType.Float8E4M3 => 8,
        _ => 4,
    };

    /// <summary>The name in the vocabulary of rows, logs and the CLI: f32 bf16 f16 s8 u4 e4m3.</summary>
    public static string Name(this DType type) => type switch
    {
        DType.Float32 => "f32",
        DType.BFloat16 => "bf16",
        DType.Float16 => "f16",
        DType.Int8 => "s8",
        DType.Float8E4M3 => "e4m3",
        _ => "u4",
    };

    /// <summary>The dtype with this name (int8 and int4 are taken for s8 and u4).</summary>
    public static bool TryParse(string name, out DType type)
    {
        DType? found = name.ToLowerInvariant() switch
        {
            "f32" or "float32" => DType.Float32,
            "bf16" or "bfloat16" => DType.BFloat16,
            "f16" or "fp16" or "float16" or "half" => DType.Float16,
            "s8" or "int8" => DType.Int8,
            "u4" or "int4" => DType.UInt4,
            "e4m3" or "fp8" => DType.Float8E4M3,
            _ => null,
        };
        type = found ?? default;
        return found is not null;
    }

    /// <summary>The dtype of a C# element type: float, BFloat16, Half, sbyte or Float8E4M3.</summary>
    /// <exception cref="KernelsException">Any other type.</exception>
    public static DType Of<T>() where T : unmanaged =>
        typeof(T) == typeof(float) ? DType.Float32
        : typeof(T) == typeof(BFloat16) ? DType.BFloat16
        : typeof(T) == typeof(Half) ? DType.Float16
        : typeof(T) == typeof(sbyte) ? DType.Int8
        : typeof(T) == typeof(Float8E4M3) ? DType.Float8E4M3
        : throw new KernelsException(Status.Unsupported, "T", $"one of float, BFloat16, Half, sbyte, Float8E4M3, not {typeof(T).Name}");
}
