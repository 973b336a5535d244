#include "simt.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

Options options;
long bank_conflicts = 0;

namespace {

constexpr std::size_t kStackBytes = 128 * 1024;
constexpr std::size_t kMargin = 4096;       // of NaN around shared memory
constexpr unsigned char kPoison = 0xff;     // NaN in every type, when repeated

enum class State { kReady, kAtWarp, kAtBlock, kDone };

struct Copy {
  unsigned char* target;
  const void* source;  // null for zeros
  std::size_t bytes;
};

struct Fiber {
  State state = State::kReady;
  bool started = false;
  ucontext_t start;
  jmp_buf context;
  Collective collective = nullptr;
  void* argument = nullptr;
  bool predicate = false;
  std::vector<Copy> copies;  // that have not arrived
};

struct Range {
  const unsigned char *first, *last;
};

std::vector<Range> readable;
std::vector<Fiber> fibers;
std::unique_ptr<unsigned char[]> stacks;
std::size_t stack_count = 0;
alignas(1024) unsigned char memory[kMargin + kMostSharedBytes + kMargin];
std::size_t shared_size = 0;
jmp_buf scheduler;
int current = 0;
bool any = false;  // the result of the last meeting of the block
std::string failure;
const std::function<void()>* body = nullptr;
std::mt19937 random_bits;

bool Coin() { return random_bits() % 2 == 0; }

void Leave(State state) {
  fibers[current].state = state;
  if (_setjmp(fibers[current].context) == 0) _longjmp(scheduler, 1);
}

void Arrive(const Copy& copy) {
  if (copy.source == nullptr) {
    std::memset(copy.target, 0, copy.bytes);
  } else {
    std::memcpy(copy.target, copy.source, copy.bytes);
  }
}

void RunFiber() {
  (*body)();
  if (!fibers[current].copies.empty()) Fail("a thread ends before its copies have arrived");
  Leave(State::kDone);
}

// Runs thread `index` up to its next meeting.
void Resume(int index) {
  current = index;
  threadIdx = dim3(index, 0, 0);
  Fiber& fiber = fibers[index];
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.context, 1);
  fiber.started = true;
  ucontext_t unused;
  swapcontext(&unused, &fiber.start);
}

// Runs the lanes of one warp up to their next meeting and, if it is the warp's, holds it.
void RunWarp(int warp) {
  int order[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) order[lane] = options.schedule == 1 ? kLanes - 1 - lane : lane;
  if (options.schedule > 1) std::shuffle(order, order + kLanes, random_bits);
  Fiber* const lanes = &fibers[warp * kLanes];
  for (const int lane : order) {
    Resume(warp * kLanes + lane);
    if (!failure.empty()) return;
  }
  void* arguments[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    if (lanes[lane].state != lanes[0].state || lanes[lane].collective != lanes[0].collective) {
      failure = "the lanes of a warp meet at different instructions";
      return;
    }
    arguments[lane] = lanes[lane].argument;
  }
  if (lanes[0].state != State::kAtWarp) return;
  lanes[0].collective(arguments);
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane].state = State::kReady;
}

void RunBlock(int threads) {
  fibers.assign(threads, Fiber());
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = &stacks[i * kStackBytes];
    fiber.start.uc_stack.ss_size = kStackBytes;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, RunFiber, 0);
  }
  std::memset(memory, kPoison, kMargin + shared_size + kMargin);
  const int warps = threads / kLanes;
  while (failure.empty()) {
    std::vector<int> ready;
    for (int warp = 0; warp < warps; ++warp) {
      if (fibers[warp * kLanes].state == State::kReady) ready.push_back(warp);
    }
    if (!ready.empty()) {
      RunWarp(options.schedule == 0   ? ready.front()
              : options.schedule == 1 ? ready.back()
                                      : ready[random_bits() % ready.size()]);
      continue;
    }
    any = false;
    bool finished = true, waiting = true;
    for (const Fiber& fiber : fibers) {
      any |= fiber.predicate;
      finished &= fiber.state == State::kDone;
      waiting &= fiber.state == State::kAtBlock;
    }
    if (finished) break;
    if (!waiting) failure = "some threads wait at a barrier, others have ended";
    for (Fiber& fiber : fibers) fiber.state = State::kReady;
  }
  const auto poisoned = [](const unsigned char* first) {
    return std::all_of(first, first + kMargin, [](unsigned char byte) { return byte == kPoison; });
  };
  if (failure.empty() && !(poisoned(memory) && poisoned(memory + kMargin + shared_size))) {
    failure = "a write beside shared memory";
  }
}

}  // namespace

void AllowReads(const void* start, std::size_t bytes) {
  const auto* first = static_cast<const unsigned char*>(start);
  readable.push_back({first, first + bytes});
}

void ForgetReads() { readable.clear(); }

const char* RunGrid(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& kernel) {
  failure.clear();
  random_bits.seed(static_cast<unsigned>(options.schedule));
  if (shared_bytes > kMostSharedBytes) return "too much shared memory";
  if (block.x % kLanes != 0 || block.y != 1 || block.z != 1) return "blocks have to be rows of whole warps";
  if (grid.x * grid.y * grid.z == 0 || grid.y > 65535 || grid.z > 65535) return "a grid of impossible size";
  shared_size = shared_bytes;
  body = &kernel;
  gridDim = grid, blockDim = block;
  if (stack_count < block.x) {
    stacks.reset(new unsigned char[block.x * kStackBytes]);
    stack_count = block.x;
  }
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x && failure.empty(); ++x) {
        blockIdx = dim3(x, y, z);
        RunBlock(static_cast<int>(block.x));
      }
    }
  }
  return failure.empty() ? nullptr : failure.c_str();
}

void Fail(const char* what) {
  failure = what;
  _longjmp(scheduler, 1);
}

void MeetWarp(Collective act, void* argument) {
  fibers[current].collective = act, fibers[current].argument = argument;
  Leave(State::kAtWarp);
}

bool MeetBlock(bool predicate) {
  fibers[current].collective = nullptr, fibers[current].predicate = predicate;
  Leave(State::kAtBlock);
  return any;
}

unsigned char* SharedMemory() { return memory + kMargin; }

std::uint32_t SharedAddress(const void* pointer) {
  return kSharedBase + static_cast<std::uint32_t>(static_cast<const unsigned char*>(pointer) - SharedMemory());
}

unsigned char* SharedBytes(std::uint32_t address, std::size_t bytes) {
  if (address % bytes != 0) Fail("a misaligned address of shared memory");
  if (address < kSharedBase || address + bytes > kSharedBase + shared_size) Fail("an access beside shared memory");
  return SharedMemory() + (address - kSharedBase);
}

void CopyAsync(std::uint32_t target, const void* source, std::size_t bytes, bool valid) {
  const auto* first = static_cast<const unsigned char*>(source);
  if (reinterpret_cast<std::uintptr_t>(first) % bytes != 0) Fail("a copy from a misaligned address");
  const auto holds = [&](const Range& range) { return first >= range.first && first + bytes <= range.last; };
  if (valid && std::none_of(readable.begin(), readable.end(), holds)) Fail("a copy from beside every tensor");
  const Copy copy{SharedBytes(target, bytes), valid ? source : nullptr, bytes};
  if (options.schedule == 0 || (options.schedule > 1 && Coin())) {
    Arrive(copy);
  } else {
    fibers[current].copies.push_back(copy);
  }
}

void WaitForCopies() {
  for (const Copy& copy : fibers[current].copies) Arrive(copy);
  fibers[current].copies.clear();
}

}  // namespace emulation
