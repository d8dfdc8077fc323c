// The layers of the AVX-512 row, in a file of its own as they need VNNI too. See row_avx2.cpp for what its flags ask.
#include "layers_algorithm.h"
#include "layers_avx512.h"
#include "row_list.h"
#include "simd_avx512.h"

namespace edge_hands {

static constexpr LayerKernels kKernels = make_layers<Avx512Layers, Avx512>();

const LayerKernels* avx512_layers() { return __builtin_cpu_supports("avx512vnni") ? &kKernels : avx2_layers(); }

}  // namespace edge_hands
