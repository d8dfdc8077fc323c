// The AVX2 + FMA row of x86-64. Built with -mavx2 -mfma: nothing in this file may be shared with other objects, so it
// holds only templates over its own vector type and functions of internal linkage.
#include "layers_algorithm.h"
#include "layers_avx2.h"
#include "make_row.h"
#include "row_list.h"
#include "simd_avx2.h"

namespace edge_hands {

static bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

static constexpr LayerKernels kLayers = make_layers<Avx2Layers, Avx2>();
const LayerKernels* avx2_layers() { return &kLayers; }

const Row kRowAvx2 = make_row<Avx2>("avx2", has_avx2, avx2_layers);

}  // namespace edge_hands
