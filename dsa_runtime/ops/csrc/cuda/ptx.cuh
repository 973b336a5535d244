// The machine instructions the kernels use that C++ has no words for. Baseline sm_80. `tests/emulation` has the same
// functions on the host, by which the kernels are tested where there is no GPU.
#pragma once

#ifdef DSA_EMULATE
#include "emulated_ptx.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace dsa::cuda {

// The block's dynamic shared memory. Aligned so that a row of a tile never straddles a multiple of its own size.
__device__ inline unsigned char* SharedMemory() {
  extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
  return dynamic_shared_memory;
}

// The address of `pointer` within shared memory, as the instructions below take it.
__device__ inline std::uint32_t SharedAddress(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts copying 16 bytes to shared memory past L1; zeros instead, and `source` is not touched, if not `valid`. Both
// addresses are multiples of 16.
__device__ inline void CopyAsync(std::uint32_t target, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(target), "l"(source),
               "r"(valid ? 16 : 0)
               : "memory");
}

// Waits until this thread's copies have all arrived.
__device__ inline void WaitForCopies() { asm volatile("cp.async.wait_all;\n" ::: "memory"); }

// Four 8x8 matrices of 16-bit elements. Lane 8i + r gives the address (a multiple of 16) of row r of matrix i; lane l
// receives of each matrix the elements (l / 4, 2 (l % 4)) and (l / 4, 2 (l % 4) + 1), low half first.
__device__ inline void LoadMatrices(std::uint32_t (&matrix)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(matrix[0]), "=r"(matrix[1]), "=r"(matrix[2]), "=r"(matrix[3])
               : "r"(address)
               : "memory");
}

// The same with every matrix transposed.
__device__ inline void LoadMatricesTransposed(std::uint32_t (&matrix)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(matrix[0]), "=r"(matrix[1]), "=r"(matrix[2]), "=r"(matrix[3])
               : "r"(address)
               : "memory");
}

// c[16, 8] += a[16, 16] b[16, 8], with g = lane / 4 and t = lane % 4:
//   a = rows g, g + 8, g, g + 8; columns 2t, 2t + 1 of the left (a[0], a[1]) and of the right half (a[2], a[3])
//   b = column g; rows 2t, 2t + 1 of the upper (b0) and of the lower half (b1)
//   c = columns 2t, 2t + 1 of row g (c[0], c[1]) and of row g + 8 (c[2], c[3])
template <typename T>
__device__ void MultiplyAdd(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);

template <>
__device__ inline void MultiplyAdd<__half>(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                           std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ inline void MultiplyAdd<__nv_bfloat16>(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                                  std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two numbers rounded to T, `low` in the low half.
template <typename T>
__device__ std::uint32_t Pack(float low, float high);

template <>
__device__ inline std::uint32_t Pack<__half>(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

template <>
__device__ inline std::uint32_t Pack<__nv_bfloat16>(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// 2 to the power of x, to 2^-22 of the result; subnormal results are 0.
__device__ inline float Exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(result) : "f"(x));
  return result;
}

}  // namespace dsa::cuda

#endif  // DSA_EMULATE
