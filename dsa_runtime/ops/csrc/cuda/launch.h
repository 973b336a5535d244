// The CUDA kernels' entry points. `stream` is a cudaStream_t. Asynchronous; null on success, else a text that says
// what failed and lives for ever.
#pragma once

#include "../problem.h"

namespace dsa::cuda {

// Head widths 32, 64 and 128; float32, float16, bfloat16, pools of the same type; a positive scale; tensors that start
// at multiples of 16 bytes; frames of less than 2^31 numbers. Tables lie on the device, where an entry that is out of
// range cannot become an error without stopping the stream: the output of that session is NaN, and nothing out of
// bounds is read.
const char* LaunchFrameAttention(const FrameAttention& call, void* stream);

// Slots out of range are not written. A slot named twice gets a mix of the two frames.
const char* LaunchFrameWrite(const FrameWrite& call, void* stream);

// A copy of the whole pool, for when input and output of PagedFrameWrite are not the same memory.
const char* CopyOnDevice(void* target, const void* source, std::size_t bytes, void* stream);

}  // namespace dsa::cuda
