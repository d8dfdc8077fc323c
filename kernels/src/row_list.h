// The rows that exist. A new one is declared here, listed in rows.cpp and built in CMakeLists.txt.
#pragma once

#include "edge_hands/rows.h"

namespace edge_hands {

extern const Row kRowScalar;
extern const Row kRowAvx2;
extern const Row kRowAvx512;
extern const Row kRowNeon;

const LayerKernels* avx2_layers();
const LayerKernels* avx512_layers();  // AVX2's where the CPU has no VNNI

}  // namespace edge_hands
