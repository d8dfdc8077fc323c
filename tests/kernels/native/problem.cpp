#include "problem.h"

const std::vector<Case>& all_cases() {
  static const std::vector<Case> cases = {
      {"no_images", 0, 2, 3, 8, 4},
      {"no_states", 2, 2, 3, 21, 0, 3},
      {"empty", 2, 0, 5, 8, 4},
      {"one_token", 1, 1, 1, 8, 1, 1, 1},
      {"one_channel", 3, 4, 3, 1, 8},
      {"no_full_vector", 2, 5, 3, 7, 3, 7, 25},
      {"partial_groups", 3, 3, 7, 20, 5, 4},
      {"tile_and_rest", 2, 6, 5, 70, 4, 2},
      {"many_states", 1, 4, 4, 24, 33, 3},
      {"one_row", 1, 1, 19, 40, 8, 5},
      {"far_outside", 2, 4, 4, 16, 4, 2, 9, 1e6f},
      {"geometric", 2, 4, 5, 75, 8, 3, 9, 1.5f, Rates::kGeometric},
      {"geometric_hard", 1, 8, 8, 37, 16, 1, 9, 1.5f, Rates::kGeometric, true},
      {"mixed_rates", 1, 3, 4, 96, 6, 2, 9, 1.5f, Rates::kMixed},
      {"split_for_cache", 1, 3, 3, 420, 16, 3},
      {"edge_stage3", 1, 8, 8, 128, 8, 4},
      {"hard", 1, 16, 16, 24, 16, 3, 9, 1.5f, Rates::kGeneral, true},
  };
  return cases;
}

namespace {

float rate(const Case& c, int64_t channel, int64_t n, float a, float other) {
  const bool geometric = c.rates == Rates::kGeometric || (c.rates == Rates::kMixed && channel < 32);
  return -float(n + 1) * (geometric ? a : other);
}

}  // namespace

Problem::Problem(const Case& c, Place where)
    : sizes(c),
      place(where),
      x(c.batch * c.length() * c.channels, place),
      delta(x.size(), place),
      A(c.channels * c.states, place),
      B(c.batch * c.length() * c.states, place),
      C(B.size(), place),
      D(c.channels, place),
      offset(c.batch * c.length() * c.groups * c.points * 2, place),
      weight(offset.size() / 2, place),
      state(c.batch * c.channels * c.states, place),
      grad_y(x.size(), place),
      x_int8(x.size(), place) {
  Numbers random(20251120);
  for (float& v : x) v = random.normal();
  for (float& v : delta) v = c.hard ? 4.0f * random.normal() : 1.5f * random.normal() - 3.0f;
  for (int64_t d = 0; d < c.channels; ++d) {
    const float a = random.uniform(0.5f, 1.5f);
    for (int64_t n = 0; n < c.states; ++n) A[d * c.states + n] = rate(c, d, n, a, random.uniform(0.5f, 1.5f));
  }
  for (Floats* array : {&B, &C, &D, &state, &grad_y})
    for (float& v : *array) v = random.normal();
  for (float& v : offset) v = c.reach * random.normal();
  for (float& v : weight) v = 0.3333f * random.normal();
  for (int8_t& v : x_int8) v = int8_t(int32_t(random.bits() >> 24) - 128);
}

edge_hands::Scan Problem::scan(bool deformable, bool with_state) const {
  edge_hands::Scan s;
  s.batch = sizes.batch, s.length = sizes.length(), s.channels = sizes.channels, s.states = sizes.states;
  s.x = x.data(), s.delta = delta.data(), s.A = A.data(), s.B = B.data(), s.C = C.data(), s.D = D.data();
  if (with_state) s.state = state.data();
  if (!deformable) return s;
  s.height = sizes.height, s.width = sizes.width, s.groups = sizes.groups, s.points = sizes.points;
  s.offset = offset.data(), s.weight = weight.data();
  return s;
}

edge_hands::Scan Problem::scan_int8(bool deformable, bool with_state) const {
  edge_hands::Scan s = scan(deformable, with_state);
  s.x = nullptr, s.x_int8 = x_int8.data(), s.x_quantization = x_quantization;
  return s;
}
