// The portable row: plain C++, one float at a time, on every CPU.
#include "make_row.h"
#include "row_list.h"
#include "simd_scalar.h"

namespace edge_hands {

static bool always() { return true; }

const Row kRowScalar = make_row<Scalar>("scalar", always);

}  // namespace edge_hands
