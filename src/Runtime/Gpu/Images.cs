using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.IO.Compression;

namespace Kernels;

/// <summary>The kernels of one source file, compiled for one target: file.target.ptx, .cubin or .co.</summary>
internal sealed record Image(string File, string Target, string Form, long Bytes)
{
    public string Name => $"{File}.{Target}.{Form}";

    /// <summary>The image, with the zero behind it that a driver wants of PTX.</summary>
    public byte[] Load()
    {
        using ZipArchive archive = Images.Open()!;
        byte[] bytes = new byte[Bytes + 1];
        using System.IO.Stream from = archive.GetEntry(Name)!.Open();
        from.ReadExactly(bytes, 0, (int)Bytes);
        return bytes;
    }
}

/// <summary>
/// The device images inside this assembly: build/images as one archive. Read when a device first needs one; an assembly that was
/// built without a device compiler has none.
/// </summary>
internal static class Images
{
    private const string Resource = "images.zip";
    private static readonly Lazy<IReadOnlyList<Image>> s_all = new(List);

    public static IReadOnlyList<Image> All => s_all.Value;

    /// <summary>Identity of the images, part of the tuning keys of GPU rows.</summary>
    public static string Build => s_build.Value;

    private static readonly Lazy<string> s_build = new(Identity);

    internal static ZipArchive? Open() =>
        typeof(Images).Assembly.GetManifestResourceStream(Resource) is { } stream ? new ZipArchive(stream) : null;

    private static List<Image> List()
    {
        var images = new List<Image>();
        using ZipArchive? archive = Open();
        if (archive is null) return images;
        foreach (ZipArchiveEntry entry in archive.Entries)
            if (entry.Name.Split('.') is [string file, string target, ("ptx" or "cubin" or "co") and string form])
                images.Add(new Image(file, target, form, entry.Length));
        return images;
    }

    /// <summary>By the checksums of the archive, whatever the dates of the files.</summary>
    private static string Identity()
    {
        using ZipArchive? archive = Open();
        if (archive is null) return "no images";
        ulong hash = 14695981039346656037;  // FNV-1a
        foreach (ZipArchiveEntry entry in archive.Entries.OrderBy(e => e.Name, StringComparer.Ordinal))
            foreach (char c in string.Create(CultureInfo.InvariantCulture, $"{entry.Name} {entry.Crc32:x8}")) hash = (hash ^ c) * 1099511628211;
        return hash.ToString("x16", CultureInfo.InvariantCulture)[..12];
    }

    /// <summary>The best image of a file for a device: a binary before PTX, the nearest architecture first.</summary>
    public static bool TryFind(string file, DeviceKind kind, string architecture, [NotNullWhen(true)] out Image? image, out string imageOrReason)
    {
        IEnumerable<Image> fit = All.Where(i => i.File == file && Rank(i, kind, architecture) > 0);
        image = fit.MaxBy(i => Rank(i, kind, architecture));
        string[] targets = [.. All.Where(i => i.File == file).Select(i => i.Target)];
        imageOrReason = image is not null ? image.Name
            : All.Count == 0 ? "this assembly holds no device images: it was built without clang 16 or newer (apt-get install clang-19 lld-19, and build again)"
            : targets.Length == 0 ? $"this assembly holds no image of {file}"
            : $"the images of {file} are for {string.Join(", ", targets)}, not for {architecture}";
        return image is not null;
    }

    /// <summary>0: does not run there. A code object is for one architecture; a binary runs within its major number; PTX on all that follow, unless it is of an 'a'.</summary>
    private static int Rank(Image image, DeviceKind kind, string architecture)
    {
        if (kind == DeviceKind.Hip) return image.Form == "co" && image.Target == architecture ? 1 : 0;
        if (kind != DeviceKind.Cuda || image.Form == "co" || !Parse(image.Target, out int target, out bool exact) || !Parse(architecture, out int device, out _)) return 0;
        bool runs = exact ? target == device : target <= device && (image.Form == "ptx" || target / 10 == device / 10);
        return runs ? target * 4 + (exact ? 2 : 0) + (image.Form == "cubin" ? 1 : 0) : 0;
    }

    private static bool Parse(string target, out int number, out bool exact)
    {
        exact = target.EndsWith('a');
        number = 0;
        return target.StartsWith("sm_", StringComparison.Ordinal) && int.TryParse(target[3..].TrimEnd('a'), NumberStyles.None, CultureInfo.InvariantCulture, out number);
    }
}
