// The parts of CUDA's runtime header that the kernels use, on the emulator.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "simt.h"

#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)

struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
using std::min;

inline void sincospif(float x, float* sine, float* cosine) {
  *sine = static_cast<float>(std::sin(M_PI * x)), *cosine = static_cast<float>(std::cos(M_PI * x));
}

inline void __syncthreads() { emulation::MeetBlock(false); }
inline int __syncthreads_or(int predicate) { return emulation::MeetBlock(predicate != 0); }
inline void __syncwarp() {
  emulation::MeetWarp([](void* const*) {}, nullptr);
}

inline float __shfl_xor_sync(unsigned, float value, int mask) {
  struct Argument {
    float value;
    int mask;
  } argument{value, mask};
  emulation::MeetWarp(
      [](void* const* arguments) {
        float values[emulation::kLanes];
        for (int lane = 0; lane < emulation::kLanes; ++lane) {
          values[lane] = static_cast<Argument*>(arguments[lane])->value;
        }
        for (int lane = 0; lane < emulation::kLanes; ++lane) {
          auto& own = *static_cast<Argument*>(arguments[lane]);
          own.value = values[lane ^ own.mask];
        }
      },
      &argument);
  return argument.value;
}

// --- Host side ---

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorLaunchFailure };
using cudaStream_t = void*;
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice };

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace emulation {
inline const char* last_failure = nullptr;                     // of a kernel
inline std::map<const void*, std::size_t> shared_bytes_allowed;  // more than the 48 KiB that every kernel may use
}  // namespace emulation

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? emulation::last_failure : "invalid argument";
}

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  return *value = emulation::options.multiprocessors, cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int value) {
  emulation::shared_bytes_allowed[reinterpret_cast<const void*>(kernel)] = static_cast<std::size_t>(value);
  return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  const std::size_t allowed = emulation::shared_bytes_allowed[reinterpret_cast<const void*>(kernel)];
  if (config->dynamicSmemBytes > std::max<std::size_t>(allowed, 48 * 1024)) return cudaErrorInvalidValue;
  emulation::last_failure = emulation::RunGrid(config->gridDim, config->blockDim, config->dynamicSmemBytes,
                                               [&] { kernel(arguments...); });
  return emulation::last_failure == nullptr ? cudaSuccess : cudaErrorLaunchFailure;
}

inline cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return std::memcpy(target, source, bytes), cudaSuccess;
}
