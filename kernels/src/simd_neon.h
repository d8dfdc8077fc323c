// Four floats in a NEON register; part of every ARMv8-A. What each function promises stands in simd_scalar.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace edge_hands {
namespace {

struct Neon {
  using F = float32x4_t;
  static constexpr int lanes = 4;
  static constexpr int tile = 4;
  static constexpr int registers = 32;

  static F set(float v) { return vdupq_n_f32(v); }
  static F load(const float* p) { return vld1q_f32(p); }
  static F load(const float* p, int n) {
    if (n == lanes) return load(p);
    float padded[lanes] = {};
    for (int i = 0; i < n; ++i) padded[i] = p[i];
    return load(padded);
  }
  static void store(float* p, F v) { vst1q_f32(p, v); }
  static void store(float* p, F v, int n) {
    if (n == lanes) return store(p, v);
    float padded[lanes];
    store(padded, v);
    for (int i = 0; i < n; ++i) p[i] = padded[i];
  }
  static F add(F a, F b) { return vaddq_f32(a, b); }
  static F sub(F a, F b) { return vsubq_f32(a, b); }
  static F mul(F a, F b) { return vmulq_f32(a, b); }
  static F div(F a, F b) { return vdivq_f32(a, b); }
  static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static F fms(F a, F b, F c) { return vfmaq_f32(vnegq_f32(c), a, b); }
  // A compare and a select each, as x86 has it: fmax would turn a NaN in `lo`, and -0 against 0, the other way.
  static F max(F lo, F v) { return vbslq_f32(vcgtq_f32(lo, v), lo, v); }
  static F min(F hi, F v) { return vbslq_f32(vcltq_f32(hi, v), hi, v); }
  static F abs(F v) { return vabsq_f32(v); }
  static F floor(F v) { return vrndmq_f32(v); }
  static F if_negative(F v, F yes, F no) {
    return vbslq_f32(vreinterpretq_u32_s32(vshrq_n_s32(vreinterpretq_s32_f32(v), 31)), yes, no);
  }
  static F if_equal(F a, F b, F v) {
    return vreinterpretq_f32_u32(vandq_u32(vceqq_f32(a, b), vreinterpretq_u32_f32(v)));
  }
  static F scale(F p, F, F biased) {
    biased = vminq_f32(set(12582912.0f + 255.0f), vmaxq_f32(set(12582912.0f), biased));  // a NaN is p's too
    return mul(p, vreinterpretq_f32_s32(vshlq_n_s32(vreinterpretq_s32_f32(biased), 23)));
  }
  static void load_pairs(const float* p, int n, F* even, F* odd) {
    if (n == lanes) {
      const float32x4x2_t pairs = vld2q_f32(p);
      *even = pairs.val[0], *odd = pairs.val[1];
      return;
    }
    float y[lanes] = {}, x[lanes] = {};
    for (int i = 0; i < n; ++i) y[i] = p[2 * i], x[i] = p[2 * i + 1];
    *even = load(y), *odd = load(x);
  }
  static void store_index(int32_t* p, F v, int n) {
    int32_t index[lanes];
    vst1q_s32(index, vcvtnq_s32_f32(v));
    for (int i = 0; i < n; ++i) p[i] = index[i];
  }
  static F load_int8(const int8_t* p, int n) {
    int8_t padded[8] = {};
    std::memcpy(padded, p, size_t(n));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vld1_s8(padded)))));
  }
  static void store_int8(int8_t* p, F v, int n) {
    const int16x4_t q = vmovn_s32(vcvtnq_s32_f32(v));
    int8_t padded[8];
    vst1_s8(padded, vmovn_s16(vcombine_s16(q, q)));
    std::memcpy(p, padded, size_t(n));
  }
  static void sum4(F a, F b, F c, F d, float* out) { vst1q_f32(out, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d))); }
};

}  // namespace
}  // namespace edge_hands
