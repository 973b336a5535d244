// Vectors of floats in the compiler's own notation, as wide as the instruction set that this is compiled for. Part of
// attention.cpp, which says why all is in an unnamed namespace.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

// Arrays of vectors become registers only where every index is known to the compiler.
#define DSA_UNROLL _Pragma("GCC unroll 16")

namespace dsa::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kTile = 16;        // vectors in a register tile; there are 32 registers
constexpr int kTileVectors = 4;  // of queries among them, at most
constexpr __mmask16 kAll = 0xffff;  // the masked forms of intrinsics, because gcc 12 warns about its own plain ones
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kTile = 8;
constexpr int kTileVectors = 2;
#else
constexpr int kLanes = 4;
constexpr int kTile = 8;
constexpr int kTileVectors = 2;
#endif

using Vector = float __attribute__((vector_size(4 * kLanes)));
using UnalignedVector __attribute__((aligned(4))) = Vector;
using Integers = std::int32_t __attribute__((vector_size(4 * kLanes)));

Vector& At(float* p) { return *reinterpret_cast<Vector*>(p); }
const Vector& At(const float* p) { return *reinterpret_cast<const Vector*>(p); }
Vector LoadUnaligned(const float* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
Vector Max(Vector a, Vector b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(kAll, a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

// 2^x for x <= kSlack with a relative error below 6e-7: x is rounded to n, the rest f goes into a minimax polynomial
// for 2^f, and n into the exponent. With AVX-512, n is a multiple of 1/16 whose fraction is looked up in a register.
Vector Exp2(Vector x) {
#if defined(__AVX512F__)
  const Vector powers = {1.0f,          1.044273782f, 1.090507733f, 1.138788635f, 1.189207115f, 1.241857812f,
                         1.296839555f,  1.354255547f, 1.414213562f, 1.476826146f, 1.542210825f, 1.610490332f,
                         1.681792831f,  1.756252160f, 1.834008086f, 1.915206561f};  // 2^(i / 16)
  const Vector shifted = x + 786432.0f;  // 1.5 * 2^19: a float of this size counts in sixteenths
  const Vector n = shifted - 786432.0f, f = x - n;
  const Vector p = (f * 2.402264310e-1f + 6.931877210e-1f) * f + 1.0f;
  const __m512i fraction = reinterpret_cast<__m512i>(shifted);  // the low 4 bits, which are all that counts
  return _mm512_maskz_scalef_ps(kAll, p * _mm512_maskz_permutexvar_ps(kAll, fraction, powers), n);
#else
  // Below -126 the exponent's bits would overflow; 1e-38 is nothing beside the sum's 1. In this order a NaN stays one.
  x = Max(Vector{} - 126.0f, x);
  const Vector shifted = x + 12582912.0f;  // 1.5 * 2^23: a float of this size counts in ones
  const Vector f = x - (shifted - 12582912.0f);
  Vector p = f * 1.326472725e-3f + 9.671512786e-3f;
  p = p * f + 5.550733744e-2f;
  p = p * f + 2.402224208e-1f;
  p = p * f + 6.931469776e-1f;
  p = p * f + 1.0f;
  return reinterpret_cast<Vector>(reinterpret_cast<Integers>(p) + (reinterpret_cast<Integers>(shifted) << 23));
#endif
}

template <int... kIndex>
struct Indices {};
#if defined(__AVX512F__)
using Lanes = Indices<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>;
#elif defined(__AVX2__)
using Lanes = Indices<0, 1, 2, 3, 4, 5, 6, 7>;
#else
using Lanes = Indices<0, 1, 2, 3>;
#endif

// Of two rows kSpan apart: the blocks of kSpan lanes off the diagonal change places.
template <int kSpan, int... kIndex>
inline __attribute__((always_inline)) void Exchange(Vector& a, Vector& b, Indices<kIndex...>) {
#if defined(__clang__) || __GNUC__ >= 12
  const Vector low = __builtin_shufflevector(a, b, ((kIndex & kSpan) == 0 ? kIndex : kLanes + kIndex - kSpan)...);
  b = __builtin_shufflevector(a, b, ((kIndex & kSpan) == 0 ? kIndex + kSpan : kLanes + kIndex)...);
#else
  const Vector low = __builtin_shuffle(a, b, Integers{((kIndex & kSpan) == 0 ? kIndex : kLanes + kIndex - kSpan)...});
  b = __builtin_shuffle(a, b, Integers{((kIndex & kSpan) == 0 ? kIndex + kSpan : kLanes + kIndex)...});
#endif
  a = low;
}

// kLanes x kLanes, in registers: log2(kLanes) rounds of exchanges between rows that lie kSpan apart.
template <int kSpan = kLanes / 2>
inline __attribute__((always_inline)) void Transpose(Vector (&rows)[kLanes]) {
  DSA_UNROLL for (int i = 0; i < kLanes; ++i) {
    if ((i & kSpan) == 0) Exchange<kSpan>(rows[i], rows[i + kSpan], Lanes{});
  }
  if constexpr (kSpan > 1) Transpose<kSpan / 2>(rows);
}

}  // namespace
}  // namespace dsa::cpu
