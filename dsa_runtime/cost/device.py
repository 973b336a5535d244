"""Device: what a machine could do at best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GB, TB, TERA = 1e9, 1e12, 1e12


@dataclass(frozen=True)
class Device:
    """Peak rates. Of a GPU they are its maker's, dense and with sums in float32, and nothing of it was measured."""

    name: str
    flops: Mapping[str, float]
    """Operations a second, by kind of number."""
    bandwidth: float
    """Bytes a second of its memory."""
    memory: float
    """Bytes."""
    launch_us: float
    """Between two kernels, on an idle stream or in a CUDA graph: an assumption, in no data sheet."""
    source: str


_LAUNCH_US = 2.0

DEVICES = {
    device.name: device
    for device in (
        # Data sheets give tensor core rates "with sparsity"; dense is half of that. float32 is that of the plain cores.
        Device(
            "h100-sxm",
            {"bf16": 989.4 * TERA, "fp16": 989.4 * TERA, "fp8": 1978.9 * TERA, "fp32": 66.9 * TERA},
            3.35 * TB,
            80 * GB,
            _LAUNCH_US,
            "NVIDIA H100 Tensor Core GPU, data sheet and architecture paper, SXM5",
        ),
        Device(
            "h200",
            {"bf16": 989.4 * TERA, "fp16": 989.4 * TERA, "fp8": 1978.9 * TERA, "fp32": 66.9 * TERA},
            4.8 * TB,
            141 * GB,
            _LAUNCH_US,
            "NVIDIA H200 Tensor Core GPU, data sheet, SXM",
        ),
        Device(
            "l40s",
            {"bf16": 362.05 * TERA, "fp16": 362.05 * TERA, "fp8": 733 * TERA, "fp32": 91.6 * TERA},
            864 * GB,
            48 * GB,
            _LAUNCH_US,
            "NVIDIA L40S, data sheet",
        ),
        # GeForce cards multiply at half rate where sums are kept in float32, which is what libraries do.
        Device(
            "rtx-4090",
            {"bf16": 165.2 * TERA, "fp16": 165.2 * TERA, "fp8": 330.3 * TERA, "fp32": 82.6 * TERA},
            1008 * GB,
            24 * GB,
            _LAUNCH_US,
            "NVIDIA Ada GPU architecture paper, GeForce RTX 4090",
        ),
        Device(
            "rtx-5090",
            {"bf16": 209.5 * TERA, "fp16": 209.5 * TERA, "fp8": 419.0 * TERA, "fp32": 104.8 * TERA},
            1792 * GB,
            32 * GB,
            _LAUNCH_US,
            "NVIDIA RTX Blackwell GPU architecture paper, GeForce RTX 5090",
        ),
    )
}
THIS_CPU = "this-cpu"
"""Measured when it is asked for."""
