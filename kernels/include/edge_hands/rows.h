// The table of kernel rows, one per instruction set. Dispatch, tests and benchmarks all read this one table: a row that
// is added to it is chosen, tested and measured without further ado.
#pragma once

#include <cstddef>
#include <cstdint>

#include "edge_hands/scan.h"

namespace edge_hands {

struct LayerKernels;  // layers.h

struct Row {
  const char* name;
  int lanes;
  bool (*supported)();  // by the CPU this runs on

  // One image, channels [begin, end); work holds forward_floats(...) floats, 64-byte aligned.
  size_t (*forward_floats)(const Scan& scan, int64_t begin, int64_t end);
  void (*forward)(const Scan& scan, const ScanOutput& output, int64_t image, int64_t begin, int64_t end, float* work);

  // One image, all channels. grad_A (D, N) and grad_D (D) are added to, the rest of `gradients` is written.
  size_t (*backward_floats)(const Scan& scan);
  void (*backward)(const Scan& scan, int64_t image, const float* grad_y, const ScanGradients& gradients, float* grad_A,
                   float* grad_D, float* work);

  // The row's elementary functions, elementwise over n values, so that their accuracy can be tested alone.
  void (*exp2)(const float* in, float* out, int64_t n);
  void (*softplus)(const float* in, float* out, int64_t n);
  void (*sigmoid)(const float* in, float* out, int64_t n);

  // int8 layers; null where the row has none or this CPU lacks what they need.
  const LayerKernels* (*layers)();
};

// All rows of this build, slowest first.
struct Rows {
  const Row* const* first;
  size_t count;
};
Rows all_rows();

// The row called `name`; with nullptr or "" the one named by EDGE_HANDS_ISA, else the last one this CPU supports.
// Throws std::invalid_argument when there is no such row or the CPU cannot run it.
const Row& find_row(const char* name);

}  // namespace edge_hands
