// The selective and the deformable scan, forward and backward, on raw pointers. No framework, no global state.
//
//   dt_t  = softplus(delta_t)
//   h_t   = exp(dt_t A) h_{t-1} + dt_t B_t s_t         one state per channel and n
//   y_t   = sum_n C_t h_t + D x_t
//
//   s_t   = x_t                                        selective scan (points == 0)
//   s_t   = sum_k w_{t,k} x(p_t + a_k + o_{t,k})       deformable scan; bilinear, zero outside the image
//
// All arrays are C-contiguous, channels last, and float32 but for x and y, which may be int8. b batch, L tokens,
// D channels, N states, G groups, K points of a group, P = G K. Channel d belongs to group d / (D / G).
//
//   x, delta, y  (b, L, D)        A  (D, N)        D  (D)        B, C  (b, L, N)        state  (b, D, N)
//   offset       (b, L, G, K, 2)  (dy, dx) in pixels
//   weight       (b, L, G, K)
//
// Token t lies at p_t = (t / width, t % width). The anchors a_k are the n x n grid around it, row-major, n = sqrt(K).
//
// int8 x and y stand for scale * (q - zero_point); all arithmetic stays float32, and y is rounded to the nearest even
// and saturated. Where every A[d][n] equals (n + 1) A[d][0] within 1e-6 (relative), one exp per token and channel is
// taken and multiplied up instead of N.
//
// Finite inputs give finite outputs unless a product overflows. Denormal numbers, read or made, count as 0. Infinity and
// NaN follow IEEE arithmetic into what depends on them, except that a point whose offset is NaN samples nothing, and that
// an int8 y from NaN is -128. No input reads or writes out of bounds.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edge_hands {

// What an int8 value q stands for: scale * (q - zero_point).
struct Quantization {
  float scale = 1.0f;
  int32_t zero_point = 0;
};

struct Scan {
  int64_t batch = 0, length = 0, channels = 0, states = 0;
  int64_t height = 0, width = 0, groups = 1, points = 0;  // points == 0: no deformation, height and width unused
  const float *x = nullptr, *delta = nullptr, *A = nullptr, *B = nullptr, *C = nullptr, *D = nullptr;
  const float *offset = nullptr, *weight = nullptr;
  const float* state = nullptr;  // h before the first token; null: 0
  const int8_t* x_int8 = nullptr;  // in place of x
  Quantization x_quantization;
};

// Where a forward scan writes: one of y and y_int8, and the state after the last token unless null.
struct ScanOutput {
  float* y = nullptr;
  int8_t* y_int8 = nullptr;
  Quantization y_quantization;
  float* state = nullptr;  // may be the Scan's own: streaming in place
};

// Gradients of every input, each of the input's shape; offset and weight only for the deformable scan.
struct ScanGradients {
  float *x = nullptr, *delta = nullptr, *A = nullptr, *B = nullptr, *C = nullptr, *D = nullptr;
  float *offset = nullptr, *weight = nullptr;
};

struct Row;  // one instruction set's kernels, see rows.h

// Work is split over the batch, and over channels when there are more threads than images.
// Throws std::bad_alloc when there is no memory for the workspace.
void scan_forward(const Row& row, const Scan& scan, const ScanOutput& output, int threads);

// Gradients of sum(y * grad_y), for float32 x and no initial state. States are recomputed; the memory for that is 2 L N 32 floats per thread. Work is split
// over the batch; the sums over it are taken in one order for one thread count.
void scan_backward(const Row& row, const Scan& scan, const float* grad_y, const ScanGradients& gradients, int threads);

}  // namespace edge_hands
