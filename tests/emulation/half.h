// The two 16-bit number types of CUDA.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulation {

inline std::uint32_t Bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

inline float FromBits(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// The upper `32 - cut` bits, rounded to nearest, ties to even.
inline std::uint32_t Round(std::uint32_t bits, int cut) {
  return (bits + (1u << (cut - 1)) - 1 + ((bits >> cut) & 1)) >> cut;
}

}  // namespace emulation

struct __half {
  std::uint16_t bits;
};

struct __nv_bfloat16 {
  std::uint16_t bits;
};

inline float __half2float(__half x) {
  const std::uint32_t sign = (x.bits & 0x8000u) << 16, exponent = (x.bits >> 10) & 31, fraction = x.bits & 0x3ffu;
  if (exponent == 0) return std::copysign(static_cast<float>(fraction) * 0x1p-24f, emulation::FromBits(sign));
  const std::uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  return emulation::FromBits(sign | wide << 23 | fraction << 13);
}

inline __half __float2half_rn(float x) {
  const std::uint32_t sign = emulation::Bits(x) >> 16 & 0x8000u;
  const float size = std::fabs(x);
  std::uint32_t bits;
  if (std::isnan(x)) {
    return {0x7fff};
  } else if (size < 0x1p-14f) {
    bits = static_cast<std::uint32_t>(std::nearbyint(size * 0x1p24f));
  } else if (size >= 65520.0f) {
    bits = 0x7c00;
  } else {
    bits = emulation::Round(emulation::Bits(size) - (112u << 23), 13);
  }
  return {static_cast<std::uint16_t>(sign | bits)};
}

inline float __bfloat162float(__nv_bfloat16 x) { return emulation::FromBits(std::uint32_t{x.bits} << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  if (std::isnan(x)) return {0x7fff};
  return {static_cast<std::uint16_t>(emulation::Round(emulation::Bits(x), 16))};
}
