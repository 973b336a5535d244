// The library's edge where no random call gets: registration, memory that runs out, and many threads.
// Prints what it has done; the first thing that is not as it should be ends it with 1.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "mock_runtime.h"
#include "reference.h"

namespace {

// Aligned allocations that still succeed; below 0: all do. Only the kernels' working memory is allocated so.
std::atomic<int> allocations_left{-1};

}  // namespace

void* operator new[](std::size_t size, std::align_val_t alignment) {
  if (allocations_left >= 0 && allocations_left-- <= 0) {
    allocations_left = 0;
    throw std::bad_alloc();
  }
  const std::size_t unit = static_cast<std::size_t>(alignment);
  return std::aligned_alloc(unit, (size + unit - 1) / unit * unit);
}

void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }

namespace {

using namespace dsa::mock;
using dsa::abi::kFloat16;
using dsa::abi::kFloat32;
using dsa::abi::kInt32;

void Expect(bool condition, const std::string& what) {
  if (condition && LiveObjects() == 0) return;
  std::printf("%s%s\n", what.c_str(), condition ? " (something was not released)" : "");
  std::exit(1);
}

const dsa::abi::CustomOp* Attention(const Registration& library) {
  return Find(library, "PagedFrameAttention", {kFloat32, kFloat32, kFloat32, kFloat16, kFloat16, kInt32, kInt32});
}

Attributes SomeAttributes() { return {{{"scale", 0.3f}, {"theta", 100.0f}}, {{"temporal_dims", 8}}}; }

// A call with enough work for several tasks: two sessions, two heads, T tokens of width 32 and W slots.
std::vector<Tensor> SomeInputs(std::int64_t T, std::int64_t W) {
  const std::int64_t B = 2, H = 2, D = 32, S = 3;
  std::vector<Tensor> inputs;
  for (std::size_t i = 0; i < 5; ++i) {
    inputs.push_back(MakeTensor(i < 3 ? kFloat32 : kFloat16, {i < 3 ? B : S, T, H, D}));
    for (std::int64_t n = 0; n < (i < 3 ? B : S) * T * H * D; ++n) {
      Set(inputs[i], n, static_cast<double>((n * 37 + static_cast<std::int64_t>(i) * 11) % 101) / 50 - 1);
    }
  }
  for (int i = 0; i < 2; ++i) inputs.push_back(MakeTensor(kInt32, {B, W}));
  for (std::int64_t n = 0; n < B * W; ++n) {
    inputs[5].as<std::int32_t>()[n] = static_cast<std::int32_t>(n % S);
    inputs[6].as<std::int32_t>()[n] = static_cast<std::int32_t>(40 * n);
  }
  return inputs;
}

// The output's bytes, or the error.
std::string Run(const Kernel& kernel, const std::vector<Tensor>& inputs, Order order) {
  std::vector<const Tensor*> pointers;
  for (const Tensor& tensor : inputs) pointers.push_back(&tensor);
  Tensor output;
  const std::string error = kernel.Compute(pointers, &output, order);
  return error.empty() ? std::string(reinterpret_cast<const char*>(output.data()), output.bytes()) : error;
}

void RegistrationEdges() {
  const Registration old = Register(dsa::abi::kApiVersion - 1);
  Expect(old.error.find("ONNX Runtime 1.18") != std::string::npos, "an old runtime is named: " + old.error);
  Expect(old.operators.empty(), "nothing is registered with an old runtime");
  const Registration first = Register(), second = Register(31);
  Expect(first.error.empty() && first.domain == "dsa", "registration: " + first.error);
  Expect(first.operators.size() == second.operators.size() && !first.operators.empty(), "registered again");
  for (const dsa::abi::CustomOp* op : first.operators) {
    Expect(op->GetStartVersion(op) == 1 && op->GetEndVersion(op) >= 1, "version 1 is there");
    Expect(op->GetOutputTypeCount(op) == 1 && op->GetOutputType(op, 0) == op->GetInputType(op, 0), "one output");
    Expect(!op->GetMayInplace == !op->ReleaseMayInplace, "what is allocated can be released");
    if (op->GetMayInplace) {
      int *inputs = nullptr, *outputs = nullptr;
      const std::size_t pairs = op->GetMayInplace(&inputs, &outputs);
      Expect(pairs == 1 && inputs[0] == 1 && outputs[0] == 0, "the pool may be written in place");
      op->ReleaseMayInplace(inputs, outputs);
    }
  }
  std::printf("registration\n");
}

// Every allocation of working memory fails once: an error each time, never the end of the process, and no harm done.
void MemoryRunsOut(Order order) {
  const auto inputs = SomeInputs(130, 2);
  const Kernel judge(Attention(Register()), SomeAttributes());
  const std::string expected = Run(judge, inputs, Order::kForward);
  int failures = 0;
  for (std::string got; got != expected; ++failures) {
    const Kernel kernel(Attention(Register()), SomeAttributes());
    allocations_left = failures;
    got = Run(kernel, inputs, order);
    allocations_left = -1;
    Expect(got == expected || got.size() < 200, "an error or the output: " + got.substr(0, 200));
    Expect(Run(kernel, inputs, order) == expected, "the kernel works again");
  }
  Expect(failures > 2, "allocations were made to fail");
  std::printf("%d failed allocations\n", failures - 1);
}

// One kernel, four callers with calls of different sizes, each cut into tasks on three threads.
void Concurrency() {
  const Kernel kernel(Attention(Register()), SomeAttributes());
  std::vector<std::vector<Tensor>> inputs;
  for (int i = 0; i < 4; ++i) inputs.push_back(SomeInputs(130 + i, 1 + i % 2));
  std::vector<std::vector<std::string>> outputs(inputs.size());
  std::vector<std::thread> callers;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    callers.emplace_back([&, i] {
      Register();
      for (int run = 0; run < 3; ++run) outputs[i].push_back(Run(kernel, inputs[i], Order::kThreads));
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const std::string alone = Run(kernel, inputs[i], Order::kReverse);
    for (const std::string& output : outputs[i]) Expect(output == alone, "the same output from any thread");
  }
  std::printf("concurrency\n");
}

}  // namespace

int main() {
  Concurrency();  // first, so that what is initialised on first use is so by several threads
  RegistrationEdges();
  MemoryRunsOut(Order::kForward);
  MemoryRunsOut(Order::kThreads);
}
