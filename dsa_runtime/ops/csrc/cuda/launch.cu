#include "launch.h"

#include <algorithm>
#include <climits>
#include <cmath>

#include "attention_float.cuh"
#include "attention_tensor_core.cuh"
#include "write.cuh"

namespace dsa::cuda {
namespace {

// Null on success.
const char* Text(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

unsigned DivideUp(std::int64_t a, std::int64_t b) { return static_cast<unsigned>((a + b - 1) / b); }

template <typename Kernel, typename... Arguments>
const char* Launch(Kernel* kernel, dim3 grid, int threads, int shared_bytes, void* stream,
                   const Arguments&... arguments) {
  if (shared_bytes > 48 * 1024) {  // more has to be asked for
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (error != cudaSuccess) return Text(error);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  return Text(cudaLaunchKernelEx(&config, kernel, arguments...));
}

template <typename T>
AttentionArguments<T> KernelArguments(const FrameAttention& call) {
  AttentionArguments<T> a = {};
  a.query = static_cast<const T*>(call.query);
  a.key = static_cast<const T*>(call.key), a.value = static_cast<const T*>(call.value);
  a.key_pool = static_cast<const T*>(call.key_pool), a.value_pool = static_cast<const T*>(call.value_pool);
  a.slot_table = call.slot_table, a.slot_age = call.slot_age;
  a.output = static_cast<T*>(call.output);
  a.tokens = static_cast<int>(call.tokens);
  a.window = static_cast<int>(call.window);
  a.slots = static_cast<int>(call.slots);
  a.row_stride = static_cast<int>(call.heads * call.head_dim);
  a.frame_stride = call.tokens * call.heads * call.head_dim;
  a.scale_log2 = static_cast<float>(call.scale * 1.4426950408889634);
  a.rotated_pairs = call.temporal_dims / 2;
  for (int i = 0; i < a.rotated_pairs; ++i) {
    const double turns = std::pow(static_cast<double>(call.theta), -2.0 * i / call.temporal_dims) / (2 * M_PI);
    a.turns[i] = static_cast<std::uint64_t>((turns - std::floor(turns)) * 0x1p64);
  }
  return a;
}

template <typename T, int kHeadDim, int kQueryGroups, int kKeys>
const char* LaunchTensorCores(const FrameAttention& call, void* stream) {
  using Layout = TensorCoreLayout<kHeadDim, kQueryGroups, kKeys>;
  const dim3 grid(DivideUp(call.tokens, Layout::kQueries), static_cast<unsigned>(call.heads),
                  static_cast<unsigned>(call.batch));
  return Launch(TensorCoreAttention<T, kHeadDim, kQueryGroups, kKeys>, grid, kTensorCoreThreads, Layout::kBytes, stream,
                KernelArguments<T>(call));
}

// Chooses the tile. The larger one reads every key half as often; it has to leave no multiprocessor without a block.
template <typename T, int kHeadDim>
const char* LaunchTensorCores(const FrameAttention& call, void* stream) {
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) return Text(error);
  const std::int64_t large_tiles = DivideUp(call.tokens, 128) * call.heads * call.batch;
  if (call.tokens > 64 && large_tiles >= multiprocessors) return LaunchTensorCores<T, kHeadDim, 2, 64>(call, stream);
  if (call.tokens > 16) return LaunchTensorCores<T, kHeadDim, 1, 64>(call, stream);
  return LaunchTensorCores<T, kHeadDim, 1, 16>(call, stream);
}

template <typename T>
const char* LaunchTensorCores(const FrameAttention& call, void* stream) {
  switch (call.head_dim) {
    case 32: return LaunchTensorCores<T, 32>(call, stream);
    case 64: return LaunchTensorCores<T, 64>(call, stream);
    default: return LaunchTensorCores<T, 128>(call, stream);
  }
}

template <int kHeadDim>
const char* LaunchFloat(const FrameAttention& call, void* stream) {
  const dim3 grid(DivideUp(call.tokens, kFloatQueries), static_cast<unsigned>(call.heads),
                  static_cast<unsigned>(call.batch));
  return Launch(FloatAttention<kHeadDim>, grid, kFloatThreads, FloatLayout<kHeadDim>::kBytes, stream,
                KernelArguments<float>(call));
}

const char* LaunchFloat(const FrameAttention& call, void* stream) {
  switch (call.head_dim) {
    case 32: return LaunchFloat<32>(call, stream);
    case 64: return LaunchFloat<64>(call, stream);
    default: return LaunchFloat<128>(call, stream);
  }
}

template <typename... Pointers>
bool IsAligned(Pointers... pointers) {
  return ((reinterpret_cast<std::uintptr_t>(pointers) | ...) % 16) == 0;
}

std::size_t FrameBytes(const FrameWrite& call) {
  return static_cast<std::size_t>(call.frame_elements) * SizeOf(call.type);
}

template <typename Word>
const char* LaunchWrite(const FrameWrite& call, void* stream) {
  const auto words = static_cast<std::int64_t>(FrameBytes(call) / sizeof(Word));
  // Some thousand blocks fill any GPU; the kernel loops over the rest.
  const dim3 grid(std::min(DivideUp(words, kWriteThreads), 1024u), static_cast<unsigned>(call.batch));
  return Launch(WriteFrames<Word>, grid, kWriteThreads, 0, stream, static_cast<const Word*>(call.frame), call.slot,
                static_cast<Word*>(call.pool), words, call.slots);
}

}  // namespace

const char* LaunchFrameAttention(const FrameAttention& call, void* stream) {
  if (call.head_dim != 32 && call.head_dim != 64 && call.head_dim != 128) {
    return "on CUDA the head width must be 32, 64 or 128";
  }
  if (call.pool_type != call.type) return "on CUDA pools must have the type of the query";
  if (!(call.scale > 0)) return "on CUDA the scale must be positive";
  if (!IsAligned(call.query, call.key, call.value, call.key_pool, call.value_pool, call.output)) {
    return "on CUDA tensors must start at multiples of 16 bytes";
  }
  if (call.tokens * call.heads * call.head_dim > INT_MAX) {
    return "on CUDA a frame must have fewer than 2^31 numbers";
  }
  if (call.batch == 0 || call.tokens == 0 || call.heads == 0) return nullptr;
  switch (call.type) {
    case Type::kFloat16: return LaunchTensorCores<__half>(call, stream);
    case Type::kBFloat16: return LaunchTensorCores<__nv_bfloat16>(call, stream);
    default: return LaunchFloat(call, stream);
  }
}

const char* LaunchFrameWrite(const FrameWrite& call, void* stream) {
  if (call.batch == 0 || call.frame_elements == 0) return nullptr;
  if (FrameBytes(call) % 16 == 0 && IsAligned(call.frame, call.pool)) return LaunchWrite<uint4>(call, stream);
  return LaunchWrite<std::uint16_t>(call, stream);
}

const char* CopyOnDevice(void* target, const void* source, std::size_t bytes, void* stream) {
  return Text(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream)));
}

}  // namespace dsa::cuda
