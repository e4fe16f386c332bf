// decode_attention/sm90: wgmma with the keys on its side of 64, so that the packed query heads, padded to 8 only, are
// the other one: S^T = K Q^T, O^T = V^T P^T. One warp brings tiles of 64 keys by tensor copies (TMA) through a ring
// that K and V share; a warpgroup multiplies. Two blocks share a multiprocessor, or one where heads are long: the
// products and copies of one hide the softmax of the other.
//
// V is read as it lies, [key, dimension], which is its transpose to wgmma. P goes through shared memory, since wgmma
// takes its right operand from there, as two numbers of 16 bits: see decode_attention_sm80.cu for why. A thread has the
// same queries in S^T and in O^T, and so a reference and a factor for each of them.
//
// Tiles begin at multiples of 64 keys of a sequence, where pages do too: a copy is a tile's part of a page. What no map
// can describe, and the end of a sequence that is not in pages, is copied by lanes into the same swizzle.
//
// Bits: a row's result depends on its sequence and split_len.
#include <sm90.cuh>

#include "decode_attention_sm90_hidden.cuh"

namespace kn::decode_attention {
namespace {

static_assert(sizeof(kn_decode_attention_cache) == 192 && sizeof(kn_decode_attention_sm90) == 768);
static_assert(sizeof(tensor_map) == sizeof(kn_decode_attention_cache::map));

// Element: of q, k and v; Head: at least as long as their heads; Rows: queries of a block.
template <class Element, int Head, int Rows>
struct attention {
  using element = Element;
  static constexpr int kRows = Rows, kParts = Head / kTileK, kSlotBytes = kParts * kPartBytes;
  static constexpr int kQPartBytes = Rows * kTileBytes, kQBytes = kParts * kQPartBytes, kPBytes = Rows * kTileBytes;
  // A multiprocessor has 228 KB; each block's share holds 1 KB of the system's and some of static memory too.
  static constexpr int kBlocks = Head <= 128 ? 2 : 1, kDynamicBytes = (kBlocks == 2 ? 110 : 224) << 10;
  static constexpr int kSlots = (kDynamicBytes - 1024 - kQBytes - 2 * kPBytes) / kSlotBytes;
  static_assert(kSlots >= 3);  // K of the next tile comes while this one is at work
  using position = ring_position<kSlots>;
  using shared = exchange<1, Rows, Head>;
  static_assert(sizeof(shared) <= kSlots * kSlotBytes);

  struct job {
    const kn_decode_attention_sm90* map;  // the parameter where it is
    const problem& a;
    const work& w;
    int64_t first;  // key of the first tile
    char *slots, *q, *p;
    mbarrier *full, *empty;
    row* rows;
    float* references;     // [Rows]
    float (*lanes)[Rows];  // [kWarps]: what the warps tell one another of each row
  };

  static __device__ __forceinline__ int64_t piece(int row, int part, int bytes_of_part, int byte) {
    return part * bytes_of_part + row * kTileBytes + (byte ^ row % 8 << 4);
  }

  // Rows of a tile as copy_tensor would write them, 16 bytes a lane.
  static __device__ __forceinline__ void copy_rows(const job& j, const kn_decode_attention_cache& c, int64_t tile,
                                                   char* to) {
    constexpr int kChunks = Head / 8;
    const uint64_t odd = reinterpret_cast<uint64_t>(c.base) | static_cast<uint64_t>((c.page | c.token | c.head) * 2);
#pragma unroll 1
    for (int first = 0; first < kKeys; first += 32) {
      const int64_t key = tile + first + lane_id();
      int64_t from = -1;
      if (key >= j.w.begin && key < j.w.end) {
        const place p = place_of(j.a, j.w.s, static_cast<int32_t>(key));
        from = (p.page * c.page + p.token * c.token + j.w.kv_head * c.head) * 2;
      }
#pragma unroll 1
      for (int i = lane_id(); i < 32 * kChunks; i += 32) {
        const int r = i / kChunks, byte = i % kChunks * 16;
        const int64_t at = shuffle(from, r);
        copy16(to + piece(first + r, byte / kTileBytes, kPartBytes, byte % kTileBytes),
               static_cast<const char*>(c.base) + (at < 0 ? 0 : at) + byte, at < 0 ? 0 : c.dims * 2 - byte,
               odd % 16 == 0);
      }
    }
    cp_async_commit();
    cp_async_wait<0>();
    fence_proxy_async();
    __syncwarp();
  }

  // A copy a lane: 64 dimensions of a tile's part of a page. `p`: of lane i, where part i lies.
  static __device__ __forceinline__ void copy_pages(const job& j, const kn_decode_attention_cache& c, const place& p,
                                                    char* to, mbarrier& full) {
    const int pages = kKeys / j.map->box, page = lane_id() % pages, part = lane_id() / pages;
    const int z = shuffle(static_cast<int>(p.page * c.page_step + j.w.kv_head * c.head_step), page);
    const int token = shuffle(static_cast<int>(p.token), page);
    if (part >= kParts) return;
    const tensor_map* const map = reinterpret_cast<const tensor_map*>(c.map);
    char* const tokens = to + part * kPartBytes + page * j.map->box * kTileBytes;
    if (c.mapped == KN_CACHE_TOKENS_SECOND)
      copy_tensor(tokens, map, part * kTileK, token, z, full);
    else
      copy_tensor(tokens, map, part * kTileK, z, token, full);
  }

  static __device__ __forceinline__ void load(const job& j, const kn_decode_attention_cache& c, int64_t tile,
                                              const place& p, position& at) {
    char* const to = j.slots + at.stage * kSlotBytes;
    // A page's memory is there to its end; a sequence without pages may have none after its last key.
    const bool mapped = c.mapped != 0 && (j.a.page_size != 0 || tile + kKeys <= j.w.s.length);
    j.empty[at.stage].wait(at.parity ^ 1);
    if (!mapped) copy_rows(j, c, tile, to);
    if (lane_id() == 0) j.full[at.stage].arrive_expect(mapped ? kSlotBytes : 0);
    __syncwarp();
    if (mapped) copy_pages(j, c, p, to, j.full[at.stage]);
    __syncwarp();  // or some lanes would wait for the next slot before others have asked for this one
    at.next();
  }

  static __device__ __forceinline__ void produce(const job& j) {
    const problem& a = j.a;
    const int box = j.map->box;
    position at;
    for (int64_t tile = j.first; tile < j.w.end; tile += kKeys) {
      const int64_t key = tile + lane_id() * box;
      // A page of which no key is wanted may not exist; a token beyond a page is zeros.
      place p{0, a.page_size};
      if (lane_id() * box < kKeys && key + box > j.w.begin && key < j.w.end)
        p = place_of(a, j.w.s, static_cast<int32_t>(key));
      load(j, j.map->k, tile, p, at);
      load(j, j.map->v, tile, p, at);
    }
  }

  struct state {
    float m[Rows / 4], l[Rows / 4];  // of the queries 8j + 2t + e at [2j + e]; l: of this thread's keys
    float o[kParts][Rows / 2];
  };

  // Rows and their references. Their elements become the tile of q, whose 2-norms are known on the way.
  static __device__ __forceinline__ void load_rows(const job& j) {
    const problem& a = j.a;
    for (int r = wave_id(); r < Rows; r += kWarps) {
      const row x = row_of(a, j.w.s, j.w.kv_head, j.w.row0 + r);
      const uint16_t* const q =
          static_cast<const uint16_t*>(a.q) + (int64_t{j.w.s.first_token} + x.token) * a.q_token + x.head * a.q_head;
      float squares = 0.0f;
      for (int d = lane_id() * 2; d < Head; d += kTileK) {
        const uint32_t pair = d < a.head_dim ? q[d] | static_cast<uint32_t>(q[d + 1]) << 16 : 0;
        *reinterpret_cast<uint32_t*>(j.q + piece(r, d / kTileK, kQPartBytes, d % kTileK * 2)) = pair;
        const float low = widen(Element{}, pair), high = widen(Element{}, pair >> 16);
        squares = __builtin_fmaf(low, low, __builtin_fmaf(high, high, squares));
      }
      squares = sum_lanes(squares);
      if (lane_id() == 0) j.rows[r] = x, j.references[r] = squares;
    }
    fence_proxy_async();
    sync_first<kConsumers>();
    if (wave_id() * 32 < Rows) {
      const int r = static_cast<int>(threadIdx.x) % Rows;
      float m = -kInfinity;
      if (a.softmax == KN_SOFTMAX_UNIFIED) m = a.phi[j.rows[r].head];
      if (a.softmax == KN_SOFTMAX_BOUNDED)
        m = bounded_reference(a, j.w.s, j.w.kv_head, __builtin_sqrtf(j.references[r]));
      __syncwarp();  // Rows may be less than 32
      if (threadIdx.x < Rows) j.references[r] = m;
    }
    sync_first<kConsumers>();
  }

  static __device__ __forceinline__ int query(int c) { return c / 2 * 8 + lane_id() % 4 * 2 + c % 2; }

  static __device__ __forceinline__ void start(const job& j, state& x) {
#pragma unroll
    for (int c = 0; c < Rows / 4; c++) x.m[c] = j.references[query(c)], x.l[c] = 0.0f;
#pragma unroll
    for (int b = 0; b < kParts; b++)
#pragma unroll
      for (int i = 0; i < Rows / 2; i++) x.o[b][i] = 0.0f;
  }

  static __device__ __forceinline__ void multiply_keys(const job& j, const char* k, float (&s)[Rows / 2]) {
    const uint64_t keys = tile_descriptor(k), queries = tile_descriptor(j.q);
#pragma unroll
    for (int i = 0; i < Rows / 2; i++) s[i] = 0.0f;
    wgmma_fence();
#pragma unroll
    for (int b = 0; b < kParts; b++)
#pragma unroll
      for (int i = 0; i < kTileK / 16; i++) {
        const uint64_t step = static_cast<uint64_t>(i * kDescriptorK);
        wgmma(Element{}, s, keys + tiles_apart(b * kPartBytes) + step, queries + tiles_apart(b * kQPartBytes) + step);
      }
    wgmma_commit();
    wgmma_wait<0>();
  }

  static __device__ __forceinline__ void mask(const job& j, int64_t tile, float (&s)[Rows / 2]) {
    const int64_t key = tile + wave_id() * 16 + lane_id() / 4;
#pragma unroll
    for (int c = 0; c < Rows / 4; c++) {
      const row r = j.rows[query(c)];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float& x = s[c / 2 * 4 + h * 2 + c % 2];
        const int64_t at = key + h * 8;
        x = at >= j.w.begin && at < j.w.end ? logit(j.a, j.w.s, r, x, static_cast<int32_t>(at)) : -kInfinity;
      }
    }
  }

  // The references, renewed where these scores pass them: all threads of a query find the same one.
  static __device__ __forceinline__ void renew(const job& j, const float (&s)[Rows / 2], state& x) {
#pragma unroll
    for (int c = 0; c < Rows / 4; c++) {
      float most = __builtin_fmaxf(s[c / 2 * 4 + c % 2], s[c / 2 * 4 + 2 + c % 2]);
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2) most = __builtin_fmaxf(most, shuffle_xor(most, lanes));
      if (lane_id() < 4) j.lanes[wave_id()][query(c)] = most;
    }
    sync_first<kConsumers>();
    float factor[Rows / 4];
    bool grows = false;
#pragma unroll
    for (int c = 0; c < Rows / 4; c++) {
      float most = j.lanes[0][query(c)];
#pragma unroll
      for (int w = 1; w < kWarps; w++) most = __builtin_fmaxf(most, j.lanes[w][query(c)]);
      factor[c] = 1.0f;
      if (most > x.m[c] + threshold(j.a)) {
        factor[c] = weight(x.m[c], most);
        x.m[c] = most;
        grows = true;
      }
      x.l[c] *= factor[c];
    }
    if (!any_lane(grows)) return;
#pragma unroll
    for (int b = 0; b < kParts; b++)
#pragma unroll
      for (int i = 0; i < Rows / 2; i++) x.o[b][i] *= factor[i / 4 * 2 + i % 2];
  }

  // P^T as wgmma reads it: a row of 64 keys for each query, of the upper and of the lower parts.
  static __device__ __forceinline__ void store_weights(const job& j, const float (&s)[Rows / 2], state& x) {
    const int matrix = lane_id() / 8, r = lane_id() % 8;  // that this lane stores a row of
    char* const to = j.p + matrix / 2 * kPBytes + r * kTileBytes + ((wave_id() * 2 + matrix % 2) ^ r) * 16;
#pragma unroll
    for (int i = 0; i < Rows / 8; i++) {
      uint32_t parts[4];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float p[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
          p[e] = weight(s[i * 4 + h * 2 + e], x.m[i * 2 + e]);
          x.l[i * 2 + e] += p[e];
        }
        parts[h] = pack(Element{}, p[0], p[1]);
        parts[2 + h] = pack(Element{}, p[0] - widen(Element{}, parts[h]), p[1] - widen(Element{}, parts[h] >> 16));
      }
      stmatrix_x4_trans(to + i * 8 * kTileBytes, parts);
    }
    fence_proxy_async();
    sync_first<kConsumers>();
  }

  // Values of keys that are not of this split may be anything, and 0 times anything is not 0.
  static __device__ __forceinline__ void clear_others(const job& j, int64_t tile, char* v) {
    if (tile >= j.w.begin && tile + kKeys <= j.w.end) return;
    const int r = static_cast<int>(threadIdx.x) / 2, half = static_cast<int>(threadIdx.x) % 2;
    if (tile + r < j.w.begin || tile + r >= j.w.end)
      for (int i = 0; i < kParts * 4; i++)
        *reinterpret_cast<words*>(v + i / 4 * kPartBytes + r * kTileBytes + half * 64 + i % 4 * 16) = {};
    fence_proxy_async();
    sync_first<kConsumers>();
  }

  static __device__ __forceinline__ void multiply_values(const job& j, const char* v, state& x) {
    const uint64_t values = tile_descriptor(v), weights = tile_descriptor(j.p);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kKeys / 16; i++)
#pragma unroll
      for (int b = 0; b < kParts; b++)
#pragma unroll
        for (int half = 0; half < 2; half++)
          wgmma<true>(Element{}, x.o[b], values + tiles_apart(b * kPartBytes + i * 16 * kTileBytes),
                      weights + tiles_apart(half * kPBytes) + static_cast<uint64_t>(i * kDescriptorK));
    wgmma_commit();
    wgmma_wait<0>();  // products that ran on into the next tile would be serialised by ptxas
  }

  static __device__ __forceinline__ void release(const job& j, int slot) {
    if (lane_id() == 0) j.empty[slot].arrive();
  }

  static __device__ __forceinline__ void consume(const job& j, state& x) {
    position at;
#pragma unroll 1
    for (int64_t tile = j.first; tile < j.w.end; tile += kKeys) {
      float s[Rows / 2];
      j.full[at.stage].wait(at.parity);
      multiply_keys(j, j.slots + at.stage * kSlotBytes, s);
      release(j, at.stage);
      at.next();
      mask(j, tile, s);
      if (fixed_reference(j.a))
        sync_first<kConsumers>();  // all have done with P of the tile before
      else
        renew(j, s, x);
      store_weights(j, s, x);
      j.full[at.stage].wait(at.parity);
      clear_others(j, tile, j.slots + at.stage * kSlotBytes);
      if (masks(j.a, j.w.s, tile, kKeys)) take_out<attention>(j, tile, j.slots + at.stage * kSlotBytes, x);
      multiply_values(j, j.slots + at.stage * kSlotBytes, x);
      release(j, at.stage);
      at.next();
    }
  }

  // The sums take the place of the slots, from where one loop writes them, whatever register they were in.
  static __device__ __forceinline__ void write(const job& j, const state& x) {
    shared& to = *reinterpret_cast<shared*>(j.slots);
    const int r = wave_id() * 16 + lane_id() / 4;
#pragma unroll
    for (int c = 0; c < Rows / 4; c++) {
      float l = x.l[c];
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2) l += shuffle_xor(l, lanes);
      if (lane_id() < 4) j.lanes[wave_id()][query(c)] = l;
    }
    sync_first<kConsumers>();  // the last products are over in all warps
#pragma unroll
    for (int c = 0; c < Rows / 4; c++) {
#pragma unroll
      for (int b = 0; b < kParts; b++)
#pragma unroll
        for (int h = 0; h < 2; h++) to.o[0][query(c)][b * kTileK + r + h * 8] = x.o[b][c / 2 * 4 + h * 2 + c % 2];
      if (threadIdx.x < 4) to.m[0][query(c)] = x.m[c];
    }
    const int q = static_cast<int>(threadIdx.x);
    if (q < Rows) to.l[0][q] = j.lanes[0][q] + j.lanes[1][q] + j.lanes[2][q] + j.lanes[3][q];
    sync_first<kConsumers>();
    to.write(j.a, j.w.s, j.w.kv_head, j.w.row0, j.w.split, j.w.direct, kConsumers);
  }

  static __device__ __forceinline__ void run(const kn_decode_attention_sm90& args,
                                             const kn_decode_attention_sm90* where) {
    KN_DYNAMIC_SHARED(char, memory);
    __shared__ mbarrier full[kSlots], empty[kSlots];
    __shared__ row rows[Rows];
    __shared__ float references[Rows], lanes[kWarps][Rows];
    const work w = work_of<Rows>(args.call);
    if (w.empty) return;  // all of the block
#if defined(KN_SIMT)
    char* const slots = memory;
#else
    char* const slots = memory + (-shared_address(memory) & 1023u);
#endif
    char* const q = slots + kSlots * kSlotBytes;
    const int64_t first = w.begin < w.end ? w.begin / kKeys * kKeys : w.end;
    const job j{where, args.call, w, first, slots, q, q + kQBytes, full, empty, rows, references, lanes};
    if (threadIdx.x == 0) {
      for (int s = 0; s < kSlots; s++) {
        full[s].init(1);
        empty[s].init(kWarps);
      }
      fence_mbarrier_init();
    }
    __syncthreads();
    if (wave_id() == kWarps) {
      produce(j);
      return;
    }
    state x;
    load_rows(j);
    start(j, x);
    consume(j, x);
    write(j, x);
  }
};

}  // namespace
}  // namespace kn::decode_attention

#define KN_ATTENTION(type, D, R)                                                                          \
  KN_KERNEL(decode_attention_sm90_##type##_d##D##_r##R, kn::decode_attention::kThreads, D <= 128 ? 2 : 1, \
            kn_decode_attention_sm90) {                                                                   \
    kn::decode_attention::attention<kn::type, D, R>::run(                                                 \
        args, KN_PARAMETER(decode_attention_sm90_##type##_d##D##_r##R, args));                            \
  }
#define KN_ATTENTION_ROWS(type, D) \
  KN_ATTENTION(type, D, 8)         \
  KN_ATTENTION(type, D, 16)        \
  KN_ATTENTION(type, D, 32)
#define KN_ATTENTION_HEADS(type) \
  KN_ATTENTION_ROWS(type, 64)    \
  KN_ATTENTION_ROWS(type, 128)   \
  KN_ATTENTION_ROWS(type, 256)
KN_ATTENTION_HEADS(bf16)
KN_ATTENTION_HEADS(f16)
