// What Python calls. One call at a time.
#include "launch.h"
#include "simt.h"

extern "C" {

void DsaEmulationConfigure(int schedule, int multiprocessors) {
  emulation::options = {schedule, multiprocessors};
  emulation::bank_conflicts = 0;
  emulation::ForgetReads();
}

void DsaEmulationAllowReads(const void* start, std::size_t bytes) { emulation::AllowReads(start, bytes); }

const char* DsaEmulationAttention(const dsa::FrameAttention* call) {
  return dsa::cuda::LaunchFrameAttention(*call, nullptr);
}

const char* DsaEmulationWrite(const dsa::FrameWrite* call) { return dsa::cuda::LaunchFrameWrite(*call, nullptr); }

long DsaEmulationBankConflicts() { return emulation::bank_conflicts; }

}  // extern "C"
