// The part of ONNX Runtime's C ABI that this library uses, written for it: no package ships the official headers.
//
// The API is a table of function pointers to which later versions only append, so a slot's number is its identity for
// ever. A test compares every slot, signature and field below with the official header where one is installed
// (tests/parity/test_ort_abi.py).
#pragma once

#include <cstddef>
#include <cstdint>

namespace dsa::abi {

// The oldest API that has all that is used here, ONNX Runtime 1.18. Asking for the oldest works with every newer one.
inline constexpr std::uint32_t kApiVersion = 18;

struct Api;             // the table
struct Status;          // an error, owned by whoever receives it; null is success
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct Value;           // a tensor
struct TensorInfo;      // element type and shape
struct ShapeInferContext;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2, kNotImplemented = 9, kExecutionProviderFail = 11 };
enum ElementType : int { kUndefined = 0, kFloat32 = 1, kInt32 = 6, kFloat16 = 10, kBFloat16 = 16 };
enum Characteristic : int { kRequired = 0 };
enum MemoryType : int { kDefaultMemory = 0 };

struct ApiBase {
  const Api* (*GetApi)(std::uint32_t version);  // null for a version it does not know
  const char* (*GetVersionString)();
};

template <std::size_t kSlot, typename Signature>
struct Slot {
  using Function = Signature*;
  static constexpr std::size_t index = kSlot;
  static Function of(const Api* api) { return reinterpret_cast<const Function*>(api)[kSlot]; }
};

using CreateStatus = Slot<0, Status*(ErrorCode, const char*)>;
using CreateCustomOpDomain = Slot<26, Status*(const char*, CustomOpDomain**)>;
struct CustomOp;
using CustomOpDomainAdd = Slot<27, Status*(CustomOpDomain*, const CustomOp*)>;
using AddCustomOpDomain = Slot<28, Status*(SessionOptions*, CustomOpDomain*)>;
using GetTensorMutableData = Slot<51, Status*(Value*, void**)>;
using GetTensorElementType = Slot<60, Status*(const TensorInfo*, ElementType*)>;
using GetDimensionsCount = Slot<61, Status*(const TensorInfo*, std::size_t*)>;
using GetDimensions = Slot<62, Status*(const TensorInfo*, std::int64_t*, std::size_t)>;
using GetTensorTypeAndShape = Slot<65, Status*(const Value*, TensorInfo**)>;
using KernelInfoGetAttributeFloat = Slot<85, Status*(const KernelInfo*, const char*, float*)>;
using KernelInfoGetAttributeInt64 = Slot<86, Status*(const KernelInfo*, const char*, std::int64_t*)>;
using KernelContextGetInput = Slot<90, Status*(const KernelContext*, std::size_t, const Value**)>;
using KernelContextGetOutput =
    Slot<91, Status*(KernelContext*, std::size_t, const std::int64_t*, std::size_t, Value**)>;
using ReleaseStatus = Slot<93, void(Status*)>;
using ReleaseTensorInfo = Slot<99, void(TensorInfo*)>;
using KernelContextGetGpuComputeStream = Slot<193, Status*(const KernelContext*, void**)>;
// Runs function(data, i) for every i < total on the session's own threads; batches 0 leaves the division to it.
using KernelContextParallelFor =
    Slot<274, Status*(const KernelContext*, void (*)(void*, std::size_t), std::size_t, std::size_t, void*)>;

// An operator as ONNX Runtime sees it. Must outlive every session that knows it. Fields up to version 18.
struct CustomOp {
  std::uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const Api*, const KernelInfo*);  // null: V2 is used
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  ElementType (*GetInputType)(const CustomOp*, std::size_t);
  std::size_t (*GetInputTypeCount)(const CustomOp*);
  ElementType (*GetOutputType)(const CustomOp*, std::size_t);
  std::size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void*, KernelContext*);  // null: V2 is used
  void (*KernelDestroy)(void*);
  Characteristic (*GetInputCharacteristic)(const CustomOp*, std::size_t);
  Characteristic (*GetOutputCharacteristic)(const CustomOp*, std::size_t);
  MemoryType (*GetInputMemoryType)(const CustomOp*, std::size_t);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*CreateKernelV2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status* (*KernelComputeV2)(void*, KernelContext*);
  Status* (*InferOutputShape)(const CustomOp*, ShapeInferContext*);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  std::size_t (*GetMayInplace)(int** inputs, int** outputs);
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  std::size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};

}  // namespace dsa::abi
