// float16 to float32 and back. Part of attention.cpp, which says why all is in an unnamed namespace.
#pragma once

#include <cstdint>

#include "vectors.h"

namespace dsa::cpu {
namespace {

using Half = std::uint16_t;

float ToFloat(Half half) {
#if defined(__F16C__)
  return _cvtsh_ss(half);
#else
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000) << 16;
  const std::uint32_t exponent = (half >> 10) & 31, fraction = half & 1023;
  std::uint32_t bits;
  if (exponent == 31) {
    bits = 0x7f800000u | (fraction << 13);
  } else if (exponent != 0) {
    bits = ((exponent + 112) << 23) | (fraction << 13);
  } else {
    const float tiny = static_cast<float>(fraction) * 5.9604644775390625e-8f;  // subnormal: fraction * 2^-24
    __builtin_memcpy(&bits, &tiny, 4);
  }
  bits |= sign;
  float result;
  __builtin_memcpy(&result, &bits, 4);
  return result;
#endif
}

Half ToHalf(float value) {  // to nearest, ties to even
#if defined(__F16C__)
  return static_cast<Half>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT));
#else
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  const Half sign = static_cast<Half>((bits >> 16) & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00;    // not a number
  if (bits >= 0x477ff000) return sign | 0x7c00;   // rounds to infinity
  if (bits < 0x38800000) {                        // subnormal: let the adder round at 2^-24
    float magnitude;
    __builtin_memcpy(&magnitude, &bits, 4);
    magnitude += 0.5f;
    __builtin_memcpy(&bits, &magnitude, 4);
    return static_cast<Half>(sign | (bits - 0x3f000000));
  }
  bits += 0xc8000fff + ((bits >> 13) & 1);        // rebias by -112, round
  return static_cast<Half>(sign | (bits >> 13));
#endif
}

void Widen(const Half* source, float* target, std::int64_t count) {
  std::int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= count; i += 16) {
    _mm512_storeu_ps(target + i, _mm512_maskz_cvtph_ps(kAll, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + i))));
  }
#elif defined(__F16C__)
  for (; i + 8 <= count; i += 8) {
    _mm256_storeu_ps(target + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i))));
  }
#endif
  for (; i < count; ++i) target[i] = ToFloat(source[i]);
}

}  // namespace
}  // namespace dsa::cpu
