// What both attention kernels share: the arguments, the walk over a session's keys, the query's rotation.
#pragma once

#include "ptx.cuh"

namespace dsa::cuda {

constexpr int kMaxHeadDim = 128;

template <typename T>
struct AttentionArguments {
  const T *query, *key, *value;               // [B, T, H, D]
  const T *key_pool, *value_pool;             // [S, T, H, D]
  const std::int32_t *slot_table, *slot_age;  // [B, W]
  T* output;                                  // [B, T, H, D]
  int tokens, window, slots;                  // T, W, S
  int row_stride;                             // H * D: from one token to the next, in elements
  std::int64_t frame_stride;                  // T * H * D, less than 2^31: offsets within a frame are ints
  float scale_log2;                           // scale * log2(e), > 0: exp(scale * x) = exp2(scale_log2 * x)
  int rotated_pairs;                          // temporal_dims / 2
  // Turns by which one frame of age rotates pair i, theta^(-2i / temporal_dims) / 2 pi, modulo 1 and times 2^64. In
  // wrapping integers age * turns[i] is then the angle modulo one turn: no digits are lost, however large the age.
  std::uint64_t turns[kMaxHeadDim / 2];
};

__device__ inline float ToFloat(float x) { return x; }
__device__ inline float ToFloat(__half x) { return __half2float(x); }
__device__ inline float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ T FromFloat(float x);
template <>
__device__ inline float FromFloat<float>(float x) { return x; }
template <>
__device__ inline __half FromFloat<__half>(float x) { return __float2half_rn(x); }
template <>
__device__ inline __nv_bfloat16 FromFloat<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// The key tiles that one head of one session attends to: those of its own frame, then those of each filled slot. A
// tile never spans two frames.
template <typename T>
struct KeyTiles {
  std::int64_t offset;  // of the tile's first row in its tensor, this head
  int entry = -1;       // of the session's table; -1 is its own frame
  int row = 0;          // of the frame, the tile's first

  __device__ const T* Key(const AttentionArguments<T>& a) const { return (entry < 0 ? a.key : a.key_pool) + offset; }
  __device__ const T* Value(const AttentionArguments<T>& a) const {
    return (entry < 0 ? a.value : a.value_pool) + offset;
  }

  // Steps on by `rows`. False behind the last tile.
  __device__ bool Next(const AttentionArguments<T>& a, int rows, const std::int32_t* table, std::int64_t head_offset) {
    row += rows, offset += rows * a.row_stride;
    if (row < a.tokens) return true;
    row = 0;
    while (++entry < a.window) {
      const int slot = table[entry];
      if (slot < 0) continue;
      offset = slot * a.frame_stride + head_offset;
      return true;
    }
    return false;
  }
};

// Whether an entry of the session's table is neither -1 nor a slot, or a slot's age is negative. Called by all threads
// of the block.
template <typename T>
__device__ bool TableIsBroken(const AttentionArguments<T>& a, const std::int32_t* table, const std::int32_t* ages) {
  bool broken = false;
  for (int w = threadIdx.x; w < a.window; w += blockDim.x) {
    broken |= table[w] < -1 || table[w] >= a.slots || (table[w] >= 0 && ages[w] < 0);
  }
  return __syncthreads_or(broken);
}

// Cosine and sine of each pair's angle at `age`. The caller's `threads` threads share the work.
template <typename T>
__device__ void FillRotation(float2* rotation, const AttentionArguments<T>& a, int age, int thread, int threads) {
  for (int i = thread; i < a.rotated_pairs; i += threads) {
    const std::uint64_t phase = a.turns[i] * static_cast<std::uint64_t>(static_cast<std::int64_t>(age));
    const float half_turns = static_cast<float>(static_cast<std::int32_t>(phase >> 32)) * 0x1p-31f;  // -1 to 1
    float sine, cosine;
    sincospif(half_turns, &sine, &cosine);
    rotation[i] = make_float2(cosine, sine);
  }
}

// Rotates `rows` rows of the query on their way from global memory, where `source` is the first, to store(row, column,
// x). The caller's `threads` threads share the work.
template <typename T, typename Store>
__device__ void RotateRows(const T* source, int row_stride, int rows, const float2* rotation, int pairs,
                           int thread, int threads, Store store) {
  for (int index = thread; index < rows * pairs; index += threads) {
    const int row = index / pairs, pair = index - row * pairs;
    const T* x = source + row * row_stride + pair;
    const float first = ToFloat(x[0]), second = ToFloat(x[pairs]);
    const float cosine = rotation[pair].x, sine = rotation[pair].y;
    store(row, pair, FromFloat<T>(first * cosine - second * sine));
    store(row, pair + pairs, FromFloat<T>(first * sine + second * cosine));
  }
}

}  // namespace dsa::cuda
