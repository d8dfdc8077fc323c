// Problem sizes and their inputs. The inputs come from whole numbers alone, so that every machine has the same bits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "edge_hands/scan.h"
#include "guarded.h"

enum class Rates { kGeneral, kGeometric, kMixed };  // A: any; -(n + 1) a_d; the latter for channels below 32 only

struct Case {
  const char* name;
  int64_t batch, height, width, channels, states, groups = 1, points = 9;
  float reach = 1.5f;  // standard deviation of the offsets, pixels
  Rates rates = Rates::kGeneral;
  bool hard = false;  // steps softplus(4 randn), from 0 to about 15

  int64_t length() const { return height * width; }
};

// Sizes that a kernel gets wrong first (those of kernels/cases.py, and what a raw caller may also ask for), the rates
// that take another path, and two blocks of the networks.
const std::vector<Case>& all_cases();

// The same numbers on every machine: a 64-bit linear congruential generator and exact conversions.
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed * 2 + 1) {}
  uint32_t bits() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return uint32_t(state_ >> 32);
  }
  float uniform(float low, float high) { return low + (high - low) * (float(bits() >> 8) * 0x1p-24f); }
  float normal() {  // nearly: a sum of four uniform numbers, of variance 1
    int32_t sum = -131070;
    for (int i = 0; i < 4; ++i) sum += int32_t(bits() >> 16);
    return float(sum) * (1.0f / 37837.0f);
  }

 private:
  uint64_t state_;
};

struct Problem {
  Problem(const Case& c, Place place);

  // The call's arguments; the selective scan leaves offsets and weights out.
  edge_hands::Scan scan(bool deformable, bool with_state = true) const;
  edge_hands::Scan scan_int8(bool deformable, bool with_state = true) const;

  Case sizes;
  Place place;
  Floats x, delta, A, B, C, D, offset, weight, state, grad_y;
  Bytes x_int8;
  edge_hands::Quantization x_quantization{0.031f, -7};
};
