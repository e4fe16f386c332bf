// The loops around a row. Products are cut into slots of equal numbers, whatever the rows: a slot is the task of
// computing the rows that begin in it, and a row much longer than a slot is split by columns over slots that it covers
// (which keeps the order of its sums). Slots are written in their order, and where one goes is known when all before it
// are done: until then it waits in a buffer of its worker, which goes on with the next. After SMASH's windows: scratch
// is known before the run, whatever C is.
#pragma once
#include <atomic>
#include <thread>

#include "spgemm_numeric.h"
#include "spgemm_schedule.h"

namespace kn::spgemm {
namespace {

constexpr int kBuffers = 4;  // finished slots that a worker may keep

// Sizes that follow from problem and launch alone, in the order in which they lie in the workspace.
struct sizes {
  int64_t slots, entries;  // of a buffer
  int64_t index, value;
  int64_t shared, blocks, worker;
};

inline sizes sizes_of(const kn_spgemm_problem& p, const limits& l) {
  sizes z;
  z.index = p.index_bytes;
  z.value = p.type == KN_F64 ? 8 : 4;
  z.slots = p.products / l.window + 2;
  // Rows that begin in a slot have less than a window of products but for the last, or it holds a part of one row.
  z.entries = l.window + smaller(p.most, p.n) + 64;
  z.shared = 2 * round_up((z.slots + 1) * 8, 64);
  z.blocks = z.shared;
  z.shared += blocks_bytes(p, l);
  z.worker = round_up(l.sort + 64, 16) * (4 + z.value) + l.dense * z.value +
             round_up(l.dense + l.dense / kLine + 128, 64) + l.hash * (z.index + z.value) +
             round_up(l.hashed() + 8, 8) * 8 + kBuffers * round_up(z.entries, 64) * (z.index + z.value) +
             round_up(kBuffers * 8, 64);
  const int64_t batch = p.type == KN_F64 ? sizeof(short_batch<double>) : sizeof(short_batch<float>);
  z.worker = round_up(z.worker + batch, 64) + 1024;
  return z;
}

template <class I, class S>
struct driver {
  using V = typename S::value;

  const kn_spgemm_problem& p;
  const kn_spgemm_args& a;
  const limits limit;
  const sizes size;
  const int32_t threads;
  int64_t slots, first_product;
  int64_t whole;    // products of a row that is not shared
  int64_t* counts;  // [slots] entries of a finished slot, -1 before
  int64_t* bases;   // [slots + 1] where a slot goes, up to `ready`
  std::atomic<int64_t> ready, stop;
  std::atomic<bool> busy;
  blocked_operand<I, S> blocks;
  bool blocked, scheduled;

  struct worker {
    scratch<I, S> s;
    I* columns[kBuffers];
    V* values[kBuffers];
    int64_t* waiting;  // [kBuffers] the slot that a buffer holds, -1: none
  };

  // Rows and the part of a split row of one slot.
  struct share {
    int64_t first, last;  // rows that begin here
    int64_t split;        // the row before them that goes on here, -1: none
    bool split_ends, last_goes_on;
    int64_t ends_from() const { return split_ends ? first - 1 : first; }
    int64_t ends_to() const { return last_goes_on ? last - 1 : last; }
  };

  driver(const kn_spgemm_problem& problem, const kn_spgemm_args& args, const limits& l, const sizes& z, int32_t t)
      : p(problem),
        a(args),
        limit(l),
        size(z),
        threads(t),
        ready(0),
        stop(INT64_MAX),
        busy(false),
        blocks{p, a.a, a.b, nullptr, nullptr},
        blocked(false),
        scheduled(args.phase == KN_SPGEMM_NUMERIC && args.schedule.offsets != nullptr) {
    first_product = a.products[a.row_from];
    const int64_t products = a.products[a.row_to] - first_product;
    slots = products / l.window + 1;
    // Meanwhile the others fill their buffers, and no thread is left with a quarter of its work.
    whole = t == 1 ? INT64_MAX : smaller(larger(products / (4 * t), l.window), kBuffers * l.window);
    counts = static_cast<int64_t*>(a.workspace);
    bases = counts + round_up((z.slots + 1) * 8, 64) / 8;
    char* at = static_cast<char*>(a.workspace) + z.blocks;
    blocks.ranges = reinterpret_cast<block_range*>(at);
    blocks.records = reinterpret_cast<block_record*>(at + ranges_bytes(p));
  }

  worker worker_of(int32_t index) const {
    char* at = static_cast<char*>(a.workspace) + size.shared + index * size.worker;
    auto take = [&at](int64_t bytes) {
      char* here = at;
      at += round_up(bytes, 64);
      return here;
    };
    worker w;
    w.waiting = reinterpret_cast<int64_t*>(take(kBuffers * 8));
    w.s.keys = reinterpret_cast<uint32_t*>(take((limit.sort + 64) * 4)) + 16;
    w.s.products = reinterpret_cast<V*>(take((limit.sort + 64) * size.value));
    w.s.sums = reinterpret_cast<V*>(take(limit.dense * size.value));
    w.s.marks = reinterpret_cast<uint8_t*>(take(limit.dense + 64));
    w.s.lines = reinterpret_cast<uint8_t*>(take(limit.dense / kLine + 64));
    w.s.batch = reinterpret_cast<short_batch<V>*>(take(sizeof(short_batch<V>)));
    w.s.table = reinterpret_cast<I*>(take(limit.hash * size.index));
    w.s.table_sums = reinterpret_cast<V*>(take(limit.hash * size.value));
    w.s.found = reinterpret_cast<uint64_t*>(take((limit.hashed() + 8) * 8));
    w.s.state = reinterpret_cast<scratch_state*>(take(sizeof(scratch_state)));
    for (int b = 0; b < kBuffers; b++) {
      w.columns[b] = reinterpret_cast<I*>(take(size.entries * size.index));
      w.values[b] = reinterpret_cast<V*>(take(size.entries * size.value));
    }
    return w;
  }

  int64_t first_row(int64_t slot) const {
    int64_t low = a.row_from, high = a.row_to;
    const int64_t wanted = first_product + slot * limit.window;
    while (low < high) {
      const int64_t middle = (low + high) >> 1;
      if (a.products[middle] < wanted)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  // How many slots share row i, of those before the one in which it ends: there other rows begin. A part repeats the
  // bisection of every row of B, so it must have some products for each; where B is not sorted it looks at all of them,
  // so that there are no more parts than threads.
  int64_t parts(int64_t i) const {
    const int64_t products = a.products[i + 1] - a.products[i];
    if (products <= whole) return 1;
    const int64_t from = (a.products[i] - first_product) / limit.window;
    const int64_t to = (a.products[i + 1] - first_product - 1) / limit.window;
    if (!(p.flags & KN_SPGEMM_B_SORTED)) return smaller(to - from, threads);
    return smaller(to - from, larger(1, products / (4 * (a.a.offsets[i + 1] - a.a.offsets[i]) + 1)));
  }

  int64_t slot_of(int64_t i) const { return (a.products[i] - first_product) / limit.window; }

  share share_of(int64_t slot) const {
    share h{first_row(slot), first_row(slot + 1), -1, false, false};
    if (slot + 1 == slots) h.last = a.row_to;
    if (h.first > a.row_from && parts(h.first - 1) > slot - slot_of(h.first - 1)) {
      h.split = h.first - 1;
      h.split_ends = slot - slot_of(h.split) + 1 == parts(h.split);
    }
    h.last_goes_on = h.last > h.first && parts(h.last - 1) > 1;
    return h;
  }

  part part_of(int64_t i, int64_t index) const {
    const int64_t n = parts(i);
    if (n == 1) return {i, 0, p.n, true};
    return {i, static_cast<int64_t>(static_cast<__int128>(p.n) * index / n),
            static_cast<int64_t>(static_cast<__int128>(p.n) * (index + 1) / n), false};
  }

  // The offset that says where row i ends.
  int64_t& end_of(int64_t i) const { return a.c_offsets[i + 1 - a.row_from]; }

  // Computes a slot to these addresses; ends of rows are relative to it.
  int64_t compute(worker& w, int64_t slot, const share& h, I* c, V* v) {
    row_engine<I, S> engine(p, a, limit, w.s, blocked ? &blocks : nullptr);
    row_forms<I, S>{*w.s.batch}.begin();
    int64_t count = 0;
    if (h.split >= 0) {
      count += engine.compute(part_of(h.split, slot - slot_of(h.split)), c, v);
      if (h.split_ends) end_of(h.split) = count;
    }
    for (int64_t i = h.first; i < h.last;) {
      const int n = short_rows_at(engine, w, i, h.last, c, v, count);
      i += n;
      if (n != 0) continue;
      if (i + 1 < h.last) engine.prefetch(i + 1);
      count += engine.compute(part_of(i, 0), c + count, v + count);
      if (i < h.ends_to()) end_of(i) = count;
      i++;
    }
    return count;
  }

  // Computes the short rows from row i on, a batch of them at most, and returns how many they were.
  int short_rows_at(row_engine<I, S>& engine, worker& w, int64_t i, int64_t last, I* c, V* v, int64_t& count) {
    const bool filtered = mask_filter<I, S>::serves(p, limit);
    if (filtered) engine.ready_dense();
    short_rows<I, S> rows{engine, *w.s.batch, {engine, w.s.marks}, filtered};
    const int n = rows.at(i, last);
    if (n == 0) return 0;
    rows.load(i, n);
    rows.sort(n);
    count = rows.reduce(i, n, c, v, &end_of(i), count);
    return n;
  }

  // Moves `ready` over all finished slots, unless another thread is at it.
  void advance() {
    for (;;) {
      // A count is stored before `busy` is tried, and `busy` is given up before the counts are looked at again. All
      // four are in one order: with less, either side may miss the other's store, and the slots after it are never
      // placed.
      if (busy.exchange(true, std::memory_order_seq_cst)) return;
      int64_t t = ready.load(std::memory_order_relaxed);
      for (; t < slots; t++) {
        const int64_t count = __atomic_load_n(counts + t, __ATOMIC_ACQUIRE);
        if (count < 0 || stop.load(std::memory_order_relaxed) <= t) break;
        if (a.phase == KN_SPGEMM_PRODUCT && bases[t] + count > a.c_capacity) {
          stop.store(t, std::memory_order_release);
          break;
        }
        bases[t + 1] = bases[t] + count;
        ready.store(t + 1, std::memory_order_release);
      }
      busy.store(false, std::memory_order_seq_cst);
      // A slot that was finished meanwhile, whose thread found this one busy.
      if (t >= slots || stop.load(std::memory_order_relaxed) <= t || __atomic_load_n(counts + t, __ATOMIC_SEQ_CST) < 0)
        return;
    }
  }

  void place(const worker& w, int b, int64_t entries) const {
    if (a.phase != KN_SPGEMM_PRODUCT) return;
    const int64_t to = bases[w.waiting[b]];
    memcpy(static_cast<I*>(a.c_columns) + to, w.columns[b], static_cast<size_t>(entries) * sizeof(I));
    if (S::kValues) memcpy(static_cast<V*>(a.c_values) + to, w.values[b], static_cast<size_t>(entries) * sizeof(V));
  }

  void shift_ends(int64_t slot) const {
    const share h = share_of(slot);
    for (int64_t i = h.ends_from(); i < h.ends_to(); i++) end_of(i) += bases[slot];
  }

  // Places what may be placed.
  void flush(worker& w) {
    const int64_t known = ready.load(std::memory_order_acquire);
    for (int b = 0; b < kBuffers; b++) {
      if (w.waiting[b] < 0 || w.waiting[b] >= known) continue;
      place(w, b, counts[w.waiting[b]]);
      shift_ends(w.waiting[b]);
      w.waiting[b] = -1;
    }
  }

  int free_buffer(worker& w) {
    for (int turns = 0;; turns++) {
      flush(w);
      for (int b = 0; b < kBuffers; b++)
        if (w.waiting[b] < 0) return b;
      if (stop.load(std::memory_order_relaxed) != INT64_MAX) return -1;
      advance();
      // The worker that has the slot may be waiting for this core.
      if (turns < 1024)
        _mm_pause();
      else
        std::this_thread::yield();
    }
  }

  // Whether the slot may be computed where it goes: its place is known and has room for whatever it holds, and for the
  // register that is stored behind.
  bool in_place(int64_t slot, const share& h) const {
    if (a.phase != KN_SPGEMM_PRODUCT || ready.load(std::memory_order_acquire) < slot) return false;
    const int64_t products = a.products[h.last] - a.products[h.split >= 0 ? h.split : h.first];
    return bases[slot] + smaller(size.entries, products + 64) <= a.c_capacity;
  }

  static void slot_task(void* context, int64_t slot, int32_t index) {
    driver& d = *static_cast<driver*>(context);
    if (d.stop.load(std::memory_order_relaxed) <= slot) return;
    worker w = d.worker_of(index);
    const share h = d.share_of(slot);
    const bool direct = d.in_place(slot, h);
    const int b = direct ? 0 : d.free_buffer(w);
    if (b < 0) return;
    I* c = direct ? static_cast<I*>(d.a.c_columns) + d.bases[slot] : w.columns[b];
    V* v = direct && S::kValues ? static_cast<V*>(d.a.c_values) + d.bases[slot] : w.values[b];
    const int64_t count = d.compute(w, slot, h, c, v);
    if (direct)
      d.shift_ends(slot);
    else
      w.waiting[b] = slot;
    __atomic_store_n(d.counts + slot, count, __ATOMIC_SEQ_CST);
    d.advance();
    d.flush(w);
  }

  static void flush_task(void* context, int64_t index, int32_t) {
    driver& d = *static_cast<driver*>(context);
    worker w = d.worker_of(static_cast<int32_t>(index));
    d.flush(w);
  }

  // Where a slot found no room, those of its rows that have it.
  int64_t place_rest() {
    const int64_t slot = stop.load();
    if (slot == INT64_MAX) return a.row_to;
    const share h = share_of(slot);
    if (h.split >= 0) return h.split;
    for (int32_t index = 0; index < threads; index++) {
      worker w = worker_of(index);
      for (int b = 0; b < kBuffers; b++) {
        if (w.waiting[b] != slot) continue;
        int64_t i = h.first;
        while (i < h.ends_to() && bases[slot] + end_of(i) <= a.c_capacity) i++;
        place(w, b, i == h.first ? 0 : end_of(i - 1));
        for (int64_t r = h.first; r < i; r++) end_of(r) += bases[slot];
        return i;
      }
    }
    return h.first;
  }

  static void numeric_task(void* context, int64_t slot, int32_t index) {
    driver& d = *static_cast<driver*>(context);
    worker w = d.worker_of(index);
    row_engine<I, S> engine(d.p, d.a, d.limit, w.s, d.blocked ? &d.blocks : nullptr);
    const share h = d.share_of(slot);
    if (h.split >= 0) d.numeric(engine, w, h.split, slot - d.slot_of(h.split));
    for (int64_t i = h.first; i < h.last; i++) {
      if (!d.scheduled && i + 1 < h.last) engine.prefetch(i + 1);
      d.numeric(engine, w, i, 0);
    }
  }

  // The rows that begin in the slot, none of them shared: a schedule is made once.
  static void schedule_task(void* context, int64_t slot, int32_t index) {
    driver& d = *static_cast<driver*>(context);
    worker w = d.worker_of(index);
    row_engine<I, S> engine(d.p, d.a, d.limit, w.s, nullptr);
    const scheduled_rows<I, S> rows{engine};
    const share h = d.share_of(slot);
    uint32_t* blocks = reinterpret_cast<uint32_t*>(w.columns[0]);
    for (int64_t i = h.first; i < h.last; i++) {
      if (d.a.phase == KN_SPGEMM_SCHEDULE)
        rows.fill(i, blocks);
      else
        d.a.schedule.offsets[i + 1] = rows.size(i, blocks);
    }
  }

  void schedule() {
    kn_parallel(threads, slots, schedule_task, this);
    if (a.phase == KN_SPGEMM_SCHEDULE) return;
    a.schedule.offsets[0] = 0;
    for (int64_t i = 0; i < p.m; i++) a.schedule.offsets[i + 1] += a.schedule.offsets[i];
  }

  void numeric(row_engine<I, S>& engine, worker& w, int64_t i, int64_t index) const {
    const scheduled_rows<I, S> rows{engine};
    if (scheduled && rows.has(i)) return rows.sum(i, index, parts(i));
    const part r = part_of(i, index);
    const I* c = static_cast<const I*>(a.c_columns);
    int64_t from = a.c_offsets[r.i - a.row_from], to = end_of(r.i);
    if (!r.whole) {
      from = engine.bisect(c, from, to, r.low);
      to = engine.bisect(c, from, to, r.high);
    }
    V* v = static_cast<V*>(a.c_values) + from;
    numeric_rows<I, S>{engine}.compute(r, c + from, v, to - from, w.columns[0], w.values[0]);
  }

  void run() {
    for (int32_t index = 0; index < threads; index++) {
      worker w = worker_of(index);
      *w.s.state = {};
      for (int b = 0; b < kBuffers; b++) w.waiting[b] = -1;
    }
    if (a.phase > KN_SPGEMM_NUMERIC) return schedule();
    // Values alone need no marks, and gain less.
    const int64_t least = a.phase == KN_SPGEMM_NUMERIC ? 3 : 2, some = a.products[a.row_to] - a.products[a.row_from];
    blocked = !scheduled && may_block(p, limit) && some / p.b_nnz >= limit.blocks && blocks.fill(least);
    if (blocked) blocks.make(threads);
    if (a.phase == KN_SPGEMM_NUMERIC) {
      kn_parallel(threads, slots, numeric_task, this);
      return;
    }
    for (int64_t t = 0; t < slots; t++) counts[t] = -1;
    bases[0] = a.c_offsets[0];
    kn_parallel(threads, slots, slot_task, this);
    kn_parallel(threads, threads, flush_task, this);
    if (a.phase == KN_SPGEMM_PRODUCT) *a.rows_done = place_rest();
  }
};

}  // namespace
}  // namespace kn::spgemm
