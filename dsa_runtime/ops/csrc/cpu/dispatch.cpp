#include <cstdlib>
#include <cstring>

#include "kernel.h"

namespace dsa::cpu {

extern const Kernel generic;
#if defined(DSA_X86)
extern const Kernel avx2, avx512;
#endif

namespace {

const Kernel& Choose() {
#if defined(DSA_X86)
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const char* wanted = std::getenv("DSA_OPS_ISA");
  const auto allowed = [wanted](const Kernel& kernel) {
    return wanted == nullptr || std::strcmp(wanted, kernel.name) == 0;
  };
  if (has_avx512 && allowed(avx512)) return avx512;
  if (has_avx2 && (allowed(avx2) || allowed(avx512))) return avx2;
  if (wanted == nullptr || std::strcmp(wanted, "generic") == 0 || !has_avx2) return generic;
  return has_avx512 ? avx512 : avx2;  // an unknown name
#else
  return generic;
#endif
}

}  // namespace

const Kernel& BestKernel() {
  static const Kernel& kernel = Choose();
  return kernel;
}

}  // namespace dsa::cpu
