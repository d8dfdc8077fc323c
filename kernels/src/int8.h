// int8 to float32 and back, with one scale and zero point.
#pragma once

#include <cstdint>

#include "edge_hands/scan.h"

namespace edge_hands {
namespace {

// real = scale (q - zero_point), of n int8.
template <class S>
typename S::F dequantize(const int8_t* in, const Quantization& q, int n) {
  return S::fma(S::load_int8(in, n), S::set(q.scale), S::set(-q.scale * float(q.zero_point)));
}

// q = round(real / scale + zero_point), saturated, n of them; NaN gives -128.
template <class S>
void quantize(int8_t* out, typename S::F real, const Quantization& q, int n) {
  const auto v = S::fma(real, S::set(1.0f / q.scale), S::set(float(q.zero_point)));
  // max and min return their second argument when one is NaN: here the bound.
  S::store_int8(out, S::min(S::max(v, S::set(-128.0f)), S::set(127.0f)), n);
}

}  // namespace
}  // namespace edge_hands
