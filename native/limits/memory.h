// Bandwidth loops over one vector type, instantiated by each memory_<isa>.cpp.
// V: type, and load, store, stream, mix, ahead (prefetch), fence.
#pragma once
#include "fold.h"
#include "limits.h"

namespace {

constexpr int64_t kAhead = 2048;  // bytes of prefetch distance within a stream

// Eight vectors in flight a turn, split over the streams, and never fewer than a cache line of each stream.
template <typename V, int Streams, bool Prefetch>
uint64_t read(char* base, int64_t bytes, int64_t reps) {
  constexpr int64_t width = sizeof(typename V::type);
  constexpr int kLine = width < 64 ? 64 / width : 1;
  constexpr int kVectors = 8 / Streams > kLine ? 8 / Streams : kLine;  // of one stream a turn
  typename V::type sum[8] = {};
  const int64_t span = bytes / Streams;
  for (int64_t r = 0; r < reps; r++) {
    for (int64_t at = 0; at < span; at += kVectors * width) {
      KN_UNROLL
      for (int s = 0; s < Streams; s++) {
        const char* p = base + s * span + at;
        if (Prefetch) {
          for (int64_t line = 0; line < kVectors * width; line += 64) V::ahead(p + kAhead + line);
        }
        KN_UNROLL
        for (int v = 0; v < kVectors; v++) {
          auto& lane = sum[(s * kVectors + v) % 8];
          lane = V::mix(lane, V::load(p + v * width));
        }
      }
    }
    forget();
  }
  uint64_t all = 0;
  for (const auto& lane : sum) all ^= fold(lane);
  return all;
}

template <typename V, bool Nontemporal>
uint64_t write(char* base, int64_t bytes, int64_t reps) {
  constexpr int64_t width = sizeof(typename V::type);
  const auto value = V::load(base);
  for (int64_t r = 0; r < reps; r++) {
    for (int64_t at = 0; at < bytes; at += 8 * width) {
      for (int v = 0; v < 8; v++) {
        if constexpr (Nontemporal) {
          V::stream(base + at + v * width, value);
        } else {
          V::store(base + at + v * width, value);
        }
      }
    }
    forget();
  }
  V::fence();
  return fold(value);
}

template <typename V, bool Nontemporal>
uint64_t copy(char* base, int64_t bytes, int64_t reps) {
  constexpr int64_t width = sizeof(typename V::type);
  char* const to = base + bytes / 2;
  for (int64_t r = 0; r < reps; r++) {
    for (int64_t at = 0; at < bytes / 2; at += 8 * width) {
      typename V::type held[8];
      for (int v = 0; v < 8; v++) held[v] = V::load(base + at + v * width);
      for (int v = 0; v < 8; v++) {
        if constexpr (Nontemporal) {
          V::stream(to + at + v * width, held[v]);
        } else {
          V::store(to + at + v * width, held[v]);
        }
      }
    }
    forget();
  }
  V::fence();
  return fold(V::load(to));
}

template <typename V>
constexpr kn_memory sweeps_of() {
  return {{{read<V, 1, false>, read<V, 1, true>},
           {read<V, 2, false>, read<V, 2, true>},
           {read<V, 4, false>, read<V, 4, true>},
           {read<V, 8, false>, read<V, 8, true>}},
          {write<V, false>, write<V, true>},
          {copy<V, false>, copy<V, true>}};
}

}  // namespace
