// What the operators need of ONNX Runtime, in C++: errors as exceptions inside, as statuses at the edge; tensors with
// their shapes.
#pragma once

#include <array>
#include <cstdarg>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "ort_abi.h"

namespace dsa {

// An error whose text goes to the user.
class Invalid : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// An error that ONNX Runtime has reported; passed on as it is.
class Failed {
 public:
  explicit Failed(abi::Status* status) : status(status) {}
  abi::Status* status;
};

inline void Check(abi::Status* status) {
  if (status != nullptr) throw Failed(status);
}

template <typename... Parts>
void Require(bool condition, const Parts&... parts) {
  if (condition) return;
  const auto text = [](const auto& part) {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(part)>>) {
      return std::to_string(part);
    } else {
      return std::string(part);
    }
  };
  throw Invalid((text(parts) + ...));
}

// Runs `body` and turns what it throws into a status. Nothing may be thrown into ONNX Runtime.
template <typename Body>
abi::Status* Guarded(const abi::Api* api, const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Failed& failure) {
    return failure.status;
  } catch (const Invalid& error) {
    return abi::CreateStatus::of(api)(abi::kInvalidArgument, error.what());
  } catch (const std::exception& error) {
    return abi::CreateStatus::of(api)(abi::kFail, error.what());
  } catch (...) {
    return abi::CreateStatus::of(api)(abi::kFail, "unknown error");
  }
}

struct Tensor {
  static constexpr std::size_t kMaxRank = 4;

  const char* name;
  abi::ElementType type;
  std::size_t rank;
  std::array<std::int64_t, kMaxRank> dims;
  void* data;
};

// Throws Invalid for a rank other than `rank`, for a size below 0, and for missing data.
inline Tensor ReadTensor(const abi::Api* api, const abi::Value* value, const char* name, std::size_t rank) {
  Require(value != nullptr, name, ": missing");
  abi::TensorInfo* info = nullptr;
  Check(abi::GetTensorTypeAndShape::of(api)(value, &info));
  struct Release {
    const abi::Api* api;
    abi::TensorInfo* info;
    ~Release() { abi::ReleaseTensorInfo::of(api)(info); }
  } release{api, info};
  Tensor tensor{name, abi::kUndefined, 0, {1, 1, 1, 1}, nullptr};
  Check(abi::GetTensorElementType::of(api)(info, &tensor.type));
  Check(abi::GetDimensionsCount::of(api)(info, &tensor.rank));
  Require(tensor.rank == rank, name, ": must have ", rank, " dimensions, got ", tensor.rank);
  Check(abi::GetDimensions::of(api)(info, tensor.dims.data(), rank));
  std::int64_t elements = 1;
  for (std::size_t i = 0; i < rank; ++i) {
    Require(tensor.dims[i] >= 0, name, ": dimension ", i, " is negative");
    Require(!__builtin_mul_overflow(elements, tensor.dims[i], &elements) && elements <= INT64_MAX / 8, name,
            ": too large");
  }
  Check(abi::GetTensorMutableData::of(api)(const_cast<abi::Value*>(value), &tensor.data));
  Require(tensor.data != nullptr || elements == 0, name, ": has no data");
  return tensor;
}

inline Tensor ReadInput(const abi::Api* api, const abi::KernelContext* context, std::size_t index, const char* name,
                        std::size_t rank) {
  const abi::Value* value = nullptr;
  Check(abi::KernelContextGetInput::of(api)(context, index, &value));
  return ReadTensor(api, value, name, rank);
}

// The memory of an output of this shape, which ONNX Runtime allocates if none is bound.
inline void* OutputData(const abi::Api* api, abi::KernelContext* context, const Tensor& like) {
  abi::Value* value = nullptr;
  void* data = nullptr;
  Check(abi::KernelContextGetOutput::of(api)(context, 0, like.dims.data(), like.rank, &value));
  Require(value != nullptr, "output: missing");
  Check(abi::GetTensorMutableData::of(api)(value, &data));
  return data;
}

}  // namespace dsa
