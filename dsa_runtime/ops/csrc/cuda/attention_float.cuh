// PagedFrameAttention in float32, without tensor cores, which would round to 10 bits of fraction.
//
// 16 x 16 threads work on 64 queries of one head of one session. Thread (x, y) has the scores of 4 rows and every 16th
// key, and the output of the same rows in every 16th column, so what a row needs is spread over 16 lanes of one warp.
#pragma once

#include "session.cuh"

namespace dsa::cuda {

constexpr int kFloatThreads = 256;
constexpr int kFloatQueries = 64;
constexpr int kFloatKeys = 32;

template <int kHeadDim>
struct FloatLayout {
  static constexpr int kRow = kHeadDim + 4;  // padded: 8 consecutive rows read 16 bytes each from different banks
  static constexpr int kWeightRow = kFloatKeys + 4;
  // Offsets in shared memory, in numbers.
  static constexpr int kKey = kFloatQueries * kRow;
  static constexpr int kValue = kKey + kFloatKeys * kRow;
  static constexpr int kWeights = kValue + kFloatKeys * kRow;
  static constexpr int kRotation = kWeights + kFloatQueries * kWeightRow;
  static constexpr int kBytes = 4 * (kRotation + kHeadDim);
};

// Starts copying `valid` rows of a tile of kRows; the others become zeros.
template <int kHeadDim, int kRows>
__device__ void CopyFloatTile(float* target, const float* source, int row_stride, int valid) {
  constexpr int kChunks = kHeadDim / 4;
  for (int i = threadIdx.x; i < kRows * kChunks; i += kFloatThreads) {
    const int row = i / kChunks, column = i % kChunks * 4;
    CopyAsync(SharedAddress(target + row * FloatLayout<kHeadDim>::kRow + column), source + row * row_stride + column,
              row < valid);
  }
}

template <int kHeadDim>
__global__ void __launch_bounds__(kFloatThreads, 2)
    FloatAttention(const __grid_constant__ AttentionArguments<float> a) {
  using Layout = FloatLayout<kHeadDim>;
  constexpr int kRowsEach = kFloatQueries / 16, kKeysEach = kFloatKeys / 16, kColumnsEach = kHeadDim / 16;

  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  const int head = blockIdx.y, session = blockIdx.z;
  const std::int32_t* table = a.slot_table + static_cast<std::int64_t>(session) * a.window;
  const std::int64_t head_offset = static_cast<std::int64_t>(head) * kHeadDim;
  const std::int64_t session_offset = session * a.frame_stride + head_offset;
  const int block_row = blockIdx.x * kFloatQueries;
  const int rows = min(a.tokens - block_row, kFloatQueries);
  const float* block_query = a.query + session_offset + block_row * a.row_stride;
  float* block_output = a.output + session_offset + block_row * a.row_stride;

  if (TableIsBroken(a, table, a.slot_age + static_cast<std::int64_t>(session) * a.window)) {
    for (int i = threadIdx.x; i < rows * kHeadDim; i += kFloatThreads) {
      block_output[i / kHeadDim * a.row_stride + i % kHeadDim] = NAN;
    }
    return;
  }

  float* const query = reinterpret_cast<float*>(SharedMemory());
  float* const key = query + Layout::kKey;
  float* const value = query + Layout::kValue;
  float* const weights = query + Layout::kWeights;  // [query, key]
  float2* const rotation = reinterpret_cast<float2*>(query + Layout::kRotation);

  float output[kRowsEach][kColumnsEach] = {};
  float total[kRowsEach] = {};  // of the weights of this thread's keys
  float maximum[kRowsEach];     // of the row's scores so far, times scale_log2
  for (float& m : maximum) m = -INFINITY;

  CopyFloatTile<kHeadDim, kFloatQueries>(query, block_query, a.row_stride, rows);
  KeyTiles<float> tiles{session_offset};
  do {
    const int keys = a.tokens - tiles.row;  // that are left in this frame
    CopyFloatTile<kHeadDim, kFloatKeys>(key, tiles.Key(a), a.row_stride, keys);
    CopyFloatTile<kHeadDim, kFloatKeys>(value, tiles.Value(a), a.row_stride, keys);
    if (tiles.row == 0 && tiles.entry >= 0 && a.rotated_pairs > 0) {
      const int age = a.slot_age[static_cast<std::int64_t>(session) * a.window + tiles.entry];
      FillRotation(rotation, a, age, threadIdx.x, kFloatThreads);
      __syncthreads();
      RotateRows(block_query, a.row_stride, rows, rotation, a.rotated_pairs, threadIdx.x, kFloatThreads,
                 [&](int row, int column, float number) { query[row * Layout::kRow + column] = number; });
    }
    WaitForCopies();
    __syncthreads();

    float scores[kRowsEach][kKeysEach] = {};
#pragma unroll 4
    for (int d = 0; d < kHeadDim; d += 4) {
      float4 keys_here[kKeysEach];
#pragma unroll
      for (int k = 0; k < kKeysEach; ++k) {
        keys_here[k] = *reinterpret_cast<const float4*>(key + (x + 16 * k) * Layout::kRow + d);
      }
#pragma unroll
      for (int r = 0; r < kRowsEach; ++r) {
        const float4 q = *reinterpret_cast<const float4*>(query + (y * kRowsEach + r) * Layout::kRow + d);
#pragma unroll
        for (int k = 0; k < kKeysEach; ++k) {
          float& score = scores[r][k];
          score = fmaf(q.x, keys_here[k].x, score), score = fmaf(q.y, keys_here[k].y, score);
          score = fmaf(q.z, keys_here[k].z, score), score = fmaf(q.w, keys_here[k].w, score);
        }
      }
    }

#pragma unroll
    for (int r = 0; r < kRowsEach; ++r) {
      float highest = -INFINITY;
#pragma unroll
      for (int k = 0; k < kKeysEach; ++k) {
        if (x + 16 * k >= keys) scores[r][k] = -INFINITY;
        highest = fmaxf(highest, scores[r][k]);
      }
#pragma unroll
      for (int step = 1; step < 16; step *= 2) highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, step));
      // Every tile has a key that is not masked, so this is finite if the scores are.
      const float before = maximum[r], now = fmaxf(before, highest * a.scale_log2);
      const float shrink = Exp2(before - now);
      maximum[r] = now;
      float sum = 0;
#pragma unroll
      for (int k = 0; k < kKeysEach; ++k) {
        const float weight = Exp2(fmaf(scores[r][k], a.scale_log2, -now));
        weights[(y * kRowsEach + r) * Layout::kWeightRow + x + 16 * k] = weight;
        sum += weight;
      }
      total[r] = fmaf(total[r], shrink, sum);
#pragma unroll
      for (int c = 0; c < kColumnsEach; ++c) output[r][c] *= shrink;
    }
    __syncwarp();  // a row's weights are written and read by one warp

#pragma unroll 4
    for (int k = 0; k < kFloatKeys; ++k) {
      float row_weights[kRowsEach];
#pragma unroll
      for (int r = 0; r < kRowsEach; ++r) row_weights[r] = weights[(y * kRowsEach + r) * Layout::kWeightRow + k];
#pragma unroll
      for (int c = 0; c < kColumnsEach; ++c) {
        const float v = value[k * Layout::kRow + x + 16 * c];
#pragma unroll
        for (int r = 0; r < kRowsEach; ++r) output[r][c] = fmaf(row_weights[r], v, output[r][c]);
      }
    }
    __syncthreads();  // all of shared memory is free
  } while (tiles.Next(a, kFloatKeys, table, head_offset));

#pragma unroll
  for (int r = 0; r < kRowsEach; ++r) {
    float sum = total[r];
#pragma unroll
    for (int step = 1; step < 16; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    const int row = y * kRowsEach + r;
    if (row < rows) {
#pragma unroll
      for (int c = 0; c < kColumnsEach; ++c) block_output[row * a.row_stride + x + 16 * c] = output[r][c] / sum;
    }
  }
}

}  // namespace dsa::cuda
