// The functions of dsa_runtime/ops/csrc/cuda/ptx.cuh on the emulator. Layouts as in the PTX ISA, "Warp-level matrix
// load instruction: ldmatrix" and "Matrix fragments for mma.m16n8k16 with floating point type".
#pragma once

#include <cmath>
#include <set>

#include "cuda_runtime.h"
#include "half.h"

namespace dsa::cuda {

using emulation::SharedAddress;
using emulation::SharedMemory;
using emulation::WaitForCopies;

inline void CopyAsync(std::uint32_t target, const void* source, bool valid) {
  emulation::CopyAsync(target, source, 16, valid);
}

template <bool kTransposed>
void LoadMatricesAs(std::uint32_t (&matrix)[4], std::uint32_t address) {
  struct Argument {
    std::uint16_t row[8];  // of matrix lane / 8 row lane % 8
    std::uint32_t address;
    std::uint32_t* matrix;
  } argument{{}, address, matrix};
  // Read before the lanes meet: the instruction does not wait for what other lanes have written.
  std::memcpy(argument.row, emulation::SharedBytes(address, 16), 16);
  emulation::MeetWarp(
      [](void* const* arguments) {
        for (int m = 0; m < 4; ++m) {
          const std::uint16_t* elements[8];
          std::set<std::uint32_t> banks;
          for (int row = 0; row < 8; ++row) {
            const auto* source = static_cast<Argument*>(arguments[8 * m + row]);
            elements[row] = source->row;
            banks.insert(source->address / 16 % 8);
          }
          emulation::bank_conflicts += 8 - static_cast<long>(banks.size());
          for (int lane = 0; lane < emulation::kLanes; ++lane) {
            const int row = lane / 4, column = lane % 4 * 2;
            const std::uint32_t low = kTransposed ? elements[column][row] : elements[row][column];
            const std::uint32_t high = kTransposed ? elements[column + 1][row] : elements[row][column + 1];
            static_cast<Argument*>(arguments[lane])->matrix[m] = low | high << 16;
          }
        }
      },
      &argument);
}

inline void LoadMatrices(std::uint32_t (&matrix)[4], std::uint32_t address) { LoadMatricesAs<false>(matrix, address); }
inline void LoadMatricesTransposed(std::uint32_t (&matrix)[4], std::uint32_t address) {
  LoadMatricesAs<true>(matrix, address);
}

inline float ElementToFloat(__half, std::uint16_t bits) { return __half2float(__half{bits}); }
inline float ElementToFloat(__nv_bfloat16, std::uint16_t bits) { return __bfloat162float(__nv_bfloat16{bits}); }

// Element i of a fragment of 16-bit elements in registers.
template <typename T>
float Element(const std::uint32_t* registers, int i) {
  return ElementToFloat(T{}, static_cast<std::uint16_t>(registers[i / 2] >> (i % 2 * 16)));
}

template <typename T>
void MultiplyAdd(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  struct Argument {
    float* c;
    const std::uint32_t* a;
    std::uint32_t b[2];
  } argument{c, a, {b0, b1}};
  emulation::MeetWarp(
      [](void* const* arguments) {
        float left[16][16], right[16][8], sum[16][8];
        for (int lane = 0; lane < emulation::kLanes; ++lane) {
          const auto* own = static_cast<Argument*>(arguments[lane]);
          const int group = lane >> 2, member = lane % 4;
          for (int i = 0; i < 8; ++i) {
            const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
            left[row][member * 2 + (i & 1) + (i >= 4 ? 8 : 0)] = Element<T>(own->a, i);
          }
          for (int i = 0; i < 4; ++i) {
            right[member * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group] = Element<T>(own->b, i);
            sum[i < 2 ? group : group + 8][member * 2 + (i & 1)] = own->c[i];
          }
        }
        for (int row = 0; row < 16; ++row) {
          for (int k = 0; k < 16; ++k) {
            for (int column = 0; column < 8; ++column) sum[row][column] += left[row][k] * right[k][column];
          }
        }
        for (int lane = 0; lane < emulation::kLanes; ++lane) {
          const int group = lane >> 2, member = lane % 4;
          for (int i = 0; i < 4; ++i) {
            static_cast<Argument*>(arguments[lane])->c[i] = sum[i < 2 ? group : group + 8][member * 2 + (i & 1)];
          }
        }
      },
      &argument);
}

inline std::uint16_t RoundedBits(__half, float x) { return __float2half_rn(x).bits; }
inline std::uint16_t RoundedBits(__nv_bfloat16, float x) { return __float2bfloat16_rn(x).bits; }

template <typename T>
std::uint32_t Pack(float low, float high) {
  return RoundedBits(T{}, low) | static_cast<std::uint32_t>(RoundedBits(T{}, high)) << 16;
}

inline float Exp2(float x) {
  const float result = std::exp2(x);
  return result < 0x1p-126f ? 0.0f : result;  // flushed; NaN stays
}

}  // namespace dsa::cuda
