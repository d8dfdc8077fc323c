// What the kernels are measured against, compiled by the benchmarks themselves: a plain scalar scan, the gather of the
// deformable scan as a kernel of its own, and the core's peak. C functions, called through ctypes.
#include <chrono>
#include <cmath>
#include <cstdint>
#include <vector>

#include "deform.h"
#include "tiles.h"
#if defined(__AVX512F__)
#include "simd_avx512.h"
using Best = edge_hands::Avx512;
#elif defined(__AVX2__)
#include "simd_avx2.h"
using Best = edge_hands::Avx2;
#elif defined(__ARM_NEON)
#include "simd_neon.h"
using Best = edge_hands::Neon;
#endif

using namespace edge_hands;

// One image, written as a scan usually is: a loop over channels and states around libm's expf, each channel over all
// tokens (the shape of ggml's ssm_scan; own code).
extern "C" void plain_scan(int64_t length, int64_t channels, int64_t states, const float* x, const float* delta,
                           const float* A, const float* B, const float* C, const float* D, float* h, float* y) {
  for (int64_t t = 0; t < length; ++t)
    for (int64_t d = 0; d < channels; ++d) {
      const float v = delta[t * channels + d], dt = v <= 20.0f ? log1pf(expf(v)) : v;
      const float in = x[t * channels + d] * dt;
      float sum = 0.0f;
      for (int64_t n = 0; n < states; ++n) {
        const float state = h[d * states + n] * expf(dt * A[d * states + n]) + B[t * states + n] * in;
        sum += state * C[t * states + n];
        h[d * states + n] = state;
      }
      y[t * channels + d] = sum + D[d] * x[t * channels + d];
    }
}

// sampled (L, D) = sum_k w_k x(p + a_k + o_k): what a library without the fused scan would run before a selective one.
extern "C" void gather_only(int64_t height, int64_t width, int64_t channels, int64_t groups, int64_t points,
                            const float* x, const float* offset, const float* weight, float* sampled) {
  Scan scan;
  scan.height = height, scan.width = width, scan.groups = groups, scan.points = points, scan.channels = channels;
  const int64_t total = groups * points, per_group = channels / groups;
  std::vector<float> anchors(2 * total), factor(4 * total);
  std::vector<int32_t> index(4 * total);
  make_anchors(scan, anchors.data());
  for (int64_t t = 0; t < height * width; ++t) {
    const Taps taps{index.data(), factor.data()};
    make_taps<Best>(scan, t, {total, anchors.data(), offset + t * 2 * total, weight + t * total}, channels, taps);
    for (int64_t group = 0; group < groups; ++group)
      for_tiles<Best, Best::registers / 8>(group * per_group, (group + 1) * per_group, [&](auto tile) {
        constexpr int vectors = decltype(tile)::vectors;
        Best::F s[vectors];
        const auto load = [&](const float* at, int u) {
          return vectors == 1 ? Best::load(at, tile.count) : Best::load(at + u * Best::lanes);
        };
        gather<Best, vectors>({taps.index + group * points, taps.factor + group * points}, points, total,
                              x + tile.channel, load, s);
        for (int u = 0; u < vectors; ++u) tile.store(sampled + t * channels, u, s[u]);
      });
  }
}

// Fused multiply-adds of the widest vectors a second, as float operations, from registers: twelve chains of them.
extern "C" double peak_flops() {
  constexpr int chains = 12;
  constexpr int64_t rounds = 4'000'000;
  Best::F v[chains], factor = Best::set(0.9999f), plus = Best::set(1e-4f);
  for (auto& chain : v) chain = Best::set(1.0f);
  const auto begun = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) v[c] = Best::fma(v[c], factor, plus);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  float kept[Best::lanes];
  Best::F sum = v[0];
  for (int c = 1; c < chains; ++c) sum = Best::add(sum, v[c]);
  Best::store(kept, sum);
  return kept[0] > 1e30f ? 0.0 : 2.0 * chains * Best::lanes * double(rounds) / seconds;
}
