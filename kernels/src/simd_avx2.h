// Eight floats in a ymm register; needs AVX2 and FMA. What each function promises stands in simd_scalar.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace edge_hands {
namespace {

alignas(64) const int32_t kLaneMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

struct Avx2 {
  using F = __m256;
  static constexpr int lanes = 8;
  static constexpr int tile = 4;
  static constexpr int registers = 16;

  static __m256i mask(int n) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kLaneMask + 8 - n)); }

  // Shuffles work within 128 bits and leave the middle quarters swapped.
  static F in_order(F v) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8)); }

  static F set(float v) { return _mm256_set1_ps(v); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load(const float* p, int n) { return _mm256_maskload_ps(p, mask(n)); }
  static void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static void store(float* p, F v, int n) {  // in pieces: a masked store takes AMD's CPUs as long as a dozen of these
    if (n == lanes) return store(p, v);
    __m128 part = _mm256_castps256_ps128(v);
    if (n & 4) _mm_storeu_ps(p, part), p += 4, part = _mm256_extractf128_ps(v, 1);
    if (n & 2) _mm_storel_pi(reinterpret_cast<__m64*>(p), part), p += 2, part = _mm_movehl_ps(part, part);
    if (n & 1) _mm_store_ss(p, part);
  }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F fms(F a, F b, F c) { return _mm256_fmsub_ps(a, b, c); }
  static F max(F lo, F v) { return _mm256_max_ps(lo, v); }
  static F min(F hi, F v) { return _mm256_min_ps(hi, v); }
  static F abs(F v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
  static F floor(F v) { return _mm256_floor_ps(v); }
  static F if_negative(F v, F yes, F no) { return _mm256_blendv_ps(no, yes, v); }
  static F if_equal(F a, F b, F v) { return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ), v); }
  static F scale(F p, F, F biased) {
    biased = min(set(12582912.0f + 255.0f), max(set(12582912.0f), biased));
    return mul(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(biased), 23)));
  }
  static void load_pairs(const float* p, int n, F* even, F* odd) {
    const F low = load(p, 2 * n < 8 ? 2 * n : 8), high = load(p + 8, 2 * n < 8 ? 0 : 2 * n - 8);
    *even = in_order(_mm256_shuffle_ps(low, high, 0x88));
    *odd = in_order(_mm256_shuffle_ps(low, high, 0xdd));
  }
  static void store_index(int32_t* p, F v, int n) { _mm256_maskstore_epi32(p, mask(n), _mm256_cvtps_epi32(v)); }
  static F load_int8(const int8_t* p, int n) {
    int64_t bytes = 0;
    std::memcpy(&bytes, p, size_t(n));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(bytes)));
  }
  static void store_int8(int8_t* p, F v, int n) {
    const __m256i q = _mm256_cvtps_epi32(v);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    const int64_t bytes = _mm_cvtsi128_si64(_mm_packs_epi16(words, words));
    std::memcpy(p, &bytes, size_t(n));
  }
  static void sum4(F a, F b, F c, F d, float* out) {
    const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
  }
};

}  // namespace
}  // namespace edge_hands
