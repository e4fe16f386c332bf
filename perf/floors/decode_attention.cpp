// How fast the pages of a cache can be read on this machine, in their random order, with nothing else done and with the
// products alone (bf16, four query rows to a kv head): what decode attention has to be measured by.
//   g++ -O3 -std=c++20 -march=native -pthread perf/floors/decode_attention.cpp -o build/floors && build/floors 4096 1
// Arguments: tokens of a sequence, threads, bytes of a token's keys or values (2048: 8 heads of 128 in bf16). Chunks of
// 64 tokens are read, keys and then values. 1 GiB of sequences is walked in turns, so each is cold. Medians; GB/s, and
// the part of the fastest reading of the same bytes from end to end.
#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

constexpr int64_t kChunk = 64, kTotal = int64_t{1} << 30;

struct run {
  const char* at;
  bool values;
};

struct walk {
  std::vector<run> runs;  // in the order of reading
  int64_t bytes;          // of each
};

// Four products for a line of keys; for two lines of values their interleaving and eight products.
template <bool Values>
inline void products(__m512i a, __m512i b, __m512bh q, __m512 (&sums)[8]) {
  const __m512i low = Values ? _mm512_unpacklo_epi16(a, b) : a, high = Values ? _mm512_unpackhi_epi16(a, b) : b;
  for (int r = 0; r < 4; r++) {
    sums[r] = _mm512_dpbf16_ps(sums[r], reinterpret_cast<__m512bh>(low), q);
    sums[4 + r] = _mm512_dpbf16_ps(sums[4 + r], reinterpret_cast<__m512bh>(high), q);
  }
}

template <bool Products, bool Values>
void lines(const char* from, const char* to, const char* ahead, __m512i (&seen)[2], __m512 (&sums)[8], __m512bh q) {
  for (; from < to; from += 128) {
    if (ahead != nullptr) {
      _mm_prefetch(ahead, _MM_HINT_NTA);
      _mm_prefetch(ahead + 64, _MM_HINT_NTA);
      ahead += 128;
    }
    const __m512i a = _mm512_load_si512(from), b = _mm512_load_si512(from + 64);
    if constexpr (Products) {
      products<Values>(a, b, q, sums);
    } else {
      seen[0] = _mm512_xor_si512(seen[0], a);
      seen[1] = _mm512_xor_si512(seen[1], b);
    }
  }
}

// Reads the runs, and asks for what lies `ahead` bytes further in their order.
template <bool Products>
float read(const walk& w, size_t first, size_t last, int64_t ahead) {
  __m512i seen[2] = {};
  __m512 sums[8] = {};
  const __m512bh q = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f80));
  for (size_t i = first; i < last; i++) {
    const char *at = w.runs[i].at, *next = i + 1 < last ? w.runs[i + 1].at : at, *middle = at + (w.bytes - ahead);
    const auto part = [&](const char* from, const char* to, const char* asked) {
      w.runs[i].values ? lines<Products, true>(from, to, asked, seen, sums, q)
                       : lines<Products, false>(from, to, asked, seen, sums, q);
    };
    part(at, middle, ahead > 0 ? at + ahead : nullptr);
    part(middle, at + w.bytes, next);
  }
  __m512 all = _mm512_castsi512_ps(_mm512_xor_si512(seen[0], seen[1]));
  for (const __m512& s : sums) all = _mm512_add_ps(all, s);
  return _mm512_reduce_add_ps(all);
}

// Seconds of one sequence after another, each by all threads.
template <bool Products>
double timed(const std::vector<walk>& sequences, int threads, int64_t ahead) {
  std::atomic<int> waiting{threads};
  std::atomic<int> kept{0};
  std::chrono::steady_clock::time_point start;
  const auto work = [&](int t) {
    if (waiting.fetch_sub(1) == 1) start = std::chrono::steady_clock::now();
    while (waiting.load() > 0) _mm_pause();
    float all = 0;
    for (const walk& w : sequences)
      all += read<Products>(w, w.runs.size() * t / threads, w.runs.size() * (t + 1) / threads, ahead);
    kept += all == 1;
  };
  std::vector<std::thread> others;
  for (int t = 1; t < threads; t++) others.emplace_back(work, t);
  work(0);
  for (std::thread& t : others) t.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int main(int count, char** args) {
  const int64_t tokens = count > 1 ? atoll(args[1]) : 4096;
  const int threads = count > 2 ? atoi(args[2]) : 1;
  const int64_t token = count > 3 ? atoll(args[3]) : 2048;
  const int64_t bytes = tokens * token, copies = std::max<int64_t>(1, kTotal / (2 * bytes)), total = 2 * copies * bytes;
  if (tokens < 256 || tokens % 256 != 0 || threads < 1 || token < 1024 || token % 128 != 0)
    return fprintf(stderr, "requires tokens %% 256 == 0, bytes of a token %% 128 == 0 and 1024 at least\n"), 2;
  char* memory =
      static_cast<char*>(mmap(nullptr, total + (2 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) return perror("mmap"), 1;
  memory += -reinterpret_cast<intptr_t>(memory) & ((2 << 20) - 1);
  madvise(memory, total, MADV_HUGEPAGE);
  std::fill(memory, memory + total, 0);  // zeros: sums stay finite
  const char *keys = memory, *values = memory + total / 2;

  // Pages of all sequences, shuffled together as a server's are after a while; 0: each sequence from end to end.
  std::mt19937 random(1);
  const auto paged = [&](int64_t page) {
    const int64_t size = page == 0 ? kChunk : page, pages = copies * tokens / size;
    std::vector<int64_t> order(pages);
    std::iota(order.begin(), order.end(), 0);
    if (page > 0) std::shuffle(order.begin(), order.end(), random);
    std::vector<walk> all(copies);
    for (int64_t s = 0, next = 0; s < copies; s++) {
      const int64_t run_tokens = std::min(size, kChunk);
      all[s].bytes = run_tokens * token;
      for (int64_t chunk = 0; chunk < tokens; chunk += std::max(size, kChunk)) {
        const int64_t span = std::max(size, kChunk), first = next;
        for (int64_t part = 0; part < span; part += kChunk)
          for (const bool v : {false, true})
            for (int64_t t = part; t < part + kChunk; t += run_tokens)
              all[s].runs.push_back({(v ? values : keys) + (order[first + t / size] * size + t % size) * token, v});
        next += span / size;
      }
    }
    return all;
  };
  std::vector<walk> linear(copies);  // all keys, then all values
  for (int64_t s = 0; s < copies; s++) {
    linear[s].bytes = kChunk * token;
    for (const char* base : {keys, values})
      for (int64_t at = 0; at < bytes; at += linear[s].bytes)
        linear[s].runs.push_back({base + s * bytes + at, base == values});
  }

  struct entry {
    std::string name;
    const std::vector<walk>* sequences;
    int64_t ahead;
    bool products;
    std::vector<double> seconds;
  };
  const std::vector<walk> ordered = paged(0), p16 = paged(16), p64 = paged(64), p256 = paged(256);
  std::vector<entry> entries;
  for (const int64_t ahead : {0, 2048, 4096, 8192}) entries.push_back({"end to end", &linear, ahead, false, {}});
  for (const auto& [name, w] :
       {std::pair{"no pages", &ordered}, {"pages of 16", &p16}, {"pages of 64", &p64}, {"pages of 256", &p256}})
    for (const bool products : {false, true})
      for (const int64_t ahead : {0, 2048, 4096, 8192}) entries.push_back({name, w, ahead, products, {}});
  for (int round = 0; round < 15; round++)
    for (entry& e : entries)
      e.seconds.push_back(e.products ? timed<true>(*e.sequences, threads, e.ahead)
                                     : timed<false>(*e.sequences, threads, e.ahead));
  double limit = 0;
  for (entry& e : entries) {
    std::nth_element(e.seconds.begin(), e.seconds.begin() + e.seconds.size() / 2, e.seconds.end());
    const double rate = total / e.seconds[e.seconds.size() / 2] * 1e-9;
    if (e.sequences == &linear) limit = std::max(limit, rate);
    printf("%-12s %-8s %5d bytes ahead  %6.2f GB/s  %5.1f %%\n", e.name.c_str(), e.products ? "products" : "read",
           static_cast<int>(e.ahead), rate, 100 * rate / limit);
  }
}
