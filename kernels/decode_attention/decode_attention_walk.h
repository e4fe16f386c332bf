// In which order the rows and keys of a chunk are multiplied, and what is fetched on the way. Everything is static, see
// avx512.h.
//
// What comes from memory is read in the order in which it lies, as a few streams at the same time: that is what
// hardware prefetchers follow, while rows of one head that lie 2 KB apart lose them. So a chunk is 4 runs of 16 tokens,
// and neighbouring slots of it are tokens of different runs. Kernels fetch what their next step reads, past the caches
// that it would push others out of.
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
  const char* const* ahead;  // of the slots to fetch meanwhile, as many
  int64_t ahead_offset;
  const char* q;  // [rows, q_row] from the first row on, as are the others
  int64_t q_row;  // bytes
  float* scores;  // [rows, kChunk]; for add_values the weights in their place
  int64_t slot;   // the first one
  float* sums;    // [rows, out_row]
  int64_t out_row;
  int64_t share;    // quarters of a step's slots, of `ahead`: 0, 1 or 2
  const char* far;  // kFar: the part of a token that is brought to L2 meanwhile

  KN_INLINE void skip(int64_t rows) { q += rows * q_row, scores += rows * kChunk, sums += rows * out_row; }
};

// What a step fetches of what is ahead: nothing, as many slots as it has, its share of them, or one and what is far.
enum fetching { kNone, kAll, kShare, kFar };

// Left to itself, the compiler gathers what a loop fetches in front of it, and loads wait for such a burst.
inline KN_INLINE void fetch_line(const char* line) { asm volatile("prefetchnta %0" : : "m"(*line)); }
inline KN_INLINE void fetch_far(const char* line) { asm volatile("prefetcht1 %0" : : "m"(*line)); }

template <fetching F, int T>
inline KN_INLINE void fetch(const multiplication& m, int64_t bytes, int64_t from = 0) {
  if (F == kNone || bytes % 64 != 0) return;
  const auto slots = [&]<int N>(int64_t first) KN_INLINE {
    each<N>([&](auto t) KN_INLINE { fetch_line(moved(m.ahead[first + t], m.ahead_offset + bytes)); });
  };
  if (F == kAll) return slots.template operator()<T>(from);
  if (F == kFar) fetch_far(moved(m.far, bytes));
  if (F == kFar || m.share > 0) slots.template operator()<T / 4>(0);
  if (F == kShare && m.share > 1) slots.template operator()<T / 4>(T / 4);
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
// on, in the order in which they follow one another. Where the order is the same for both, they go on from keys to
// values and from those to the next keys, else to the next chunk's of the same kind.
constexpr int64_t kAhead = 2048;

struct path {
  bool heads_inside;      // tokens hold their heads, rather than heads their tokens
  bool few;               // see steps
  bool crowded;           // tokens of such heads share sets of L1
  int64_t head0, heads;   // of the task
  int64_t stride, later;  // bytes from head to head, and in what is fetched after the chunk's;
  int64_t past;           // places between the two
  int64_t ahead;          // kAhead bytes of every run, in heads' parts of tokens

  // addresses(head): by slots, of which m takes some from m.slot on.
  template <class Addresses>
  KN_INLINE void aim(multiplication* m, int64_t slots, int64_t head, Addresses addresses) const {
    m->at = addresses(head) + m->slot, m->offset = (head0 + head) * stride;
    int64_t next = m->slot;
    if (heads_inside) {
      head += larger(1, ahead / slots);
      next += smaller(kChunk, head / heads * slots), head %= heads;
    } else {
      next += smaller(kChunk - 16, ahead);
      if (next >= kChunk && head + 1 < heads)
        head += 1, next -= kChunk;
      else if (next >= kChunk)
        head = 0;
    }
    m->ahead = addresses(head) + next, m->ahead_offset = (head0 + head) * stride;
    if (next >= kChunk) m->ahead += past, m->ahead_offset = (head0 + head) * later;
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
  const auto together = [&]<int R, int T>(int64_t end) KN_INLINE {
    const int64_t slots = end < 16 ? T : kTogether, steps = slots / T * (end / R), quarters = slots / T * 4;
    turns(slots, [&](multiplication m) KN_INLINE {
      int64_t due = 0;
      for (const int64_t stop = m.slot + slots; m.slot < stop; m.slot += T, m.at += T) {
        multiplication mine = m;
        for (int64_t row = 0; row < end; row += R, mine.skip(R)) {
          mine.ahead = m.ahead, mine.share = 0;
          for (due += quarters; due >= steps; due -= steps) mine.share++;
          m.ahead += mine.share * (T / 4);
          step.template operator()<R, T, kShare>(mine);
        }
      }
    });
    done = end;
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
      if (along.few) return run.template operator()<R, kFew, kAll>(end);
    run.template operator()<R, kMany, kAll>(end);
  };
  if constexpr (Steps::kMost >= 8) runs.template operator()<8>();
  runs.template operator()<4>();
  runs.template operator()<2>();
  runs.template operator()<1>();
}

}  // namespace
}  // namespace kn::decode_attention
