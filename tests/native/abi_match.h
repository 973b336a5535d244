// Compares dsa_runtime/ops/csrc/ort_abi.h with ONNX Runtime's own header. tests/parity/test_ort_abi.py writes one
// specialisation of Official per type and one assertion per slot, field and value.
#pragma once

#include <cstddef>
#include <type_traits>

#include "onnxruntime_c_api.h"
#include "ort_abi.h"

namespace dsa::abi {

// Our type written with the official names. Types without a specialisation stay as they are.
template <typename T>
struct Official {
  using type = T;
};
template <typename T>
struct Official<const T> {
  using type = const typename Official<T>::type;
};
template <typename T>
struct Official<T*> {
  using type = typename Official<T>::type*;
};
template <typename Result, typename... Arguments>
struct Official<Result(Arguments...)> {
  using type = typename Official<Result>::type(typename Official<Arguments>::type...);
};

// A pointer to a function that may throw from one to a function that may not: `noexcept` is no part of the ABI.
template <typename T>
struct Plain {
  using type = T;
};
template <typename Result, typename... Arguments>
struct Plain<Result (*)(Arguments...) noexcept> {
  using type = Result (*)(Arguments...);
};

template <typename Ours, typename Theirs>
constexpr bool SameType() {
  static_assert(std::is_same_v<typename Official<Ours>::type, typename Plain<Theirs>::type>);
  return true;
}

template <typename OurSlot, typename Theirs>
constexpr bool SameSlot(std::size_t offset) {
  return SameType<typename OurSlot::Function, Theirs>() && OurSlot::index * sizeof(void*) == offset;
}

}  // namespace dsa::abi
