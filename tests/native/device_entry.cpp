// The CUDA kernels' entry points for Python, for tests without ONNX Runtime.
#include "cuda/launch.h"

extern "C" {

const char* DsaAttention(const dsa::FrameAttention* call, void* stream) {
  return dsa::cuda::LaunchFrameAttention(*call, stream);
}

const char* DsaWrite(const dsa::FrameWrite* call, void* stream) { return dsa::cuda::LaunchFrameWrite(*call, stream); }

}  // extern "C"
