"""Efficiency: which share of a device's peak is assumed to be reached. None of these was measured by this project."""

from __future__ import annotations

from dataclasses import dataclass

from .cost import Arithmetic
from .device import THIS_CPU, Device


@dataclass(frozen=True)
class Efficiency:
    """Shares of the peak, 0 to 1, by what is computed and for bytes through memory."""

    name: str
    linear: float
    attention: float
    convolution: float
    bandwidth: float

    def of(self, arithmetic: Arithmetic) -> float:
        """Of operations of this kind."""
        return {
            "linear": self.linear,
            "attention": self.attention,
            "convolution": self.convolution,
            "none": 1.0,
        }[arithmetic]


# linear       .5 to .7 of peak is what large products in 16 bits usually reach.
# attention    FlashAttention-2's scheme, which our CUDA kernel follows, reaches .35 of an H100, FlashAttention-3 .75
#              in float16 (both figures: arXiv 2407.08608). GeForce and L40S lack what the second needs, and come
#              closer to their lower peak with the first.
# convolution  the published frame rates of `published.py` leave about .2 for the autoencoder's decoder if it alone
#              makes up what does not grow with the steps; .5 is a guess at what tuned ones reach.
# bandwidth    .7 to .9 is what large copies usually reach.
LOW = Efficiency("low", 0.5, 0.35, 0.2, 0.7)
USUAL = Efficiency("usual", 0.6, 0.5, 0.35, 0.8)
HIGH = Efficiency("high", 0.7, 0.7, 0.5, 0.9)
PEAK = Efficiency("peak", 1.0, 1.0, 1.0, 1.0)
"""The roofline itself; no device reaches it."""


def assumed(device: Device) -> tuple[Efficiency, Efficiency, Efficiency]:
    """Low, usual and high. The rates of this CPU were reached, not promised, so for it the roofline stands."""
    return (PEAK, PEAK, PEAK) if device.name == THIS_CPU else (LOW, USUAL, HIGH)
