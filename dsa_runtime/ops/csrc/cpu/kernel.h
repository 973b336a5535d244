// The CPU kernels: one source (attention.cpp), compiled once per instruction set, chosen when the library is loaded.
#pragma once

#include "../problem.h"

namespace dsa::cpu {

// One entry per (session, slot) of a call, temporal_dims / 2 values each: the rotation of the query by the slot's age.
struct Rotations {
  const float* cosine;  // [B, W, temporal_dims / 2]
  const float* sine;
};

// A call is cut into independent tasks: one per session, head and block of queries.
struct Kernel {
  const char* name;
  std::int64_t (*tasks)(const FrameAttention& call);
  std::size_t (*scratch_floats)(const FrameAttention& call);  // per task; must be aligned to 64 bytes
  void (*run)(const FrameAttention& call, const Rotations& rotations, std::int64_t task, float* scratch);
};

// The best kernel for this processor. The environment variable DSA_OPS_ISA (generic, avx2, avx512) asks for another
// one, for tests and measurements; a set that the processor lacks is ignored.
const Kernel& BestKernel();

}  // namespace dsa::cpu
