namespace Kernels;

/// <summary>
/// The threads of the managed rows, with the rules of native/cpu/pool.cpp: the caller takes part, tasks are handed out by one
/// counter, and a caller that finds the pool busy works alone, so that no call waits for work that is not its own. Nothing is
/// allocated per call. Workers are background threads: they spin briefly, because the next layer's call follows within
/// microseconds, then park.
/// </summary>
internal static unsafe class ManagedPool
{
    private const int Spins = 2000, MostThreads = 1024;

    private static readonly object s_gate = new();
    private static int s_started = 1, s_size = Grow(Environment.ProcessorCount);

    // The job number in the upper half, the free places in the job in the lower half. A worker joins by taking a place; the
    // caller, out of tasks itself, takes all places left at once and waits only for those who joined. So a worker that sleeps
    // through a short job delays nobody and never touches it.
    private static long s_word;
    private static int s_busy;
    private static int s_finished;
    private static int s_sleepers;

    private static long s_next;
    private static long s_tasks;
    private static delegate*<void*, long, int, void> s_body;
    private static void* s_context;

    /// <summary>Threads of the pool, the caller's included.</summary>
    public static int Size => Volatile.Read(ref s_size);

    /// <summary>Makes the pool so large; 0 is one thread per core this process may use. Workers that are too many stay parked.</summary>
    public static void Resize(int count) => Volatile.Write(ref s_size, Grow(count == 0 ? Environment.ProcessorCount : count));

    /// <summary>A bound on the threads of a call, the caller's included; 0 = all there are now. For threads above 0 no resize changes it: scratch is laid out by it.</summary>
    public static int Workers(int threads) => threads <= 0 ? Size : Math.Min(threads, MostThreads);

    /// <summary>Jobs that were given to workers so far.</summary>
    internal static long Jobs => (long)((ulong)Volatile.Read(ref s_word) >> 32);

    /// <summary>
    /// Calls body(context, task, worker) for every task, in any order, and returns when all are done.
    /// worker &lt; Workers(threads), and no two concurrent calls share one. The body must not throw.
    /// </summary>
    public static void Run(int threads, long tasks, delegate*<void*, long, int, void> body, void* context)
    {
        int workers = (int)Math.Min(tasks, Math.Min(Workers(threads), Size));
        if (workers <= 1 || Interlocked.CompareExchange(ref s_busy, 1, 0) != 0)
        {
            for (long t = 0; t < tasks; t++) body(context, t, 0);
            return;
        }
        s_tasks = tasks;
        s_body = body;
        s_context = context;
        s_next = 0;
        s_finished = 0;
        Post(workers - 1);
        Drain(0);
        Join(workers - 1);
        Volatile.Write(ref s_busy, 0);
    }

    private static int Places(long word) => (int)(word & 0xffffffff);

    private static void Drain(int worker)
    {
        for (long t; (t = Interlocked.Increment(ref s_next) - 1) < s_tasks;) s_body(s_context, t, worker);
    }

    private static void Post(int wanted)
    {
        long job = (long)((ulong)s_word >> 32) + 1;
        // A full fence: either a worker about to park sees the new word, or this thread sees that worker among the sleepers.
        Interlocked.Exchange(ref s_word, (job << 32) | (long)wanted);
        if (Volatile.Read(ref s_sleepers) == 0) return;
        lock (s_gate) Monitor.PulseAll(s_gate);
    }

    private static void Join(int wanted)
    {
        int absent = Places(Interlocked.And(ref s_word, ~0xffffffffL));
        // SpinWait yields the core when a worker that joined was preempted; it must not sleep for a millisecond over it.
        var wait = new SpinWait();
        while (Volatile.Read(ref s_finished) != wanted - absent) wait.SpinOnce(sleep1Threshold: -1);
    }

    private static void Work()
    {
        long seen = 0;
        for (int spin = 0; ;)
        {
            long now = Volatile.Read(ref s_word);
            if (now == seen)
            {
                if (++spin < Spins) Thread.SpinWait(1);
                else Park(seen);
                continue;
            }
            spin = 0;
            while (Places(now) != 0)
            {
                long found = Interlocked.CompareExchange(ref s_word, now - 1, now);
                if (found == now) break;
                now = found;
            }
            seen = now;
            if (Places(now) == 0) continue;
            Drain(Places(now));  // the place is the worker's number: no two who joined share one
            Interlocked.Increment(ref s_finished);
        }
    }

    private static void Park(long seen)
    {
        lock (s_gate)
        {
            Interlocked.Increment(ref s_sleepers);
            while (Volatile.Read(ref s_word) == seen) Monitor.Wait(s_gate);
            Interlocked.Decrement(ref s_sleepers);
        }
    }

    private static int Grow(int size)
    {
        lock (s_gate)
        {
            for (; s_started < size; s_started++)
                new Thread(Work, maxStackSize: 256 * 1024) { IsBackground = true, Name = $"kernels managed {s_started}" }.Start();
        }
        return size;
    }
}
