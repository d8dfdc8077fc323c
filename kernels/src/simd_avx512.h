// Sixteen floats in a zmm register; needs AVX-512 F, BW, DQ and VL. What each function promises stands in simd_scalar.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace edge_hands {
namespace {

struct Avx512 {
  using F = __m512;
  static constexpr int lanes = 16;
  static constexpr int tile = 4;
  static constexpr int registers = 32;

  static __mmask16 first(int n) { return __mmask16((1u << n) - 1); }

  static F set(float v) { return _mm512_set1_ps(v); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static void store(float* p, F v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F fms(F a, F b, F c) { return _mm512_fmsub_ps(a, b, c); }
  static F max(F lo, F v) { return _mm512_max_ps(lo, v); }
  static F min(F hi, F v) { return _mm512_min_ps(hi, v); }
  static F abs(F v) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), v); }
  static F floor(F v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  static F if_negative(F v, F yes, F no) {
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(v)), no, yes);
  }
  static F if_equal(F a, F b, F v) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), v); }
  static F scale(F p, F k, F) { return _mm512_scalef_ps(p, k); }
  static void load_pairs(const float* p, int n, F* even, F* odd) {
    const F low = load(p, 2 * n < 16 ? 2 * n : 16), high = load(p + 16, 2 * n < 16 ? 0 : 2 * n - 16);
    const __m512i at = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *even = _mm512_permutex2var_ps(low, at, high);
    *odd = _mm512_permutex2var_ps(low, _mm512_add_epi32(at, _mm512_set1_epi32(1)), high);
  }
  static void store_index(int32_t* p, F v, int n) { _mm512_mask_storeu_epi32(p, first(n), _mm512_cvtps_epi32(v)); }
  static F load_int8(const int8_t* p, int n) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first(n), p)));
  }
  static void store_int8(int8_t* p, F v, int n) {
    _mm_mask_storeu_epi8(p, first(n), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
  }
  static void sum4(F a, F b, F c, F d, float* out) {
    const auto half = [](F v) { return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)); };
    const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(half(a), half(b)), _mm256_hadd_ps(half(c), half(d)));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
  }
};

}  // namespace
}  // namespace edge_hands
