// A GPU of one multiprocessor on the host: runs a block's threads as fibers of one host thread, deterministically.
//
// A warp's 32 lanes meet at every warp-wide instruction and a block's threads at every barrier; between two meetings
// they run one after another, in an order that a schedule decides. A kernel that lacks a barrier gives wrong results
// under one of the schedules, since shared memory starts out as NaN and asynchronous copies arrive as early or as late
// as the schedule likes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// As CUDA's: of the fiber that runs.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr int kLanes = 32;
constexpr std::size_t kMostSharedBytes = 227 * 1024;  // of a block on sm_90
constexpr std::uint32_t kSharedBase = 1024;           // the shared address of the dynamic shared memory's first byte

struct Options {
  // 0: warps and lanes in order, copies arrive at once. 1: in reverse order, copies arrive when they are waited for.
  // More: a seed; a random warp after each meeting, random lanes, random arrival.
  int schedule = 0;
  int multiprocessors = 1;
};
extern Options options;

// Memory of the device that asynchronous copies may read.
void AllowReads(const void* start, std::size_t bytes);
void ForgetReads();

// Runs `kernel` for each thread of each block. Null, or what the kernel did wrong.
const char* RunGrid(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& kernel);

// --- Called by kernels, that is from a fiber ---

// Stops the grid: the kernel has done something that no GPU allows.
[[noreturn]] void Fail(const char* what);

// Meets the warp's other lanes; then `act` is called once with every lane's argument, in the order of lanes.
using Collective = void (*)(void* const* arguments);
void MeetWarp(Collective act, void* argument);

// Meets the block's other threads. Returns whether `predicate` holds for any.
bool MeetBlock(bool predicate);

unsigned char* SharedMemory();
std::uint32_t SharedAddress(const void* pointer);
// `bytes` bytes of shared memory; they have to lie within the block's and be aligned to their number.
unsigned char* SharedBytes(std::uint32_t address, std::size_t bytes);
void CopyAsync(std::uint32_t target, const void* source, std::size_t bytes, bool valid);
void WaitForCopies();

// Rows that matrix loads had to fetch one after another because they lie in the same banks.
extern long bank_conflicts;

}  // namespace emulation
