// In which order the rows and keys of a chunk are multiplied, and what is fetched on the way. Everything is static, see
// avx512.h.
//
// What comes from memory is read in the order in which it lies, as a few streams at the same time: that is what
// hardware prefetchers follow, while rows of one head that lie 2 KB apart lose them. So a chunk is 4 runs of 16 tokens,
// and neighbouring slots of it are tokens of different runs. Kernels fetch what steps read later, past the caches that
// it would push others out of; or, where L1 waits for too few lines to draw all that memory gives, to L2 and from
// there.
#pragma once
#include "decode_attention_reduce.h"

namespace kn::decode_attention {
namespace {

constexpr int64_t kRuns = 4, kRun = kChunk / kRuns;

inline int64_t slot_of(int64_t token) { return token % kRun * kRuns + token / kRun; }
inline int64_t token_of(int64_t slot) { return slot % kRuns * kRun + slot / kRuns; }

// Bits by tokens to bits by slots.
inline uint64_t slots_of(uint64_t tokens) {
  if (tokens == ~uint64_t{0}) return tokens;
  uint64_t slots = 0;
  for (; tokens != 0; tokens &= tokens - 1) slots |= uint64_t{1} << slot_of(__builtin_ctzll(tokens));
  return slots;
}

// Where nothing lies has no head before it: addresses are moved as numbers.
inline const char* moved(const char* address, int64_t bytes) {
  return reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(address) + static_cast<uintptr_t>(bytes));
}

// Some rows of one kv head times the keys of some slots.
struct multiplication {
  const kn_decode_attention_problem* problem;
  const char* const* at;     // k or v of kv head 0 in the first slot, and in those that follow
  int64_t offset;            // bytes from there to the kv head
  const char* const* ahead;  // of the slots to fetch to L1 meanwhile, as many
  int64_t ahead_offset;
  const char* const* beyond;  // by L2: and of those to fetch to it
  int64_t beyond_offset;
  const char* q;  // [rows, q_row] from the first row on, as are the others
  int64_t q_row;  // bytes
  float* scores;  // [rows, kChunk]; for add_values the weights in their place
  int64_t slot;   // the first one
  float* sums;    // [rows, out_row]
  int64_t out_row;
  int64_t share;    // quarters of a step's slots, of `ahead` and `beyond`: 0, 1 or 2
  const char* far;  // kFar: the part of a token that is brought to L2 meanwhile

  KN_INLINE void skip(int64_t rows) { q += rows * q_row, scores += rows * kChunk, sums += rows * out_row; }
};

// What a step fetches of what is ahead: nothing, as many slots as it has, its share of them, or one and what is far. By
// L2: of both, what is ahead and what is beyond.
enum fetching { kNone, kAll, kShare, kFar, kAllByL2, kShareByL2 };
constexpr bool fetches_all(fetching f) { return f == kAll || f == kAllByL2; }
constexpr bool fetches_share(fetching f) { return f == kShare || f == kShareByL2; }

// Left to itself, the compiler gathers what a loop fetches in front of it, and loads wait for such a burst.
inline KN_INLINE void fetch_line(const char* line) { asm volatile("prefetchnta %0" : : "m"(*line)); }
inline KN_INLINE void fetch_far(const char* line) { asm volatile("prefetcht1 %0" : : "m"(*line)); }

template <fetching F, int T>
inline KN_INLINE void fetch(const multiplication& m, int64_t bytes, int64_t from = 0) {
  if (F == kNone || bytes % 64 != 0) return;
  const auto slots = [&]<int N>(int64_t first) KN_INLINE {
    each<N>([&](auto t) KN_INLINE {
      fetch_line(moved(m.ahead[first + t], m.ahead_offset + bytes));
      if (F == kAllByL2 || F == kShareByL2) fetch_far(moved(m.beyond[first + t], m.beyond_offset + bytes));
    });
  };
  if (fetches_all(F)) return slots.template operator()<T>(from);
  if (F == kFar) fetch_far(moved(m.far, bytes));
  if (F == kFar || m.share > 0) slots.template operator()<T / 4>(0);
  if (fetches_share(F) && m.share > 1) slots.template operator()<T / 4>(T / 4);
}

// Lanes [R][T]: R rows of q times the keys of T slots. An Engine reads kWidth elements at a time, of which it
// keeps mask(left): zero(), q_at(row, d), key_at(address, mask), dot(sum, q, key). A row of q has q_bytes(head_dim).
template <class Engine, int R, int T, fetching F, int D>
inline KN_INLINE auto products(const multiplication& m) {
  const int64_t q_row = D > 0 ? Engine::q_bytes(D) : m.q_row;
  const char* at[T];
  decltype(Engine::zero()) sum[R * T];
  each<T>([&](auto t) KN_INLINE { at[t] = moved(m.at[t], m.offset); });
  each<R * T>([&](auto i) KN_INLINE { sum[i] = Engine::zero(); });
  const auto add = [&](int64_t d, int64_t left) KN_INLINE {
    const auto mask = Engine::mask(left);
    const int64_t bytes = d * Engine::kBytes;
    fetch<F, T>(m, bytes);
    decltype(Engine::q_at(m.q, d)) q[R];
    each<R>([&](auto r) KN_INLINE { q[r] = Engine::q_at(m.q + r * q_row, d); });
    each<T>([&](auto t) KN_INLINE {
      const auto key = Engine::key_at(at[t] + bytes, mask);
      each<R>([&](auto r) KN_INLINE { sum[r * T + t] = Engine::dot(sum[r * T + t], q[r], key); });
    });
  };
  // As a loop it would move every sum from register to register in each turn.
  if constexpr (D > 0)
    each<D / Engine::kWidth>([&](auto i) KN_INLINE { add(i * Engine::kWidth, Engine::kWidth); });
  else
    over<0, Engine::kWidth>(m.problem->head_dim, add);
  return sum_each(sum);
}

constexpr int kTogether = 16;  // slots for which 16 rows and more stay with a head, so that L1 keeps its q and its sums

// The most rows that a step multiplies, and its slots: few, one token of each run, where long tokens come from memory,
// so that what is fetched for the next step is not pushed out before it is read; else Products over the rows. Steps
// that share what they fetch are `together`.
template <int Most, int Products>
struct steps {
  static constexpr int kMost = Most;
  static constexpr bool kSame = false;
  static constexpr int few(int rows) { return rows == 8 ? 2 * kRuns : kRuns; }
  static constexpr int many(int rows) { return rows == 8 ? 2 * kRuns : Products / rows; }
  static constexpr int together(int rows) { return rows == 8 ? kTogether : Products / rows; }
};

constexpr int64_t kLongToken = 2048;  // bytes of all its heads
constexpr int64_t kSets = 4096;       // bytes after which the sets of L1 begin anew
constexpr int64_t kManySums = 32768;  // bytes: beside more, L1 holds no more than a step

// Slots for which the first steps stay with a head.
template <class Steps>
inline int64_t stay(int64_t rows, bool few) {
  int most = Steps::kMost;
  while (most > rows) most /= 2;
  if (rows / most > 1) return rows / most * most < 16 ? Steps::together(most) : kTogether;
  return few ? Steps::few(most) : Steps::many(most);
}

// Steps over a chunk's keys, or over its values, and what they fetch: what steps read later that are some 2 KB of a run
// on, 3 KB where elements of short tokens are bytes, in the order in which they follow one another. Where the order is
// the same for both, they go on from keys to values and from those to the next keys, else to the next chunk's of the
// same kind. By way of L2: twice as far to there, and to L1 what is read two steps later.
constexpr int64_t kAhead = 2048, kAheadInBytes = 3072, kBeyond = 4096, kNear = 2 * kRuns;

struct path {
  bool heads_inside;      // tokens hold their heads, rather than heads their tokens
  bool few;               // see steps
  bool crowded;           // tokens of such heads share sets of L1
  int64_t head0, heads;   // of the task
  int64_t stride, later;  // bytes from head to head, and in what is fetched after the chunk's;
  int64_t past;           // places between the two
  int64_t ahead, beyond;  // to L1 and to L2: bytes of every run, in heads' parts of tokens; none to L2: 0

  // addresses(head): by slots, of which m takes some from m.slot on.
  template <class Addresses>
  KN_INLINE void aim(multiplication* m, int64_t slots, int64_t head, Addresses addresses) const {
    m->at = addresses(head) + m->slot, m->offset = (head0 + head) * stride;
    const auto after = [&](int64_t parts, const char* const** at, int64_t* offset) KN_INLINE {
      int64_t h = head, next = m->slot;
      if (heads_inside) {
        h += larger(1, parts / slots);
        next += smaller(kChunk, h / heads * slots), h %= heads;
      } else {
        next += larger(slots, smaller(kChunk - 16, parts));
        if (next >= kChunk && h + 1 < heads)
          h += 1, next -= kChunk;
        else if (next >= kChunk)
          h = 0;
      }
      *at = addresses(h) + next, *offset = (head0 + h) * stride;
      if (next >= kChunk) *at += past, *offset = (head0 + h) * later;
    };
    after(ahead, &m->ahead, &m->ahead_offset);
    if (beyond > 0) after(beyond, &m->beyond, &m->beyond_offset);
  }
};

// Calls step<R, T, F>(m) for runs of up to 8, 4, 2 and 1 rows and T slots, m = at(head, row, slot, slots to stay for):
// the first rows in the order of memory, fetching what comes next, the rest on what is in cache by then. Steps of the
// most rows for the same slots each fetch their share. kSame: T depends on nothing but `few`.
template <class Steps, bool Far, class At, class F>
inline KN_INLINE void walk(const path& along, int64_t rows, At at, F step) {
  const bool inside = along.heads_inside;
  int64_t done = 0;
  const auto turns = [&](int64_t slots, auto turn) KN_INLINE {
    for (int64_t o = 0; o < (inside ? kChunk : along.heads * slots); o += slots)
      for (int64_t i = 0; i < (inside ? along.heads * slots : kChunk); i += slots)
        turn(at((inside ? i : o) / slots, done, inside ? o : i, slots));
  };
  const auto run = [&]<int R, int T, fetching kFetch>(int64_t end) KN_INLINE {
    turns(T, [&](const multiplication& m) KN_INLINE { step.template operator()<R, T, kFetch>(m); });
    done = end;
  };
  const auto share = [&]<int R, int T, fetching kFetch>(int64_t end) KN_INLINE {
    const int64_t slots = end < 16 ? T : kTogether, steps = slots / T * (end / R), quarters = slots / T * 4;
    turns(slots, [&](multiplication m) KN_INLINE {
      int64_t due = 0;
      for (const int64_t stop = m.slot + slots; m.slot < stop; m.slot += T, m.at += T) {
        multiplication mine = m;
        for (int64_t row = 0; row < end; row += R, mine.skip(R)) {
          mine.ahead = m.ahead, mine.beyond = m.beyond, mine.share = 0;
          for (due += quarters; due >= steps; due -= steps) mine.share++;
          m.ahead += mine.share * (T / 4);
          if constexpr (kFetch == kShareByL2) m.beyond += mine.share * (T / 4);
          step.template operator()<R, T, kFetch>(mine);
        }
      }
    });
    done = end;
  };
  const auto alone = [&]<int R, int T>(int64_t end) KN_INLINE {
    if constexpr (!KN_INSTRUMENTED)
      if (along.beyond > 0) return run.template operator()<R, T, kAllByL2>(end);
    run.template operator()<R, T, kAll>(end);
  };
  const auto together = [&]<int R, int T>(int64_t end) KN_INLINE {
    if constexpr (!KN_INSTRUMENTED)
      if (along.beyond > 0) return share.template operator()<R, T, kShareByL2>(end);
    share.template operator()<R, T, kShare>(end);
  };
  // `together` of 16 rows where tokens are kSets apart: L1 cannot keep 16 parts of a head, nor do prefetchers follow 16
  // streams. The next slots come to L2 in the order in which they lie, and to L1 half of kTogether ahead.
  const auto afar = [&]() KN_INLINE {
    constexpr int64_t kHalf = kTogether / 2;
    int64_t part = 0;
    turns(kTogether, [&](const multiplication& m) KN_INLINE {
      for (int64_t i = 0; i < kTogether; i++, part++) {
        multiplication mine = m;
        mine.slot += i / 4 * 4, mine.at += i / 4 * 4, mine.skip(i % 4 * 4);
        if (i < kHalf)
          mine.ahead = m.at + kHalf + i, mine.ahead_offset = m.offset;
        else
          mine.ahead = m.ahead + i - kHalf;
        const int64_t head = along.head0 + part / kRuns % along.heads;
        const int64_t to = kTogether + part / kRuns / along.heads * kRuns % kTogether + part % kRuns;
        const bool here = m.slot + to < kChunk;
        mine.far = moved(m.at[to + (here ? 0 : along.past)], head * (here ? along.stride : along.later));
        step.template operator()<4, 4, kFar>(mine);
      }
    });
    done = 16;
  };
  const auto runs = [&]<int R>() KN_INLINE {
    constexpr int kFew = Steps::few(R), kMany = Steps::many(R);
    const int64_t end = R == Steps::kMost ? rows / R * R : done + (rows & R);
    if (end == done) return;
    if constexpr (R < Steps::kMost) {
      if constexpr (Steps::kSame)
        if (done > 0 && along.few) return run.template operator()<R, kFew, kNone>(end);
      if (done > 0) return run.template operator()<R, kMany, kNone>(end);
    } else if (end > R) {
      if constexpr (Steps::kSame)
        if (along.few) return together.template operator()<R, kFew>(end);
      if constexpr (Far)
        if (end == 16 && along.crowded) return afar();
      return together.template operator()<R, Steps::together(R)>(end);
    }
    if constexpr (kFew != kMany)
      if (along.few) return alone.template operator()<R, kFew>(end);
    alone.template operator()<R, kMany>(end);
  };
  if constexpr (Steps::kMost >= 8) runs.template operator()<8>();
  runs.template operator()<4>();
  runs.template operator()<2>();
  runs.template operator()<1>();
}

}  // namespace
}  // namespace kn::decode_attention
