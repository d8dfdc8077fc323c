// The AVX-512 row of x86-64. Built with its own flags; see row_avx2.cpp for what that asks of this file.
#include "make_row.h"
#include "row_list.h"
#include "simd_avx512.h"

namespace edge_hands {

static bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

const Row kRowAvx512 = make_row<Avx512>("avx512", has_avx512, avx512_layers);

}  // namespace edge_hands
