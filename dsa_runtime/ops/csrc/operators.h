// The two operators as ONNX Runtime calls them: inputs are read and checked here, kernels trust what they get.
#pragma once

#include <vector>

#include "ort_abi.h"

namespace dsa {

inline constexpr char kDomain[] = "dsa";
inline constexpr int kVersion = 1;  // of the operators; schema.py has the same

// Every operator with every provider and element type that this build has. Lives as long as the library.
const std::vector<const abi::CustomOp*>& Operators();

}  // namespace dsa
