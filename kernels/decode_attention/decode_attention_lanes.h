// Many rows of one kv head: they are the lanes of q, so that no sum is taken across lanes, and what they are multiplied
// by is copied out of the cache. Tokens lie 2 KB and more apart, where those of one head share a few sets of L1; copies
// lie one after another, of any type as it is multiplied, and are made while the ones before are read. Everything is
// static, see avx512.h.
#pragma once
#include <avx512.h>

#include "decode_attention_call.h"
#include "decode_attention_walk.h"

namespace kn::decode_attention {
namespace {

constexpr int64_t kLine = 64;

// How many of so many rows go by lanes, from the first on: 16 at a time, and as many as are worth 16 lanes.
inline int64_t lanes_for(int64_t rows) { return rows % 16 >= (rows > 16 ? 8 : 12) ? rows : rows / 16 * 16; }

// The rows of q of head h, [row][dword], to lanes.
inline void turn_q(const call& c, int64_t rows, int64_t h, const work& w) {
  for (int64_t r = 0; r < smaller(rows, c.lane_rows); r += 16)
    for (int64_t d = 0; d < c.q_row; d += kLine) {
      __m512 v[16];
      each<16>([&](auto i) KN_INLINE {
        v[i] = r + i < rows ? _mm512_load_ps(w.q + (h * rows + r + i) * c.q_row + d) : _mm512_setzero_ps();
      });
      transpose(v);
      char* const out = w.lanes + (h * c.lane_rows + r) * c.q_row + d * 16;
      each<16>([&](auto i) KN_INLINE { _mm512_store_ps(out + i * kLine, v[i]); });
    }
}

// What is read after the chunk's keys, or its values: fetched to L2 line by line, in the order in which it lies, while
// the chunk's are multiplied.
struct stream {
  const view* keys;
  int64_t place, head0, heads, stride, bytes;  // in `at`; bytes from head to head, and of one
  bool inside;                                 // tokens hold their heads
  int64_t slot = 0, head = 0;
  const char *at = nullptr, *end = nullptr;

  KN_INLINE void line() {
    if (at == end) {
      if (slot == kChunk || head == heads) return;
      at = moved(keys[head].at[place + slot], (head0 + head) * stride);
      end = moved(at, round_up(bytes, kLine));
      if (inside && ++head == heads)
        head = 0, slot++;
      else if (!inside && ++slot == kChunk)
        slot = 0, head++;
    }
    fetch_far(at);
    at += kLine;
  }
};

// Some slots of one kv head, and where their copies go.
struct source {
  const char* const* at;
  int64_t offset;  // bytes from there
  int64_t left;    // elements
  char* to;
};

// The engines whose lines are copied: where it names none, an engine's own.
template <class Engine>
struct lines_of {
  using keys = Engine;
  using values = Engine;
};
template <class Engine>
requires requires { typename Engine::key_lines; }
struct lines_of<Engine> {
  using keys = typename Engine::key_lines;
  using values = typename Engine::value_lines;
};

// An engine may have two_at(address, elements left, to): two lines of elements at once.
template <class Engine>
struct by_lanes {
  static constexpr int64_t kSlots = 16, kTile = kSlots * kLine;  // of keys: [line][slot][16 dwords]
  static constexpr int64_t kSteps = kChunk / Engine::kPair;      // of values: [slot or pair of slots][2][16 dwords]
  static constexpr int64_t kBlock = 32;                          // columns of these
  static constexpr int kLines = Engine::kBytes * Engine::kPair;  // of the cache in 4 of copies

  static int64_t lines(int64_t width) { return (width + Engine::kWidth - 1) / Engine::kWidth; }
  static int64_t tile_bytes(int64_t head_dim) { return lines(head_dim) * kTile; }
  static constexpr int64_t kBlockBytes = kSteps * 2 * kLine;
  static int64_t copies(int64_t head_dim) { return 2 * round_up(larger(tile_bytes(head_dim), kBlockBytes), 4096); }

  static KN_INLINE __m512i line_at(const source& s, int64_t slot, int64_t line) {
    const char* const at = moved(s.at[slot], s.offset + line * Engine::kWidth * Engine::kBytes);
    return reinterpret_cast<__m512i>(Engine::key_at(at, Engine::mask(larger(0, s.left - line * Engine::kWidth))));
  }

  static KN_INLINE void copy_key(const source& s, int64_t slot, int64_t line) {
    _mm512_store_si512(s.to + line * kTile + slot * kLine, line_at(s, slot, line));
  }

  static void copy_keys(const source& s) {
    for (int64_t slot = 0; slot < kSlots; slot++)
      for (int64_t line = 0; line < lines(s.left); line++) copy_key(s, slot, line);
  }

  static KN_INLINE void copy_value(const source& s, int64_t step) {
    __m512i* const to = reinterpret_cast<__m512i*>(s.to + step * 2 * kLine);
    if constexpr (requires { Engine::two_at(s.to, s.left, to); }) {
      Engine::two_at(moved(s.at[step], s.offset), s.left, to);
    } else if constexpr (Engine::kPair == 1) {
      _mm512_store_si512(to, line_at(s, step, 0));
      _mm512_store_si512(to + 1, line_at(s, step, 1));
    } else {
      const __m512i a = line_at(s, 2 * step, 0), b = line_at(s, 2 * step + 1, 0);
      _mm512_store_si512(to, _mm512_unpacklo_epi16(a, b));
      _mm512_store_si512(to + 1, _mm512_unpackhi_epi16(a, b));
    }
  }

  static void copy_values(const source& s) {
    for (int64_t step = 0; step < kSteps; step++) copy_value(s, step);
  }

  // A dword in every lane, as it is multiplied.
  static KN_INLINE auto broadcast(const char* p) {
    return reinterpret_cast<decltype(Engine::q_at(p, 0))>(broadcast_dword(p));
  }

  // Scores of 16 lanes, of which so many are rows.
  template <bool kCopy>
  [[gnu::noinline]] static void score(const char* q, const char* keys, int64_t head_dim, int64_t rows, float* scores,
                                      const source& next, stream* later) {
    constexpr int kTurn = 4;  // dwords; a head_dim is a multiple of 8 elements
    stream s = *later;
    const source from = next;
    __m512 sum[16];
    each<16>([&](auto t) KN_INLINE { sum[t] = _mm512_setzero_ps(); });
    const int64_t dwords = head_dim / Engine::kPair;
    for (int64_t line = 0; line * 16 < dwords; line++, keys += kTile)
      for (int64_t turn = 0; turn < 4; turn++) {
        if (kCopy) {
          each<4>([&](auto i) KN_INLINE { copy_key(from, 4 * turn + i, line); });
          each<kLines>([&](auto) KN_INLINE { s.line(); });
        }
        if (line * 16 + turn * kTurn >= dwords) continue;
        each<kTurn>([&](auto j) KN_INLINE {
          const auto row = Engine::q_at(q + (turn * kTurn + j) * kLine, 0);
          each<16>([&](auto t) KN_INLINE {
            sum[t] = Engine::dot(sum[t], row, broadcast(keys + t * kLine + (turn * kTurn + j) * 4));
          });
        });
        if (turn == 3) q += 16 * kLine;
      }
    transpose(sum);
    each<16>([&](auto r) KN_INLINE {
      if (r < rows) _mm512_store_ps(scores + r * kChunk, sum[r]);
    });
    *later = s;
  }

  // Sums of R rows, 16 C columns, += weights . values.
  template <int R, int C, bool kCopy>
  [[gnu::noinline]] static void add(const char* values, const float* weights, float* sums, int64_t out_row,
                                    const source& next, stream* later) {
    stream s = *later;
    const source from = next;
    __m512 sum[R * C];
    each<R * C>([&](auto i) KN_INLINE { sum[i] = _mm512_load_ps(sums + i / C * out_row + i % C * 16); });
    for (int64_t step = 0; step < kSteps; step += 4)
      each<4>([&](auto i) KN_INLINE {
        if (i < kLines) s.line();
        if (kCopy) copy_value(from, step + i);
        decltype(Engine::q_at(values, 0)) v[C];
        each<C>([&](auto j) KN_INLINE { v[j] = Engine::q_at(values + ((step + i) * 2 + j) * kLine, 0); });
        each<R>([&](auto r) KN_INLINE {
          const auto p = broadcast(reinterpret_cast<const char*>(weights + r * kChunk + step + i));
          each<C>([&](auto j) KN_INLINE { sum[r * C + j] = Engine::dot(sum[r * C + j], p, v[j]); });
        });
      });
    each<R * C>([&](auto i) KN_INLINE { _mm512_store_ps(sums + i / C * out_row + i % C * 16, sum[i]); });
    *later = s;
  }

  // The same of any number of rows, the copies made by the first.
  template <int C>
  static void add_all(const char* values, const float* weights, int64_t rows, float* sums, int64_t out_row,
                      const source& next, stream* later) {
    int64_t r = 8;
    add<8, C, true>(values, weights, sums, out_row, next, later);
    const auto some = [&]<int R>() {
      for (; r + R <= rows; r += R)
        add<R, C, false>(values, weights + r * kChunk, sums + r * out_row, out_row, next, later);
    };
    some.template operator()<8>();
    some.template operator()<4>();
    some.template operator()<2>();
    some.template operator()<1>();
  }
};

template <class Engine>
int64_t copies_of(int64_t head_dim) {
  return larger(by_lanes<typename lines_of<Engine>::keys>::copies(head_dim),
                by_lanes<typename lines_of<Engine>::values>::copies(head_dim));
}

}  // namespace
}  // namespace kn::decode_attention
