#include "operators.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "cpu/kernel.h"
#include "cpu/rotation_table.h"
#include "cpu/scratch_pool.h"
#include "host.h"
#include "problem.h"
#if defined(DSA_CUDA)
#include "cuda/launch.h"
#endif

namespace dsa {
namespace {

enum class Provider { kCpu, kCuda };

constexpr std::int64_t kMaxHeadDim = 4096;

Type TypeOf(const Tensor& tensor) {
  switch (tensor.type) {
    case abi::kFloat32: return Type::kFloat32;
    case abi::kFloat16: return Type::kFloat16;
    case abi::kBFloat16: return Type::kBFloat16;
    default: throw Invalid(std::string(tensor.name) + ": must be float32, float16 or bfloat16");
  }
}

void RequireSameShape(const Tensor& tensor, const Tensor& other) {
  for (std::size_t i = 0; i < tensor.rank; ++i) {
    Require(tensor.dims[i] == other.dims[i], tensor.name, ": dimension ", i, " is ", tensor.dims[i], ", but ",
            other.dims[i], " in ", other.name);
  }
}

void RequireSameType(const Tensor& tensor, const Tensor& other) {
  Require(tensor.type == other.type, tensor.name, ": must have the element type of ", other.name);
}

void RequireInt32(const Tensor& tensor) { Require(tensor.type == abi::kInt32, tensor.name, ": must be int32"); }

struct AttentionAttributes {
  float scale, theta;
  int temporal_dims;

  AttentionAttributes(const abi::Api* api, const abi::KernelInfo* info) {
    std::int64_t dims = 0;
    const auto found = [api](const char* name, const char* kind, abi::Status* status) {
      if (status == nullptr) return;
      abi::ReleaseStatus::of(api)(status);  // its text does not name the attribute
      throw Invalid(std::string(name) + ": missing, or not " + kind);
    };
    found("scale", "a float", abi::KernelInfoGetAttributeFloat::of(api)(info, "scale", &scale));
    found("temporal_dims", "an int", abi::KernelInfoGetAttributeInt64::of(api)(info, "temporal_dims", &dims));
    found("theta", "a float", abi::KernelInfoGetAttributeFloat::of(api)(info, "theta", &theta));
    Require(std::isfinite(scale) && scale > 0, "scale: must be positive and finite");
    Require(dims >= 0 && dims <= kMaxHeadDim && dims % 2 == 0, "temporal_dims: must be even and lie in 0..",
            kMaxHeadDim, ", got ", dims);
    Require(std::isfinite(theta) && theta > 0, "theta: must be positive and finite");
    temporal_dims = static_cast<int>(dims);
  }
};

class AttentionKernel {
 public:
  AttentionKernel(const abi::Api* api, const abi::KernelInfo* info, Provider provider)
      : api(api),
        provider_(provider),
        attributes_(api, info),
        rotations_(provider == Provider::kCpu ? attributes_.temporal_dims : 0, attributes_.theta) {}

  void Compute(abi::KernelContext* context) {
    FrameAttention call = Read(context);
#if defined(DSA_CUDA)
    if (provider_ == Provider::kCuda) {
      void* stream = nullptr;
      Check(abi::KernelContextGetGpuComputeStream::of(api)(context, &stream));
      const char* problem = cuda::LaunchFrameAttention(call, stream);
      if (problem != nullptr) throw std::runtime_error(std::string("PagedFrameAttention: ") + problem);
      return;
    }
#endif
    ComputeOnCpu(context, call);
  }

  const abi::Api* const api;

 private:
  FrameAttention Read(abi::KernelContext* context) const {
    const Tensor query = ReadInput(api, context, 0, "query", 4);
    const Tensor key = ReadInput(api, context, 1, "key", 4), value = ReadInput(api, context, 2, "value", 4);
    const Tensor key_pool = ReadInput(api, context, 3, "key_pool", 4);
    const Tensor value_pool = ReadInput(api, context, 4, "value_pool", 4);
    const Tensor slot_table = ReadInput(api, context, 5, "slot_table", 2);
    const Tensor slot_age = ReadInput(api, context, 6, "slot_age", 2);

    const auto [batch, tokens, heads, dims] = query.dims;
    Require(batch > 0 && tokens > 0 && heads > 0 && dims > 0, "query: must not be empty");
    Require(dims <= kMaxHeadDim, "query: head width must be at most ", kMaxHeadDim, ", got ", dims);
    Require(attributes_.temporal_dims <= dims, "temporal_dims: is ", attributes_.temporal_dims,
            ", but a head is only ", dims, " wide");
    RequireSameShape(key, query);
    RequireSameShape(value, query);
    RequireSameType(key, query);
    RequireSameType(value, query);
    Tensor frame = query;
    frame.dims[0] = key_pool.dims[0];
    RequireSameShape(key_pool, frame);
    RequireSameShape(value_pool, key_pool);
    RequireSameType(value_pool, key_pool);
    const Type type = TypeOf(query), pool_type = TypeOf(key_pool);
    const bool narrow_pool =
        provider_ == Provider::kCpu && type == Type::kFloat32 && pool_type == Type::kFloat16;
    Require(pool_type == type || narrow_pool, "key_pool: must have the element type of query",
            provider_ == Provider::kCpu ? ", or float16 beside float32" : "");
    Require(slot_table.dims[0] == batch, "slot_table: has ", slot_table.dims[0], " rows for a batch of ", batch);
    RequireSameShape(slot_age, slot_table);
    RequireInt32(slot_table);
    RequireInt32(slot_age);

    FrameAttention call{};
    call.batch = batch, call.tokens = tokens, call.heads = heads, call.head_dim = dims;
    call.slots = key_pool.dims[0], call.window = slot_table.dims[1];
    call.scale = attributes_.scale, call.temporal_dims = attributes_.temporal_dims, call.theta = attributes_.theta;
    call.type = type, call.pool_type = pool_type;
    call.query = query.data, call.key = key.data, call.value = value.data;
    call.key_pool = key_pool.data, call.value_pool = value_pool.data;
    call.slot_table = static_cast<const std::int32_t*>(slot_table.data);
    call.slot_age = static_cast<const std::int32_t*>(slot_age.data);
    if (provider_ == Provider::kCpu) CheckTables(call);
    call.output = OutputData(api, context, query);
    return call;
  }

  static void CheckTables(const FrameAttention& call) {
    for (std::int64_t i = 0; i < call.batch * call.window; ++i) {
      const std::int32_t slot = call.slot_table[i], age = call.slot_age[i];
      Require(slot >= -1 && slot < call.slots, "slot_table[", i / call.window, ", ", i % call.window, "] = ", slot,
              ": must be -1 (empty) or lie in 0..", call.slots - 1);
      Require(slot < 0 || age >= 0, "slot_age[", i / call.window, ", ", i % call.window, "] = ", age,
              ": must be at least 0");
    }
  }

  void ComputeOnCpu(abi::KernelContext* context, const FrameAttention& call) {
    const cpu::Kernel& kernel = cpu::BestKernel();
    const std::int64_t half = call.temporal_dims / 2, entries = call.batch * call.window;
    const cpu::ScratchPool::Lease angles(scratch_, static_cast<std::size_t>(2 * entries * half));
    const cpu::Rotations rotations{angles.data(), angles.data() + entries * half};
    for (std::int64_t i = 0; i < entries; ++i) {
      if (call.slot_table[i] < 0) continue;
      rotations_.Write(call.slot_age[i], angles.data() + i * half, angles.data() + (entries + i) * half);
    }
    struct Tasks {
      const cpu::Kernel& kernel;
      const FrameAttention& call;
      const cpu::Rotations& rotations;
      cpu::ScratchPool& scratch;
      std::size_t floats;
      std::atomic<bool> out_of_memory{false};

      void Run(std::size_t task) noexcept {  // on threads that are ONNX Runtime's
        try {
          const cpu::ScratchPool::Lease lease(scratch, floats);
          kernel.run(call, rotations, static_cast<std::int64_t>(task), lease.data());
        } catch (const std::bad_alloc&) {
          out_of_memory = true;
        }
      }
    } tasks{kernel, call, rotations, scratch_, kernel.scratch_floats(call)};
    const std::size_t count = static_cast<std::size_t>(kernel.tasks(call));
    const double work = 4.0 * call.batch * call.heads * call.head_dim * call.tokens * call.tokens * (call.window + 1);
    if (count == 1 || work < kWorthWaking) {
      for (std::size_t task = 0; task < count; ++task) tasks.Run(task);
    } else {
      Check(abi::KernelContextParallelFor::of(api)(
          context, [](void* data, std::size_t task) { static_cast<Tasks*>(data)->Run(task); }, count, 0, &tasks));
    }
    if (tasks.out_of_memory) throw std::bad_alloc();
  }

  // Floating-point operations below which waking another thread costs more than it saves.
  static constexpr double kWorthWaking = 4e6;

  const Provider provider_;
  const AttentionAttributes attributes_;
  const cpu::RotationTable rotations_;
  cpu::ScratchPool scratch_;
};

class WriteKernel {
 public:
  WriteKernel(const abi::Api* api, const abi::KernelInfo*, Provider provider) : api(api), provider_(provider) {}

  void Compute(abi::KernelContext* context) {
    const Tensor frame = ReadInput(api, context, 0, "frame", 4), pool = ReadInput(api, context, 1, "pool", 4);
    const Tensor slot = ReadInput(api, context, 2, "slot", 1);
    for (const std::int64_t size : frame.dims) Require(size > 0, "frame: must not be empty");
    Tensor fitting = frame;
    fitting.dims[0] = pool.dims[0];
    RequireSameShape(pool, fitting);
    RequireSameType(pool, frame);
    RequireInt32(slot);
    Require(slot.dims[0] == frame.dims[0], "slot: has ", slot.dims[0], " entries for a batch of ", frame.dims[0]);
    FrameWrite call{};
    call.batch = frame.dims[0], call.frame_elements = frame.dims[1] * frame.dims[2] * frame.dims[3];
    call.slots = pool.dims[0], call.type = TypeOf(frame);
    call.frame = frame.data, call.slot = static_cast<const std::int32_t*>(slot.data);
    if (provider_ == Provider::kCpu) CheckSlots(call);
    call.pool = OutputData(api, context, pool);
    const std::size_t slot_bytes = static_cast<std::size_t>(call.frame_elements) * SizeOf(call.type);
    const std::size_t pool_bytes = slot_bytes * static_cast<std::size_t>(call.slots);
#if defined(DSA_CUDA)
    if (provider_ == Provider::kCuda) {
      void* stream = nullptr;
      Check(abi::KernelContextGetGpuComputeStream::of(api)(context, &stream));
      const char* problem = nullptr;
      if (call.pool != pool.data) problem = cuda::CopyOnDevice(call.pool, pool.data, pool_bytes, stream);
      if (problem == nullptr) problem = cuda::LaunchFrameWrite(call, stream);
      if (problem != nullptr) throw std::runtime_error(std::string("PagedFrameWrite: ") + problem);
      return;
    }
#endif
    if (call.pool != pool.data && pool_bytes != 0) std::memcpy(call.pool, pool.data, pool_bytes);
    for (std::int64_t b = 0; b < call.batch; ++b) {
      if (call.slot[b] < 0) continue;
      std::memcpy(static_cast<char*>(call.pool) + call.slot[b] * slot_bytes,
                  static_cast<const char*>(call.frame) + b * slot_bytes, slot_bytes);
    }
  }

  const abi::Api* const api;

 private:
  static void CheckSlots(const FrameWrite& call) {
    for (std::int64_t b = 0; b < call.batch; ++b) {
      const std::int32_t slot = call.slot[b];
      Require(slot >= -1 && slot < call.slots, "slot[", b, "] = ", slot, ": must be -1 (nothing is written) or lie in 0..",
              call.slots - 1);
      for (std::int64_t other = 0; other < b && slot >= 0; ++other) {
        Require(call.slot[other] != slot, "slot[", b, "] = ", slot, ": also slot[", other, "]");
      }
    }
  }

  const Provider provider_;
};

// The table of callbacks that ONNX Runtime knows an operator by. Its inputs are tensors of `types`. Without a callback
// for shape inference: that one gets no API of its caller, and a process may hold two copies of ONNX Runtime.
template <typename Kernel>
class Operator : public abi::CustomOp {
 public:
  Operator(const char* name, Provider provider, std::vector<abi::ElementType> types)
      : abi::CustomOp{}, name_(name), provider_(provider), types_(std::move(types)) {
    version = abi::kApiVersion;
    GetName = [](const CustomOp* op) { return Self(op).name_; };
    GetExecutionProviderType = [](const CustomOp* op) {
      return Self(op).provider_ == Provider::kCpu ? "CPUExecutionProvider" : "CUDAExecutionProvider";
    };
    GetInputType = [](const CustomOp* op, std::size_t index) { return Self(op).types_[index]; };
    GetInputTypeCount = [](const CustomOp* op) { return Self(op).types_.size(); };
    GetOutputType = [](const CustomOp* op, std::size_t) { return Self(op).types_[0]; };
    GetOutputTypeCount = [](const CustomOp*) { return std::size_t{1}; };
    GetInputCharacteristic = GetOutputCharacteristic = [](const CustomOp*, std::size_t) { return abi::kRequired; };
    GetInputMemoryType = [](const CustomOp*, std::size_t) { return abi::kDefaultMemory; };
    GetVariadicInputMinArity = GetVariadicOutputMinArity = [](const CustomOp*) { return 0; };
    GetVariadicInputHomogeneity = GetVariadicOutputHomogeneity = [](const CustomOp*) { return 1; };
    GetStartVersion = [](const CustomOp*) { return 1; };
    GetEndVersion = [](const CustomOp*) { return kVersion; };
    CreateKernelV2 = [](const CustomOp* op, const abi::Api* api, const abi::KernelInfo* info, void** kernel) {
      return Guarded(api, [&] { *kernel = new Kernel(api, info, Self(op).provider_); });
    };
    KernelComputeV2 = [](void* kernel, abi::KernelContext* context) {
      Kernel& self = *static_cast<Kernel*>(kernel);
      return Guarded(self.api, [&] { self.Compute(context); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }

 private:
  const char* name_;
  Provider provider_;
  std::vector<abi::ElementType> types_;

  static const Operator& Self(const CustomOp* op) { return *static_cast<const Operator*>(op); }
};

class AttentionOperator : public Operator<AttentionKernel> {
 public:
  AttentionOperator(Provider provider, abi::ElementType type, abi::ElementType pool)
      : Operator("PagedFrameAttention", provider, {type, type, type, pool, pool, abi::kInt32, abi::kInt32}) {}
};

class WriteOperator : public Operator<WriteKernel> {
 public:
  WriteOperator(Provider provider, abi::ElementType type)
      : Operator("PagedFrameWrite", provider, {type, type, abi::kInt32}) {
    // So that the pool is not copied where the graph's own input is not needed afterwards.
    GetMayInplace = [](int** inputs, int** outputs) {
      *inputs = new int[1]{1};
      *outputs = new int[1]{0};
      return std::size_t{1};
    };
    ReleaseMayInplace = [](int* inputs, int* outputs) {
      delete[] inputs;
      delete[] outputs;
    };
  }
};

}  // namespace

const std::vector<const abi::CustomOp*>& Operators() {
  static const auto& operators = *new std::vector<const abi::CustomOp*>{
      new AttentionOperator(Provider::kCpu, abi::kFloat32, abi::kFloat32),
      new AttentionOperator(Provider::kCpu, abi::kFloat16, abi::kFloat16),
      new AttentionOperator(Provider::kCpu, abi::kFloat32, abi::kFloat16),
      new WriteOperator(Provider::kCpu, abi::kFloat32),
      new WriteOperator(Provider::kCpu, abi::kFloat16),
#if defined(DSA_CUDA)
      new AttentionOperator(Provider::kCuda, abi::kFloat32, abi::kFloat32),
      new AttentionOperator(Provider::kCuda, abi::kFloat16, abi::kFloat16),
      new AttentionOperator(Provider::kCuda, abi::kBFloat16, abi::kBFloat16),
      new WriteOperator(Provider::kCuda, abi::kFloat32),
      new WriteOperator(Provider::kCuda, abi::kFloat16),
      new WriteOperator(Provider::kCuda, abi::kBFloat16),
#endif
  };
  return operators;
}

}  // namespace dsa
