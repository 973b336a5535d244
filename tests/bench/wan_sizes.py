"""Sizes of `bench_wan --tiny`, without torch."""

from __future__ import annotations

TINY_BASE = 4
"""Width of Wan's decoder at the picture's resolution."""
TINY_WIDTHS = (8, 8, 8)
"""Of the small decoder."""
