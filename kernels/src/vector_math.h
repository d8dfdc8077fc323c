// exp2, softplus and sigmoid on a row's vectors. Measured against float64 in tests/kernels/test_math.py:
//
//   exp2               relative error <= 2e-7 on [-126, 127]; 0 from -127 down, inf from 127.5 up, exactly 1 at 0
//   softplus, sigmoid  relative error <= 7e-7 for |v| <= 10, <= 4e-6 for |v| <= 80
#pragma once

namespace edge_hands {
namespace {

constexpr float kLog2e = 1.44269504088896341f;
constexpr float kLn2 = 0.69314718055994531f;

// 2^z = 2^k 2^r with k = round(z), |r| <= 1/2; the polynomial is the relative minimax one with p(0) = 1.
template <class S>
typename S::F exp2(typename S::F z) {
  using F = typename S::F;
  const F magic = S::set(12582912.0f + 127.0f);  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  z = S::min(S::set(128.0f), S::max(S::set(-127.0f), z));
  const F k = S::add(z, magic);
  const F r = S::sub(z, S::sub(k, magic));
  F p = S::set(1.326472731307149e-3f);
  p = S::fma(p, r, S::set(9.671512991189957e-3f));
  p = S::fma(p, r, S::set(5.550733581185341e-2f));
  p = S::fma(p, r, S::set(2.4022242426872253e-1f));
  p = S::fma(p, r, S::set(6.931470036506653e-1f));
  p = S::fma(p, r, S::set(1.0f));
  return S::mul(p, S::exponent(k));
}

// exp(-|v|), in (0, 1].
template <class S>
typename S::F exp_negative(typename S::F v) {
  return exp2<S>(S::mul(S::abs(v), S::set(-kLog2e)));
}

// log(1 + e^v) = max(v, 0) + log1p(e), e = exp(-|v|); log1p(e) = 2 atanh(q), q = e / (2 + e) <= 1/3, keeps its relative
// accuracy for small e, where a plain log(1 + e) would lose it.
template <class S>
typename S::F softplus(typename S::F v) {
  using F = typename S::F;
  const F e = exp_negative<S>(v);
  const F q = S::div(e, S::add(e, S::set(2.0f)));
  const F u = S::mul(q, q);
  F p = S::set(2.801198661327362e-1f);
  p = S::fma(p, u, S::set(2.800180614e-1f));
  p = S::fma(p, u, S::set(4.002152681e-1f));
  p = S::fma(p, u, S::set(6.666641831e-1f));
  p = S::fma(p, u, S::set(2.0f));
  return S::fma(p, q, S::max(S::set(0.0f), v));
}

// 1 / (1 + e^-v), the derivative of softplus.
template <class S>
typename S::F sigmoid(typename S::F v) {
  using F = typename S::F;
  const F e = exp_negative<S>(v), one = S::set(1.0f);
  return S::div(S::if_negative(v, e, one), S::add(e, one));
}

}  // namespace
}  // namespace edge_hands
