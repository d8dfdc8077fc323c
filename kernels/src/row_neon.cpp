// The NEON row of ARM64. Every ARMv8-A has it.
#include "make_row.h"
#include "row_list.h"
#include "simd_neon.h"

namespace edge_hands {

static bool always() { return true; }

const Row kRowNeon = make_row<Neon>("neon", always);

}  // namespace edge_hands
