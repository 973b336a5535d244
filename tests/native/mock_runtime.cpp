#include "mock_runtime.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

extern "C" dsa::abi::Status* RegisterCustomOps(dsa::abi::SessionOptions* options, const dsa::abi::ApiBase* base);

namespace dsa::mock {
namespace {

std::atomic<int> live_objects{0};

struct Counted {
  Counted() { ++live_objects; }
  ~Counted() { --live_objects; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
};

[[noreturn]] void Die(const char* why, std::size_t number = 0) {
  std::fprintf(stderr, "mock runtime: %s (%zu)\n", why, number);
  std::abort();
}

}  // namespace
}  // namespace dsa::mock

// What the library knows as opaque types.
namespace dsa::abi {

struct Status : mock::Counted {
  ErrorCode code;
  std::string text;
};

struct TensorInfo : mock::Counted {
  ElementType type;
  std::vector<std::int64_t> shape;
};

struct CustomOpDomain {
  std::string name;
  std::vector<const CustomOp*> operators;
};

struct SessionOptions {
  std::vector<const CustomOpDomain*> domains;
};

struct KernelInfo {
  const mock::Attributes& attributes;
};

struct KernelContext {
  const std::vector<const Value*>& inputs;
  Value* output;
  mock::Order order;
};

std::size_t Value::bytes() const {
  return static_cast<std::size_t>(std::max<std::int64_t>(mock::Elements(type, shape), 0)) * mock::SizeOf(type);
}

unsigned char* Value::data() const { return block ? block.get() + mock::SizeOf(type) : nullptr; }

}  // namespace dsa::abi

namespace dsa::mock {
namespace {

using namespace abi;

Status* Error(ErrorCode code, const char* text) {
  auto* status = new Status;
  status->code = code;
  status->text = text;
  return status;
}

// The text of a status, which is released; empty for success.
std::string Take(Status* status) {
  if (!status) return "";
  std::string text = status->text;
  if (text.empty()) Die("an error without a text", static_cast<std::size_t>(status->code));
  delete status;
  return text;
}

template <typename T>
Status* Get(const std::map<std::string, T>& attributes, const char* name, T* value) {
  auto found = attributes.find(name);
  if (found == attributes.end()) return Error(kFail, (std::string(name) + ": no such attribute").c_str());
  *value = found->second;
  return nullptr;
}

Status* GetOutput(KernelContext* context, std::size_t index, const std::int64_t* dims, std::size_t rank,
                  Value** value) {
  if (index != 0) return Error(kInvalidArgument, "no such output");
  const std::vector<std::int64_t> shape(dims, dims + rank);
  Value& output = *context->output;
  if (output.type == kUndefined) {
    output = MakeTensor(context->inputs[index]->type, shape);
    if (!output.block) return Error(kFail, "out of memory");
  } else if (output.shape != shape) {
    return Error(kInvalidArgument, "the bound output has another shape");
  }
  *value = &output;
  return nullptr;
}

Status* ParallelFor(const KernelContext* context, void (*function)(void*, std::size_t), std::size_t total,
                    std::size_t /* batches */, void* data) {
  const auto run = [=](std::size_t i) {
    try {
      function(data, i);
    } catch (...) {
      Die("an exception came out of a task", i);
    }
  };
  if (context->order == Order::kThreads) {
    std::atomic<std::size_t> next{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&] {
        for (std::size_t i = next++; i < total; i = next++) run(i);
      });
    }
    for (std::thread& thread : threads) thread.join();
  } else {
    const bool reverse = context->order == Order::kReverse;
    for (std::size_t i = 0; i < total; ++i) run(reverse ? total - 1 - i : i);
  }
  return nullptr;
}

using AnyFunction = void (*)();

template <std::size_t kSlot>
void Unanswered() {
  Die("a slot that no CPU kernel needs was called", kSlot);
}

template <std::size_t... kSlots>
constexpr std::array<AnyFunction, sizeof...(kSlots)> UnansweredTable(std::index_sequence<kSlots...>) {
  return {&Unanswered<kSlots>...};
}

class Table {
 public:
  Table() {
    Answer<CreateStatus>(Error);
    Answer<ReleaseStatus>([](Status* status) { delete status; });
    Answer<CreateCustomOpDomain>([](const char* name, CustomOpDomain** domain) -> Status* {
      static std::mutex mutex;
      static std::deque<CustomOpDomain> domains;  // the library has no slot to release one
      const std::lock_guard<std::mutex> lock(mutex);
      *domain = &domains.emplace_back(CustomOpDomain{name, {}});
      return nullptr;
    });
    Answer<CustomOpDomainAdd>([](CustomOpDomain* domain, const CustomOp* op) -> Status* {
      domain->operators.push_back(op);
      return nullptr;
    });
    Answer<AddCustomOpDomain>([](SessionOptions* options, CustomOpDomain* domain) -> Status* {
      options->domains.push_back(domain);
      return nullptr;
    });
    Answer<GetTensorMutableData>([](Value* value, void** data) -> Status* {
      *data = value->data();
      return nullptr;
    });
    Answer<GetTensorElementType>([](const TensorInfo* info, ElementType* type) -> Status* {
      *type = info->type;
      return nullptr;
    });
    Answer<GetDimensionsCount>([](const TensorInfo* info, std::size_t* rank) -> Status* {
      *rank = info->shape.size();
      return nullptr;
    });
    Answer<GetDimensions>([](const TensorInfo* info, std::int64_t* dims, std::size_t rank) -> Status* {
      std::copy_n(info->shape.begin(), std::min(rank, info->shape.size()), dims);
      return nullptr;
    });
    Answer<GetTensorTypeAndShape>([](const Value* value, TensorInfo** info) -> Status* {
      *info = new TensorInfo{{}, value->type, value->shape};
      return nullptr;
    });
    Answer<ReleaseTensorInfo>([](TensorInfo* info) { delete info; });
    Answer<KernelInfoGetAttributeFloat>([](const KernelInfo* info, const char* name, float* value) {
      return Get(info->attributes.floats, name, value);
    });
    Answer<KernelInfoGetAttributeInt64>([](const KernelInfo* info, const char* name, std::int64_t* value) {
      return Get(info->attributes.ints, name, value);
    });
    Answer<KernelContextGetInput>([](const KernelContext* context, std::size_t index, const Value** value) -> Status* {
      if (index >= context->inputs.size()) return Error(kInvalidArgument, "no such input");
      *value = context->inputs[index];
      return nullptr;
    });
    Answer<KernelContextGetOutput>(GetOutput);
    Answer<KernelContextParallelFor>(ParallelFor);
  }

  const Api* api() const { return reinterpret_cast<const Api*>(functions_.data()); }

 private:
  template <typename Slot>
  void Answer(typename Slot::Function function) {
    functions_[Slot::index] = reinterpret_cast<AnyFunction>(function);
  }

  std::array<AnyFunction, 320> functions_ = UnansweredTable(std::make_index_sequence<320>());
};

const Table table;
thread_local std::uint32_t newest_known = 0;

}  // namespace

std::size_t SizeOf(ElementType type) {
  switch (type) {
    case kFloat32:
    case kInt32:
      return 4;
    case kFloat16:
    case kBFloat16:
      return 2;
    case kUndefined:
      return 0;
  }
  return 8;  // the only others that tests use: double and int64
}

std::int64_t Elements(ElementType type, const std::vector<std::int64_t>& shape) {
  std::int64_t elements = 1, bytes = 0;
  for (std::int64_t dim : shape) {
    if (__builtin_mul_overflow(elements, dim, &elements)) return -1;
  }
  const auto size = static_cast<std::int64_t>(SizeOf(type));
  return __builtin_mul_overflow(elements, size, &bytes) ? -1 : elements;
}

Tensor MakeTensor(ElementType type, std::vector<std::int64_t> shape) {
  constexpr std::size_t kMost = 1 << 26;
  Tensor tensor{type, std::move(shape), nullptr};
  if (Elements(type, tensor.shape) < 0 || tensor.bytes() > kMost) return tensor;
  tensor.block = std::make_unique<unsigned char[]>(tensor.bytes() + SizeOf(type));
  std::memset(tensor.block.get(), kUntouched, tensor.bytes() + SizeOf(type));
  return tensor;
}

Registration Register(std::uint32_t newest_api) {
  newest_known = newest_api;
  const ApiBase base{[](std::uint32_t version) { return version <= newest_known ? table.api() : nullptr; },
                     [] { return "0.0.0"; }};
  SessionOptions options;
  Registration registration;
  registration.error = Take(RegisterCustomOps(&options, &base));
  for (const CustomOpDomain* domain : options.domains) {
    registration.domain = domain->name;
    registration.operators.insert(registration.operators.end(), domain->operators.begin(), domain->operators.end());
  }
  return registration;
}

const CustomOp* Find(const Registration& registration, const std::string& name,
                     const std::vector<ElementType>& inputs) {
  for (const CustomOp* op : registration.operators) {
    const char* provider = op->GetExecutionProviderType(op);
    if (op->GetName(op) != name || (provider && std::strcmp(provider, "CPUExecutionProvider"))) continue;
    bool fits = op->GetInputTypeCount(op) == inputs.size();
    for (std::size_t i = 0; fits && i < inputs.size(); ++i) {
      const ElementType declared = op->GetInputType(op, i);
      fits = declared == kUndefined || declared == inputs[i];
    }
    if (fits) return op;
  }
  return nullptr;
}

Kernel::Kernel(const CustomOp* op, Attributes attributes) : op_(op), attributes_(std::move(attributes)) {
  if (op->version != kApiVersion || op->CreateKernel || op->KernelCompute) Die("not an operator of version 18");
  const KernelInfo info{attributes_};
  error_ = Take(op->CreateKernelV2(op, table.api(), &info, &kernel_));
  if (error_.empty() == !kernel_) Die("a kernel and an error, or neither");
}

Kernel::~Kernel() {
  if (kernel_) op_->KernelDestroy(kernel_);
}

std::string Kernel::Compute(const std::vector<const Tensor*>& inputs, Tensor* output, Order order) const {
  KernelContext context{inputs, output, order};
  return Take(op_->KernelComputeV2(kernel_, &context));
}

int LiveObjects() { return live_objects; }

}  // namespace dsa::mock
