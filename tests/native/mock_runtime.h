// A stand-in for ONNX Runtime that runs the operator library's kernels directly, on buffers of exactly the stated size.
// It answers the slots that a CPU kernel uses; any other ends the process with the slot's number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ort_abi.h"

namespace dsa::abi {

// A tensor. Its data begin one element after a block of memory does: aligned for the element type and for nothing else.
struct Value {
  ElementType type = kUndefined;
  std::vector<std::int64_t> shape;
  std::unique_ptr<unsigned char[]> block;  // null where the shape was too large to get any

  std::size_t bytes() const;  // of the data
  unsigned char* data() const;
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data());
  }
};

}  // namespace dsa::abi

namespace dsa::mock {

using Tensor = abi::Value;

std::size_t SizeOf(abi::ElementType type);

// Number of elements, or -1 where that or its number of bytes does not fit into 63 bits.
std::int64_t Elements(abi::ElementType type, const std::vector<std::int64_t>& shape);

// A tensor filled with kUntouched. Without data if there are too many elements.
Tensor MakeTensor(abi::ElementType type, std::vector<std::int64_t> shape);
inline constexpr unsigned char kUntouched = 0xA5;

// A node's attributes.
struct Attributes {
  std::map<std::string, float> floats;
  std::map<std::string, std::int64_t> ints;
};

struct Registration {
  std::string error;  // empty: all is well
  std::string domain;
  std::vector<const abi::CustomOp*> operators;
};

// RegisterCustomOps in an ONNX Runtime that knows the APIs 1..newest_api.
Registration Register(std::uint32_t newest_api = abi::kApiVersion);

// The operator for the CPU that ONNX Runtime would take for inputs of these types; null if none.
const abi::CustomOp* Find(const Registration& registration, const std::string& name,
                          const std::vector<abi::ElementType>& inputs);

// How KernelContext_ParallelFor runs its iterations.
enum class Order { kForward, kReverse, kThreads };

// A node of a loaded model.
class Kernel {
 public:
  Kernel(const abi::CustomOp* op, Attributes attributes);
  ~Kernel();
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  // Why there is no kernel; empty if there is one.
  const std::string& error() const { return error_; }

  // Runs it. An output without a type is allocated on request, any other is bound memory. Returns the error, if any.
  std::string Compute(const std::vector<const Tensor*>& inputs, Tensor* output, Order order) const;

 private:
  const abi::CustomOp* op_;
  Attributes attributes_;
  void* kernel_ = nullptr;
  std::string error_;
};

// Statuses and tensor infos handed out and not yet released.
int LiveObjects();

}  // namespace dsa::mock
