// The portable row: plain C++, one float at a time, on every CPU.
#include "layers_algorithm.h"
#include "layers_scalar.h"
#include "make_row.h"
#include "row_list.h"
#include "simd_scalar.h"

namespace edge_hands {

static bool always() { return true; }

static constexpr LayerKernels kLayers = make_layers<ScalarLayers, Scalar>();
static const LayerKernels* layers() { return &kLayers; }

const Row kRowScalar = make_row<Scalar>("scalar", always, layers);

}  // namespace edge_hands
