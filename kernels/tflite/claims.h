// Which nodes of a model the delegate takes: its scans always; int8 layers, and what lies between them, where it has kernels
// for them.
#pragma once

#include <vector>

#include "graph.h"

namespace edge_hands::tflite {

// For every node of the graph whether it is taken. ``Program`` knows how to run each that is.
std::vector<bool> claimed_nodes(const Graph& graph, bool layers);

// How much a padding operator, of int8, adds on each side of the image; -1 if it is not one and the same.
int padding_of(const Graph& graph, const Node& pad);
// What a convolution that is taken has on each side of its image, a padding operator before it not counted.
int own_padding(const Graph& graph, const Node& convolution);
// The tensor that a transpose there and back hands on; -1 if this is no such way back.
int transposed_back(const Graph& graph, const Node& transpose);
// x factor - shift, of a whole tensor, rounded to int8: a product and a difference before a quantize operator.
struct Affine {
  const Node *product = nullptr, *difference = nullptr;
  float factor = 1.0f, shift = 0.0f;
  explicit operator bool() const { return product != nullptr; }
};
Affine affine_before(const Graph& graph, const Node& quantize);

}  // namespace edge_hands::tflite
