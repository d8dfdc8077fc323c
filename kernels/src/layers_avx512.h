// Sixteen lanes in a zmm register; needs AVX-512 F, BW, DQ, VL and VNNI. layers_scalar.h says what each function promises.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "edge_hands/layers.h"

namespace edge_hands {
namespace {

struct Avx512Layers {
  static constexpr int kRows = 8, kVectors = 2, kInputs = 4, kStored = 4;
  static constexpr int kNarrow = 0;
  static constexpr bool kUnrolled = true, kWinograd = false;
  using Input = uint8_t;
  using Weight = int8_t;
  using I = __m512i;
  using F = __m512;
  using W = __m512i;

  static __mmask16 first(int n) { return __mmask16((1u << n) - 1); }

  static I set(int32_t a) { return _mm512_set1_epi32(a); }
  static F set(float a) { return _mm512_set1_ps(a); }
  static I load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load(const float* p, int count) { return _mm512_maskz_loadu_ps(first(count), p); }
  static I load_bytes(const uint8_t* p, int count) {
    if (count == 16) return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(count), p));
  }
  static void store(float* p, F a, int count) { _mm512_mask_storeu_ps(p, first(count), a); }
  static void store_bytes(uint8_t* p, I a, int count) {
    if (count == 16) return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(a));
    _mm_mask_storeu_epi8(p, first(count), _mm512_cvtusepi32_epi8(a));
  }

  static I add(I a, I b) { return _mm512_add_epi32(a, b); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static I subtract(I a, I b) { return _mm512_sub_epi32(a, b); }
  static F subtract(F a, F b) { return _mm512_sub_ps(a, b); }
  static I multiply(I a, I b) { return _mm512_mullo_epi32(a, b); }
  static F multiply(F a, F b) { return _mm512_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static I max(I a, I b) { return _mm512_max_epi32(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static I shift_right(I a, int bits) { return _mm512_srai_epi32(a, unsigned(bits)); }
  static F to_float(I a) { return _mm512_cvtepi32_ps(a); }
  static I round(F a) { return _mm512_cvtps_epi32(a); }

  static size_t inputs_bytes(const Bytes&) { return 0; }
  static const Input* inputs(const Bytes& map, void*) { return map.data; }
  static I broadcast(const uint8_t* p) {
    int32_t bytes;
    std::memcpy(&bytes, p, 4);
    return _mm512_set1_epi32(bytes);
  }
  static void fetch(const char* p) { _mm_prefetch(p, _MM_HINT_T1); }

  // Four times 16 channels, side by side. Saturates on the way: to int16, by the zero point, to bytes.
  static I rounded(F p0, F p1, F q0, F q1, int32_t zero, int32_t low) {
    const F top = _mm512_set1_ps(32767.0f);
    const auto words = [&](F a, F b) {
      const I both = _mm512_packs_epi32(round(min(a, top)), round(min(b, top)));
      return _mm512_adds_epi16(both, _mm512_set1_epi16(int16_t(zero)));
    };
    const I bytes = _mm512_max_epu8(_mm512_packus_epi16(words(p0, p1), words(q0, q1)), _mm512_set1_epi8(char(low)));
    // Lanes hold four channels each of p0, p1, q0, q1.
    const I order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, bytes);
  }
  static void store_rounded(uint8_t* p, uint8_t* q, F p0, F p1, F q0, F q1, int32_t zero, int32_t low) {
    const I sorted = rounded(p0, p1, q0, q1, zero, low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(sorted));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm512_extracti64x4_epi64(sorted, 1));
  }
  static void store_rounded(uint8_t* const (&to)[kStored], const F (&values)[kStored], int32_t zero, int32_t low) {
    const I sorted = rounded(values[0], values[1], values[2], values[3], zero, low);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to[0]), _mm512_castsi512_si128(sorted));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to[1]), _mm512_extracti32x4_epi32(sorted, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to[2]), _mm512_extracti32x4_epi32(sorted, 2));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to[3]), _mm512_extracti32x4_epi32(sorted, 3));
  }

  static I load_weights(const int8_t* p) { return _mm512_loadu_si512(p); }
  static I dot(I sum, I x, I w) { return _mm512_dpbusd_epi32(sum, x, w); }
  // Of the two products of 16 bits that the instruction adds, the upper is 0.
  static I multiply_add(I sum, I a, I b) { return _mm512_dpwssd_epi32(sum, a, b); }
};

}  // namespace
}  // namespace edge_hands
