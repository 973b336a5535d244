// The library's door: all that it exports.

#include <string>

#include "cpu/kernel.h"
#include "host.h"
#include "operators.h"

#ifndef DSA_CUDA_BUILD
#define DSA_CUDA_BUILD ""
#endif
#ifndef DSA_SOURCE
#define DSA_SOURCE ""
#endif

extern "C" {

// Called by ONNX Runtime's register_custom_ops_library. Fails with a status on an ONNX Runtime that is too old.
__attribute__((visibility("default"))) dsa::abi::Status* RegisterCustomOps(dsa::abi::SessionOptions* options,
                                                                           const dsa::abi::ApiBase* base) {
  namespace abi = dsa::abi;
  const abi::Api* api = base->GetApi(abi::kApiVersion);
  if (api == nullptr) {
    const std::string text = std::string("the operators of DSA Runtime need ONNX Runtime 1.") +
                             std::to_string(abi::kApiVersion) + " or newer; this is " + base->GetVersionString();
    return abi::CreateStatus::of(base->GetApi(1))(abi::kNotImplemented, text.c_str());
  }
  return dsa::Guarded(api, [&] {
    abi::CustomOpDomain* domain = nullptr;  // freed by nobody: sessions refer to it
    dsa::Check(abi::CreateCustomOpDomain::of(api)(dsa::kDomain, &domain));
    for (const abi::CustomOp* op : dsa::Operators()) dsa::Check(abi::CustomOpDomainAdd::of(api)(domain, op));
    dsa::Check(abi::AddCustomOpDomain::of(api)(options, domain));
  });
}

// The newest version of the operators that this library has; it has all from 1 on.
__attribute__((visibility("default"))) int dsa_ops_version() { return dsa::kVersion; }

// The instruction set in use on the CPU: "generic", "avx2" or "avx512". Static text.
__attribute__((visibility("default"))) const char* dsa_ops_instruction_set() { return dsa::cpu::BestKernel().name; }

// What the CUDA kernels were compiled with and for; empty without them. Static text.
__attribute__((visibility("default"))) const char* dsa_ops_cuda() { return DSA_CUDA_BUILD; }

// A digest of the sources it was compiled from; empty if that was not said. Static text.
__attribute__((visibility("default"))) const char* dsa_ops_source() { return DSA_SOURCE; }
}
