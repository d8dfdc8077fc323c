// From a vector type to a row of the table. Each instruction set's file includes its vector type and this.
#pragma once

#include "denormals.h"
#include "edge_hands/rows.h"
#include "scan_backward.h"
#include "scan_forward.h"
#include "vector_math.h"

namespace edge_hands {
namespace {

template <class S, typename S::F (*function)(typename S::F)>
void map(const float* in, float* out, int64_t n) {
  const FlushDenormals mode;
  for (int64_t i = 0; i < n; i += S::lanes) {
    const int count = n - i < S::lanes ? int(n - i) : S::lanes;
    S::store(out + i, function(S::load(in + i, count)), count);
  }
}

template <class S>
typename S::F exp2(typename S::F z) {
  return exp2_product<S>(S::min(S::set(1e4f), S::max(S::set(-1e4f), z)), S::set(1.0f));
}

inline const LayerKernels* no_layers() { return nullptr; }

template <class S>
constexpr Row make_row(const char* name, bool (*supported)(), const LayerKernels* (*layers)() = no_layers) {
  return {name,
          S::lanes,
          supported,
          forward_floats<S>,
          forward<S>,
          backward_floats<S>,
          backward<S>,
          map<S, exp2<S>>,
          map<S, softplus<S>>,
          map<S, sigmoid<S>>,
          layers};
}

}  // namespace
}  // namespace edge_hands
