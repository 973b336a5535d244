// PagedFrameWrite.
#pragma once

#include "ptx.cuh"

namespace dsa::cuda {

constexpr int kWriteThreads = 256;

// pool[slot[b]] = frame[b], in words of `words` a frame. Row y of the grid is session b.
template <typename Word>
__global__ void __launch_bounds__(kWriteThreads)
    WriteFrames(const Word* frame, const std::int32_t* slot, Word* pool, std::int64_t words, std::int64_t slots) {
  const int session = blockIdx.y, target = slot[session];
  if (target < 0 || target >= slots) return;
  frame += session * words, pool += target * words;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kWriteThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kWriteThreads + threadIdx.x; i < words; i += step) {
    pool[i] = frame[i];
  }
}

}  // namespace dsa::cuda
