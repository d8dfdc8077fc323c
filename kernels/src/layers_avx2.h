// Sixteen lanes in two ymm registers; needs AVX2 and FMA. layers_scalar.h says what each function promises.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "edge_hands/layers.h"
#include "simd_avx2.h"

namespace edge_hands {
namespace {

struct Avx2Layers {
  static constexpr int kRows = 6, kVectors = 1, kInputs = 2, kStored = 2;  // sums in 12 of 16 registers
  static constexpr int kNarrow = 8;
  static constexpr bool kUnrolled = false, kWinograd = true;  // unrolled, GCC keeps sums twice
  using Input = int16_t;  // bytes are made words: AVX2 adds the products of bytes in 16 bits, which are too few
  using Weight = int16_t;

  struct I {
    __m256i a, b;
  };
  struct F {
    __m256 a, b;
  };
  using W = I;

  static I set(int32_t v) { return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }
  static F set(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
  static I load(const int32_t* p) { return {load_half(p), load_half(p + 8)}; }
  static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F load(const float* p, int count) {
    if (count == 16) return load(p);
    return {Avx2::load(p, low(count)), Avx2::load(p + 8, count - low(count))};
  }
  static I load_bytes(const uint8_t* p, int) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(bytes, bytes))};
  }
  static void store(float* p, F v, int count) {
    if (count == 16) return _mm256_storeu_ps(p, v.a), _mm256_storeu_ps(p + 8, v.b);
    Avx2::store(p, v.a, low(count));
    Avx2::store(p + 8, v.b, count - low(count));
  }
  static void store_bytes(uint8_t* p, I v, int count) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.a, v.b), 0xd8);
    __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    if (count == 16) return _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
    if (count & 8) _mm_storel_epi64(reinterpret_cast<__m128i*>(p), bytes), p += 8, bytes = _mm_srli_si128(bytes, 8);
    for (uint64_t rest = uint64_t(_mm_cvtsi128_si64(bytes)), i = count & 7; i; --i, rest >>= 8) *p++ = uint8_t(rest);
  }

  static I add(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
  static F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static I subtract(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
  static F subtract(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static I multiply(I x, I y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
  static F multiply(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
  static I max(I x, I y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
  static F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static I shift_right(I v, int bits) { return {_mm256_srai_epi32(v.a, bits), _mm256_srai_epi32(v.b, bits)}; }
  static F to_float(I v) { return {_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }
  static I round(F v) { return {_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)}; }

  static void fetch(const char* p) { _mm_prefetch(p, _MM_HINT_T1); }

  // Two pixels.
  static void store_rounded(uint8_t* const (&to)[kStored], const F (&values)[kStored], int32_t zero, int32_t low) {
    const __m256i sorted = rounded(values[0], values[1], zero, low);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to[0]), _mm256_castsi256_si128(sorted));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to[1]), _mm256_extracti128_si256(sorted, 1));
  }

  // What the inner loops need, with sums in one register: of a layer with no more channels, two would be half empty.
  struct Narrow {
    static constexpr int kRows = 8, kInputs = Avx2Layers::kInputs;
    static constexpr bool kUnrolled = Avx2Layers::kUnrolled;
    using Input = Avx2Layers::Input;
    using Weight = Avx2Layers::Weight;
    using I = __m256i;
    using W = __m256i;
    static I load(const int32_t* p) { return load_half(p); }
    static W load_weights(const Weight* p) { return load_half(p); }
    static __m256i broadcast(const Input* p) { return Avx2Layers::broadcast(p); }
    static I dot(I sum, __m256i x, W w) { return Avx2Layers::dot(sum, x, w); }

    using F = __m256;
    static F set(float v) { return _mm256_set1_ps(v); }
    static F load(const float* p) { return _mm256_loadu_ps(p); }
    static F fma(F x, F y, F z) { return _mm256_fmadd_ps(x, y, z); }
    static F max(F x, F y) { return _mm256_max_ps(x, y); }
    static void store(float* p, F v, int count) { Avx2::store(p, v, count); }
  };
  static I widened(__m256i narrow) { return {narrow, _mm256_setzero_si256()}; }
  // As above, of kNarrow channels of four pixels.
  static void store_rounded(uint8_t* const (&to)[4], const __m256i (&sums)[4], const float* scale, int32_t zero,
                            int32_t low) {
    const __m256 by = _mm256_loadu_ps(scale);
    const auto two = [&](__m256i x, __m256i y) { return multiply(to_float(I{x, y}), F{by, by}); };
    const __m256i sorted = rounded(two(sums[0], sums[1]), two(sums[2], sums[3]), zero, low);
    const __m128i first = _mm256_castsi256_si128(sorted), second = _mm256_extracti128_si256(sorted, 1);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to[0]), first);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to[1]), _mm_unpackhi_epi64(first, first));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to[2]), second);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to[3]), _mm_unpackhi_epi64(second, second));
  }

  static size_t inputs_bytes(const Bytes& map) {
    return size_t(map.height + 2 * map.border) * size_t(map.pitch()) * sizeof(Input) + kLayerSlack;
  }
  static const Input* inputs(const Bytes& map, void* memory) {
    const int64_t edge = map.border * (map.pitch() + map.channels), count = (map.height + 2 * map.border) * map.pitch();
    auto* words = static_cast<Input*>(memory);
    for (int64_t i = 0; i < count; i += 16) store_words(words + i, load_words(map.data - edge + i));
    return words + edge;
  }
  static __m256i broadcast(const Input* p) {
    int32_t two;
    std::memcpy(&two, p, 4);
    return _mm256_set1_epi32(two);
  }
  static W load_weights(const Weight* p) { return {load_half(p), load_half(p + 16)}; }
  static I dot(I sum, __m256i x, W w) { return {dot(sum.a, x, w.a), dot(sum.b, x, w.b)}; }
  static I multiply_add(I sum, I x, I y) {  // of the two products of 16 bits that the instruction adds, the upper is 0
    return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(x.a, y.a)), _mm256_add_epi32(sum.b, _mm256_madd_epi16(x.b, y.b))};
  }

  // For layers_winograd.h: sixteen words.
  using Words = __m256i;
  static Words load_words(const uint8_t* p) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void store_words(int16_t* p, Words v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  static Words add_words(Words x, Words y) { return _mm256_add_epi16(x, y); }
  static Words subtract_words(Words x, Words y) { return _mm256_sub_epi16(x, y); }
  static void store(int32_t* p, I v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), v.b);
  }

 private:
  // Four times eight values as bytes, side by side. Saturates on the way: to int16, by the zero point, to bytes.
  static __m256i rounded(F x, F y, int32_t zero, int32_t low) {
    const auto words = [&](F v) {
      const I whole = round(min(v, set(32767.0f)));
      return _mm256_adds_epi16(_mm256_packs_epi32(whole.a, whole.b), _mm256_set1_epi16(int16_t(zero)));
    };
    const __m256i bytes = _mm256_max_epu8(_mm256_packus_epi16(words(x), words(y)), _mm256_set1_epi8(char(low)));
    // Half a register holds half of each eight.
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }
  static int low(int count) { return count < 8 ? count : 8; }
  static __m256i load_half(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static __m256i dot(__m256i sum, __m256i x, __m256i w) {
    // As one, in place: left to itself, GCC begins with all the products and then has no registers for the sums.
    __m256i product;
    asm("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(w), "x"(x));
    return sum;
  }
};

}  // namespace
}  // namespace edge_hands
