// PagedFrameAttention in float16 and bfloat16: FlashAttention-2's forward pass on tensor cores.
//
// A block owns a tile of queries of one head of one session and walks over the session's key tiles; every warp owns
// kQueryGroups * 16 of the rows and keeps their scores, softmax state and output in registers. The value tile is on its
// way while the scores are computed, the next key tile while the values are added up. Between two slots each warp
// rotates its own rows of the query in shared memory, always anew from the original.
#pragma once

#include "session.cuh"

namespace dsa::cuda {

constexpr int kWarps = 4;
constexpr int kTensorCoreThreads = 32 * kWarps;

// A matrix of 16-bit elements in shared memory whose rows lie in chunks of 16 bytes. Chunks are permuted so that the
// same chunk of 8 consecutive rows lies in 8 different groups of banks (128 bytes are all banks once).
template <int kColumns>
struct SwizzledTile {
  static constexpr int kRowBytes = 2 * kColumns;
  static constexpr int kChunks = kRowBytes / 16;
  static_assert(kChunks == 4 || kChunks == 8 || kChunks == 16, "rows of 64, 128 or 256 bytes");

  // What is XORed to the chunk index. Depends on row % 8 only.
  __device__ static int Permutation(int row) { return kChunks == 4 ? (row / 2) % 4 : row % 8; }

  // Offset of a chunk in bytes.
  __device__ static int Offset(int row, int chunk) { return row * kRowBytes + (chunk ^ Permutation(row)) * 16; }
};

template <int kHeadDim, int kQueryGroups, int kKeys>
struct TensorCoreLayout {
  static constexpr int kQueries = kWarps * kQueryGroups * 16;
  static constexpr int kRowBytes = SwizzledTile<kHeadDim>::kRowBytes;
  // Offsets in shared memory.
  static constexpr int kKey = kQueries * kRowBytes;
  static constexpr int kValue = kKey + kKeys * kRowBytes;
  static constexpr int kRotation = kValue + kKeys * kRowBytes;  // of each warp
  static constexpr int kRotationBytes = kHeadDim / 2 * static_cast<int>(sizeof(float2));
  static constexpr int kBytes = kRotation + kWarps * kRotationBytes;
};

// Starts copying `valid` rows of a tile of kRows; the others become zeros.
template <int kHeadDim, int kRows, typename T>
__device__ void CopyTile(std::uint32_t target, const T* source, int row_stride, int valid) {
  using Tile = SwizzledTile<kHeadDim>;
  static_assert(kTensorCoreThreads % Tile::kChunks == 0);
  constexpr int kRowsAtOnce = kTensorCoreThreads / Tile::kChunks;
  const int chunk = threadIdx.x % Tile::kChunks, first = threadIdx.x / Tile::kChunks;
  source += first * row_stride + chunk * 8;
#pragma unroll
  for (int i = 0; i < (kRows + kRowsAtOnce - 1) / kRowsAtOnce; ++i) {
    const int row = first + i * kRowsAtOnce;
    if (kRows % kRowsAtOnce == 0 || row < kRows) {
      CopyAsync(target + Tile::Offset(row, chunk), source + i * kRowsAtOnce * row_stride, row < valid);
    }
  }
}

template <typename T, int kHeadDim, int kQueryGroups, int kKeys>
__global__ void __launch_bounds__(kTensorCoreThreads, kQueryGroups == 1 ? 3 : 2)
    TensorCoreAttention(const __grid_constant__ AttentionArguments<T> a) {
  using Layout = TensorCoreLayout<kHeadDim, kQueryGroups, kKeys>;
  using Tile = SwizzledTile<kHeadDim>;
  constexpr int kRowBytes = Tile::kRowBytes;
  constexpr int kGroupBytes = 16 * kRowBytes;  // of 16 rows
  constexpr int kWarpQueries = 16 * kQueryGroups;

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int head = blockIdx.y, session = blockIdx.z;
  const std::int32_t* table = a.slot_table + static_cast<std::int64_t>(session) * a.window;
  const std::int64_t head_offset = static_cast<std::int64_t>(head) * kHeadDim;
  const std::int64_t session_offset = session * a.frame_stride + head_offset;
  const int block_row = blockIdx.x * Layout::kQueries;
  const int warp_row = block_row + warp * kWarpQueries;
  const int warp_rows = min(a.tokens - warp_row, kWarpQueries);  // may be less than 1; rows beyond are zeros

  if (TableIsBroken(a, table, a.slot_age + static_cast<std::int64_t>(session) * a.window)) {
    for (int i = lane; i < warp_rows * kHeadDim; i += 32) {
      a.output[session_offset + (warp_row + i / kHeadDim) * a.row_stride + i % kHeadDim] = FromFloat<T>(NAN);
    }
    return;
  }

  unsigned char* const memory = SharedMemory();
  float2* const rotation = reinterpret_cast<float2*>(memory + Layout::kRotation + warp * Layout::kRotationBytes);
  // Where this lane points LoadMatrices in 16 rows of two chunks: in the order upper left, lower left, upper right,
  // lower right for the query and the values; for the keys, whose columns the instruction wants in adjacent registers,
  // upper left, upper right, lower left, lower right. The two chunks differ in the lowest bit of the index, so pair k
  // is at `address ^ 32 k`.
  const std::uint32_t base = SharedAddress(memory);
  const std::uint32_t warp_offset = warp * kWarpQueries * kRowBytes;
  const std::uint32_t query_address = base + warp_offset + Tile::Offset(lane % 16, lane / 16);
  const std::uint32_t key_address = base + Layout::kKey + Tile::Offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
  const std::uint32_t value_address = base + Layout::kValue + Tile::Offset(lane % 16, lane / 16);

  float output[kQueryGroups][kHeadDim / 8][4] = {};
  float total[kQueryGroups][2] = {};    // of the weights in this lane's columns
  float maximum[kQueryGroups][2];       // of the row's scores so far, times scale_log2
  for (auto& pair : maximum) pair[0] = pair[1] = -INFINITY;

  KeyTiles<T> tiles{session_offset};
  CopyTile<kHeadDim, Layout::kQueries>(base, a.query + session_offset + block_row * a.row_stride, a.row_stride,
                                       a.tokens - block_row);
  CopyTile<kHeadDim, kKeys>(base + Layout::kKey, tiles.Key(a), a.row_stride, a.tokens);
  bool more = true;
  while (more) {
    const int keys = a.tokens - tiles.row;  // that are left in this frame
    WaitForCopies();
    __syncthreads();  // the key tile has arrived, the value tile is free
    CopyTile<kHeadDim, kKeys>(base + Layout::kValue, tiles.Value(a), a.row_stride, keys);

    if (tiles.row == 0 && tiles.entry >= 0 && a.rotated_pairs > 0) {
      FillRotation(rotation, a, a.slot_age[static_cast<std::int64_t>(session) * a.window + tiles.entry], lane, 32);
      __syncwarp();
      RotateRows(a.query + session_offset + warp_row * a.row_stride, a.row_stride, warp_rows, rotation,
                 a.rotated_pairs, lane, 32, [&](int row, int column, T x) {
                   const int offset = Tile::Offset(row, column / 8) + column % 8 * 2;
                   *reinterpret_cast<T*>(memory + warp_offset + offset) = x;
                 });
      __syncwarp();
    }

    float scores[kQueryGroups][kKeys / 8][4] = {};
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) {
      std::uint32_t query[kQueryGroups][4];
#pragma unroll
      for (int g = 0; g < kQueryGroups; ++g) LoadMatrices(query[g], (query_address ^ (32 * k)) + g * kGroupBytes);
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        std::uint32_t key[4];
        LoadMatrices(key, (key_address ^ (32 * k)) + n * kGroupBytes);
#pragma unroll
        for (int g = 0; g < kQueryGroups; ++g) {
          MultiplyAdd<T>(scores[g][2 * n], query[g], key[0], key[1]);
          MultiplyAdd<T>(scores[g][2 * n + 1], query[g], key[2], key[3]);
        }
      }
    }
    if (keys < kKeys) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (n * 8 + lane % 4 * 2 + i % 2 < keys) continue;
#pragma unroll
          for (int g = 0; g < kQueryGroups; ++g) scores[g][n][i] = -INFINITY;
        }
      }
    }

    WaitForCopies();
    __syncthreads();  // the value tile has arrived, the key tile is free
    more = tiles.Next(a, kKeys, table, head_offset);
    if (more) {
      CopyTile<kHeadDim, kKeys>(base + Layout::kKey, tiles.Key(a), a.row_stride, a.tokens - tiles.row);
    }

    std::uint32_t weights[kQueryGroups][kKeys / 16][4];  // two accumulators side by side are one left operand
#pragma unroll
    for (int g = 0; g < kQueryGroups; ++g) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // row lane / 4 of the group, and 8 rows below
        float highest = -INFINITY;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          highest = fmaxf(highest, fmaxf(scores[g][n][2 * half], scores[g][n][2 * half + 1]));
        }
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
        // Every tile has a key that is not masked, so this is finite if the scores are.
        const float before = maximum[g][half], now = fmaxf(before, highest * a.scale_log2);
        const float shrink = Exp2(before - now);
        maximum[g][half] = now;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          const float left = Exp2(fmaf(scores[g][n][2 * half], a.scale_log2, -now));
          const float right = Exp2(fmaf(scores[g][n][2 * half + 1], a.scale_log2, -now));
          sum += left + right;
          weights[g][n / 2][n % 2 * 2 + half] = Pack<T>(left, right);
        }
        total[g][half] = fmaf(total[g][half], shrink, sum);
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          output[g][n][2 * half] *= shrink;
          output[g][n][2 * half + 1] *= shrink;
        }
      }
    }
    // With the columns outside, the registers just suffice at width 128.
#pragma unroll
    for (int n = 0; n < kHeadDim / 16; ++n) {
#pragma unroll
      for (int k = 0; k < kKeys / 16; ++k) {
        std::uint32_t value[4];
        LoadMatricesTransposed(value, (value_address ^ (32 * n)) + k * kGroupBytes);
#pragma unroll
        for (int g = 0; g < kQueryGroups; ++g) {
          MultiplyAdd<T>(output[g][2 * n], weights[g][k], value[0], value[1]);
          MultiplyAdd<T>(output[g][2 * n + 1], weights[g][k], value[2], value[3]);
        }
      }
    }
  }

  // Of an accumulator's four numbers this lane holds two in `row`, two 8 rows below.
  const int row = warp_row + lane / 4;
  T* const lane_output = a.output + session_offset + row * a.row_stride + lane % 4 * 2;
#pragma unroll
  for (int g = 0; g < kQueryGroups; ++g) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = total[g][half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const float factor = 1.0f / sum;
      const int below = 16 * g + 8 * half;
      if (row + below < a.tokens) {
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          *reinterpret_cast<std::uint32_t*>(lane_output + below * a.row_stride + n * 8) =
              Pack<T>(output[g][n][2 * half] * factor, output[g][n][2 * half + 1] * factor);
        }
      }
    }
  }
}

}  // namespace dsa::cuda
