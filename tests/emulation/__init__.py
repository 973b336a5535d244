"""The CUDA kernels on the CPU: their own source, compiled against an emulated GPU (`simt.h`)."""
