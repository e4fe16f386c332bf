// The engine of AMX (Sapphire Rapids and later), q in bf16. The rows of a kv head, its query heads times the new
// tokens, are the rows or the columns of a tile, 16 at most; up to 32 of them pass over the keys together:
//
//   scores   S^T [16 tokens, rows] += K [16 tokens, step] . Q^T [step / 2, rows] in pairs
//   values   O [rows, 16] += P [rows, 32 tokens] . V [32 / 2 tokens, 16] in pairs
//
// Keys are read as they lie: the tokens of a run are the rows of a tile. Only where they do not lie evenly (a page
// ends, a key is not seen), or are not bf16, a step of them is copied first. Q^T is packed once per task, and S^T
// turned in registers. All 8 tiles: 4 sums, so that four products are in flight, and 2 of either operand.
//
// Vector units prepare the next tiles while the products of these run: a tile load cannot take its bytes from stores
// that have not reached L1 yet, so it must not follow them at once.
#pragma once
#include <amx.h>
#include <unroll.h>

#include "decode_attention_bf16.h"

namespace kn::decode_attention {
namespace {

static_assert(kRun == kTileRows && kRuns == 4);

constexpr int64_t kTile = kTileRows * kTileBytes;

// The most elements of a key that divide head_dim and fit in a row of a tile: nothing is read past the end of a key.
inline int64_t step_of(int64_t dim) {
  int64_t step = 32;
  while (dim % step != 0) step -= 8;
  return step;
}

// Of B blocks of up to 16 rows each, a tile of sums belongs to block tile / (4 / B).
template <int B>
int64_t block_rows(int64_t rows, int64_t block) {
  return B == 1 ? rows : block == 0 ? kTileRows : rows - kTileRows;
}

template <int B>
void configure(int64_t rows, int64_t step, bool scores) {
  tile_config c{};
  c.palette = 1;
  const auto shape = [&c](int64_t tile, int64_t r, int64_t bytes) {
    c.rows[tile] = static_cast<uint8_t>(r), c.colsb[tile] = static_cast<uint16_t>(bytes);
  };
  for (int64_t i = 0; i < 4; i++) {
    const int64_t mine = block_rows<B>(rows, i / (4 / B));
    scores ? shape(i, kTileRows, mine * 4) : shape(i, mine, kTileBytes);
  }
  for (int64_t b = 0; b < B; b++) {
    const int64_t mine = block_rows<B>(rows, b);
    scores ? shape(4 + b, step / 2, mine * 4) : shape(4 + b, mine, kTileBytes);
  }
  for (int64_t i = 6; i < 8; i++) shape(i, kTileRows, scores ? step * 2 : kTileBytes);
  tile_configure(c);
}

// A run of keys as a tile: every kRuns-th slot.
struct run {
  const char* at;
  int64_t stride;
  bool even;
};

inline run run_of(const char* const* keys) {
  const auto address = [keys](int64_t i) { return reinterpret_cast<intptr_t>(keys[i * kRuns]); };
  run r{keys[0], address(1) - address(0), true};
  for (int64_t i = 2; i < kRun; i++) r.even &= address(i) - address(i - 1) == r.stride;
  return r;
}

template <class From>
void copy_keys(const char* const* keys, int64_t d, int64_t step, char* out) {
  for (int64_t i = 0; i < kRun; i++)
    _mm512_store_si512(out + i * kTileBytes, From::at(keys[i * kRuns] + d * From::kBytes, first_words(step)));
}

// The keys of a chunk times q: [slot][B * 16 rows].
template <class From, int B>
void score(const char* const* keys, const char* q, int64_t q_stride, int64_t dim, int64_t step, float* out) {
  constexpr int G = 4 / B;  // runs at a time
  constexpr int64_t pitch = B * kTileBytes;
  alignas(64) char copies[2][G][kTile];
  for (int64_t first = 0; first < kRuns; first += G) {
    run runs[G];
    for (int64_t g = 0; g < G; g++) {
      runs[g] = run_of(keys + first + g);
      runs[g].even &= From::kBytes == 2;
      if (!runs[g].even) copy_keys<From>(keys + first + g, 0, step, copies[0][g]);
    }
    each<4>([&](auto i) { tile_zero<i>(); });
    for (int64_t d = 0, turn = 0; d < dim; d += step, turn ^= 1) {
      each<B>([&](auto b) { tile_load<4 + b>(q + d / 2 * q_stride + b * kTileBytes, q_stride); });
      for (int64_t g = 0; g < G; g++)
        if (!runs[g].even && d + step < dim) copy_keys<From>(keys + first + g, d + step, step, copies[turn ^ 1][g]);
      each<G>([&](auto g) {
        if (runs[g].even)
          tile_load<6 + g % 2>(runs[g].at + d * 2, runs[g].stride);
        else
          tile_load<6 + g % 2>(copies[turn][g], kTileBytes);
        each<B>([&](auto b) { tile_dot_bf16<b * G + g, 6 + g % 2, 4 + b>(); });
      });
      // The same of the next chunk, once per cache line.
      if (d * From::kBytes % 64 < step * From::kBytes)
        for (int64_t i = kChunk; i < 2 * kChunk; i += kRuns)
          for (int64_t g = first; g < first + G; g++) _mm_prefetch(keys[i + g] + d * From::kBytes, _MM_HINT_T1);
    }
    char* const at = reinterpret_cast<char*>(out) + first * pitch;
    each<G>([&](auto g) {
      each<B>([&](auto b) { tile_store<b * G + g>(at + g * pitch + b * kTileBytes, kRuns * pitch); });
    });
  }
}

// [slot][B * 16 rows] to [rows, kChunk].
template <int B>
void turn_scores(const float* in, int64_t rows, float* out) {
  for (int64_t first = 0; first < rows; first += kTileRows)
    for (int64_t slot = 0; slot < kChunk; slot += 16) {
      __m512 v[16];
      each<16>([&](auto i) { v[i] = _mm512_load_ps(in + (slot + i) * B * kTileRows + first); });
      transpose(v);
      float* const at = out + first * kChunk + slot;
      each<16>([&](auto i) {
        if (first + i < rows) _mm512_store_ps(at + i * kChunk, v[i]);
      });
    }
}

constexpr int64_t kGroups = kChunk / kStep;  // of tokens in a tile of weights

// 16 P elements from d on, in pairs of tokens, as tiles [group][P]; what is not there is 0.
template <class From, int P>
void pair_values(const char* const* values, int64_t d, int64_t dim, char (*out)[kTile]) {
  __mmask32 mask[P / 2];
  each<P / 2>([&](auto v) { mask[v] = first_words(larger(0, dim - d - v * kStep)); });
  const int64_t byte = d * From::kBytes;
  for (int64_t i = 0; i < kChunk; i += 2) {
    const char *const v0 = values[i] + byte, *const next0 = values[kChunk + i] + byte;
    const char *const v1 = values[i + 1] + byte, *const next1 = values[kChunk + i + 1] + byte;
    char* const at = out[i / kStep * P] + i % kStep / 2 * kTileBytes;
    each<P / 2>([&](auto v) {
      constexpr int64_t more = v * kStep * From::kBytes;
      if ((byte + more) % 64 == 0) {
        _mm_prefetch(next0 + more, _MM_HINT_T1);
        _mm_prefetch(next1 + more, _MM_HINT_T1);
      }
      const __m512i a = From::at(v0 + more, mask[v]), b = From::at(v1 + more, mask[v]);
      _mm512_store_si512(at + 2 * v * kTile, _mm512_unpacklo_epi16(a, b));
      _mm512_store_si512(at + (2 * v + 1) * kTile, _mm512_unpackhi_epi16(a, b));
    });
  }
}

// Weights times N of the P tiles of each group, onto the sums.
template <int B, int P, int N>
void multiply_values(const char* weights, const char (*pairs)[kTile], char* sums, int64_t ld) {
  each<B>(
      [&](auto b) { each<N>([&](auto p) { tile_load<b * P + p>(sums + b * kTileRows * ld + p * kTileBytes, ld); }); });
  each<kGroups>([&](auto g) {
    each<B>([&](auto b) { tile_load<4 + b>(weights + b * kTileRows * kChunk * 4 + g * kTileBytes, kChunk * 4); });
    each<N>([&](auto p) {
      tile_load<6 + p % 2>(pairs[g * P + p], kTileBytes);
      each<B>([&](auto b) { tile_dot_bf16<b * P + p, 4 + b, 6 + p % 2>(); });
    });
  });
  each<B>(
      [&](auto b) { each<N>([&](auto p) { tile_store<b * P + p>(sums + b * kTileRows * ld + p * kTileBytes, ld); }); });
}

template <class From, int B>
void add_values(const char* const* values, const float* scores, int64_t dim, float* sums, int64_t out_row) {
  constexpr int P = 4 / B;
  alignas(64) char pairs[2][kGroups * P][kTile];
  const char* const weights = reinterpret_cast<const char*>(scores);
  pair_values<From, P>(values, 0, dim, pairs[0]);
  for (int64_t d = 0, turn = 0; d < dim; d += 16 * P, turn ^= 1) {
    if (d + 16 * P < dim) pair_values<From, P>(values, d + 16 * P, dim, pairs[turn ^ 1]);
    char* const at = reinterpret_cast<char*>(sums + d);
    if (d + 16 * P <= out_row)
      multiply_values<B, P, P>(weights, pairs[turn], at, out_row * 4);
    else
      multiply_values<B, P, 2>(weights, pairs[turn], at, out_row * 4);
  }
}

// The keys of one kv head, or its values: those of a chunk and of the next.
struct places {
  const char* at[2 * kChunk];
  places(const char* const* first, int64_t offset) {
    for (int64_t i = 0; i < kChunk; i++)
      at[i] = moved(first[i], offset), at[kChunk + i] = moved(first[2 * kChunk + i], offset);
  }
};

template <class From>
struct amx_engine : bf16_rows {
  static bool takes(const kn_decode_attention_problem&) { return true; }

  // Pairs of elements as rows, the n rows of q as columns.
  static void pack_q(const kn_decode_attention_problem& p, const char* q, char* out, int64_t i, int64_t n) {
    for (int64_t d = 0; d < p.head_dim; d += 2) memcpy(out + (d / 2 * n + i) * 4, q + d * 2, 4);
  }

  template <int B>
  static void attend_blocks(const call& c, const attending& t, const work& w) {
    const kn_decode_attention_problem& p = *c.problem;
    const int64_t n = t.rows->count, step = step_of(p.head_dim);
    alignas(64) float turned[2][kChunk * B * kTileRows];
    configure<B>(t.count, step, true);
    // One head behind, weights are made while tiles are multiplied.
    for (int64_t h = 0; h <= t.heads; h++) {
      if (h < t.heads)
        score<From, B>(places(t.keys[h].at, k_offset(c, t.head0 + h)).at, w.q + h * n * c.q_row + t.first * 4, n * 4,
                       p.head_dim, step, turned[h % 2]);
      if (h == 0) continue;
      turn_scores<B>(turned[(h - 1) % 2], t.count, w.scores + ((h - 1) * n + t.first) * kChunk);
      soften<amx_engine>(c, t, h - 1, w);
    }
    configure<B>(t.count, step, false);
    for (int64_t h = 0; h < t.heads; h++) {
      const int64_t at = h * n + t.first;
      add_values<From, B>(places(t.keys[h].at + kChunk, v_offset(c, t.head0 + h)).at, w.scores + at * kChunk,
                          p.v_head_dim, w.sums + at * c.out_row, c.out_row);
    }
    tile_release();
  }

  static void attend(const call& c, const attending& t, const work& w) {
    t.count > kTileRows ? attend_blocks<2>(c, t, w) : attend_blocks<1>(c, t, w);
  }
};

}  // namespace
}  // namespace kn::decode_attention
