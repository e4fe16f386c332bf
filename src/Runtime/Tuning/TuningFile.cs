using System.Security;

namespace Kernels.Tuning;

/// <summary>Files that are replaced as a whole and read by anyone at any time, without locks.</summary>
internal static class TuningFile
{
    /// <summary>The largest file that is read or written.</summary>
    public const int MaxBytes = 16 << 20;

    private const int MoveAttempts = 20;

    /// <summary>The content, or null with the reason. Never blocks: what is no regular file is not opened.</summary>
    public static byte[]? Read(string path, out TuningMiss miss, out string reason)
    {
        miss = TuningMiss.Unreadable;
        try
        {
            FileSystemInfo? target = new FileInfo(path);
            if (target.LinkTarget is not null)
                target = target.ResolveLinkTarget(returnFinalTarget: true);
            if (target is not FileInfo { Exists: true } file)
            {
                bool directory = Directory.Exists(path);
                miss = directory ? TuningMiss.Unreadable : TuningMiss.Absent;
                reason = directory ? "a directory" : "no entry";
                return null;
            }
            // A pipe or a device has length 0, and to open a pipe would wait for its writer.
            if (file.Length is 0 or > MaxBytes)
            {
                miss = file.Length == 0 ? TuningMiss.Corrupt : TuningMiss.Unreadable;
                reason = file.Length == 0 ? "an empty file" : $"{file.Length} bytes, at most {MaxBytes} are read";
                return null;
            }
            return Read(file, out miss, out reason);
        }
        catch (Exception e) when (IsOfFileSystem(e))
        {
            reason = e.Message;
            return null;
        }
    }

    private static byte[]? Read(FileInfo file, out TuningMiss miss, out string reason)
    {
        // Delete is shared, so that on Windows a writer can replace the file under the reader.
        using var stream = new FileStream(file.FullName, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, 1);
        long length = stream.Length;
        miss = length is > 0 and <= MaxBytes ? TuningMiss.None : TuningMiss.Unreadable;
        reason = miss == TuningMiss.None ? "" : $"{length} bytes";
        if (miss != TuningMiss.None)
            return null;
        var content = new byte[length];
        int read = stream.ReadAtLeast(content, content.Length, throwOnEndOfStream: false);
        return read == content.Length ? content : content[..read];
    }

    /// <summary>Writes a temporary file beside <paramref name="path"/>, flushes it to the disk and moves it over. On false nothing has changed.</summary>
    public static bool TryWrite(string path, ReadOnlySpan<byte> content, out string reason)
    {
        if (content.Length > MaxBytes)
        {
            reason = $"{content.Length} bytes, at most {MaxBytes} are stored";
            return false;
        }
        string directory = Path.GetDirectoryName(path) ?? ".";
        string temporary = Path.Combine(directory, $".{Path.GetFileName(path)}.{Guid.NewGuid():N}.tmp");
        try
        {
            Directory.CreateDirectory(directory);
            using (var stream = new FileStream(temporary, FileMode.CreateNew, FileAccess.Write, FileShare.None, 1))
            {
                stream.Write(content);
                stream.Flush(flushToDisk: true);
            }
            Move(temporary, path);
            reason = "";
            return true;
        }
        catch (Exception e) when (IsOfFileSystem(e))
        {
            reason = e.Message;
            TryDelete(temporary, out _);
            return false;
        }
    }

    /// <summary>Deletes a file; one that is absent is deleted already.</summary>
    public static bool TryDelete(string path, out string reason)
    {
        try
        {
            File.Delete(path);
            reason = "";
            return true;
        }
        catch (DirectoryNotFoundException)
        {
            reason = "";
            return true;
        }
        catch (Exception e) when (IsOfFileSystem(e))
        {
            reason = e.Message;
            return false;
        }
    }

    public static bool IsOfFileSystem(Exception e) =>
        e is IOException or UnauthorizedAccessException or SecurityException or NotSupportedException or ArgumentException;

    // On Windows a move over a file that another writer is replacing at this moment is refused; the other one is soon done.
    private static void Move(string from, string to)
    {
        for (int attempt = 1; ; attempt++)
        {
            try
            {
                File.Move(from, to, overwrite: true);
                return;
            }
            catch (Exception e) when (OperatingSystem.IsWindows() && attempt < MoveAttempts && e is IOException or UnauthorizedAccessException)
            {
                Thread.Sleep(attempt);
            }
        }
    }
}
