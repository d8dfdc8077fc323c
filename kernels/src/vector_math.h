// exp2, softplus and sigmoid on a row's vectors. Measured against float64 in tests/kernels/test_math.py:
//
//   exp2_product       relative error <= 2e-7 on [-126, 127]; 0 from -127 down, inf from 128.5 up, exactly 1 at 0
//   softplus, sigmoid  relative error <= 1.5e-6 for |v| <= 80; <= 5e-6 where fma is not fused
#pragma once

// For the steps of the passes, which are short: a call, and constants loaded anew in it, would weigh.
#define EDGE_HANDS_INLINE __attribute__((always_inline)) inline

namespace edge_hands {
namespace {

constexpr float kLog2e = 1.44269504088896341f;
constexpr float kLn2 = 0.69314718055994531f;

// How exact an exp2 is asked for: kFull as above; kCoarse within 1e-4, enough where the result becomes an int8. Its error
// grows with |r|, so that the decays near 1, which many tokens multiply up, are hardly touched.
enum class Precision { kFull, kCoarse };

// Where a factor of an exponent is cut off: the power is 0, or infinite, long before. Their product's last bit, which
// the polynomial takes to the fifth power, must leave that finite: 8e14 / 2^23 does.
constexpr float kMaxStep = 1e7f, kMaxRate = 8e7f;

// 2^(a b) for finite a b. z = a b is never rounded: k = round(z), r = z - k with |r| <= 1/2, and 2^z = 2^k 2^r by the
// relative minimax polynomial with p(0) = 1. For |z| beyond 2^22 r is only some number small enough to keep p finite,
// which the scaling by 2^k turns to 0, or to infinity or NaN when z > 0.
template <class S, Precision precision = Precision::kFull>
typename S::F exp2_product(typename S::F a, typename S::F b) {
  using F = typename S::F;
  const F magic = S::set(12582912.0f + 127.0f);  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  const F biased = S::fma(a, b, magic);
  const F k = S::sub(biased, magic);
  const F r = S::fms(a, b, k);
  F p;
  if constexpr (precision == Precision::kFull) {
    p = S::set(1.326472731307149e-3f);
    p = S::fma(p, r, S::set(9.671512991189957e-3f));
    p = S::fma(p, r, S::set(5.550733581185341e-2f));
    p = S::fma(p, r, S::set(2.4022242426872253e-1f));
    p = S::fma(p, r, S::set(6.931470036506653e-1f));
  } else {
    p = S::set(5.500893294811249e-2f);
    p = S::fma(p, r, S::set(2.422109693288803e-1f));
    p = S::fma(p, r, S::set(6.932829022407532e-1f));
  }
  p = S::fma(p, r, S::set(1.0f));
  return S::scale(p, k, biased);
}

// exp(-|v|), in (0, 1].
template <class S>
typename S::F exp_negative(typename S::F v) {
  return exp2_product<S>(S::min(S::set(1e4f), S::abs(v)), S::set(-kLog2e));
}

// log(1 + e^v) = max(v, 0) + log1p(e), from v and e = exp(-|v|) in (0, 1]; log1p(e) / e is a minimax polynomial, so that
// small e keep their relative accuracy and nothing is divided. Its even and odd powers are summed apart: half the wait.
template <class S>
typename S::F softplus(typename S::F v, typename S::F e) {
  using F = typename S::F;
  const F u = S::mul(e, e);
  F even = S::set(5.232694558799267e-3f), odd = S::set(-2.950524352490902e-2f);
  even = S::fma(even, u, S::set(7.822596281766891e-2f));
  odd = S::fma(odd, u, S::set(-1.3663247227668762e-1f));
  even = S::fma(even, u, S::set(1.9106008112430573e-1f));
  odd = S::fma(odd, u, S::set(-2.484298199415207e-1f));
  even = S::fma(even, u, S::set(3.331909775733948e-1f));
  odd = S::fma(odd, u, S::set(-4.999949336051941e-1f));
  even = S::fma(even, u, S::set(9.999999403953552e-1f));
  return S::fma(S::fma(odd, e, even), e, S::max(S::set(0.0f), v));
}

template <class S>
typename S::F softplus(typename S::F v) {
  return softplus<S>(v, exp_negative<S>(v));
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
