"""Family: what generators of one architecture have in common, whatever their size."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """How a block is modulated, normed and biased."""

    name: str
    bias: bool
    """Whether the linear layers of a block have biases."""
    modulation: bool
    """Whether every block makes its own modulation from the noise level. If not, one layer makes it for all of them,
    and a block adds a learned table of six vectors."""
    norm_all_heads: bool
    """Whether the norm of queries and keys has a gain for every dimension of the model, or only of a head."""
    learned_position: bool
    """Whether every token has a learned vector."""
    level_width: int
    """Sinusoids that a noise level is given as."""


WORLD = Family("world", bias=False, modulation=True, norm_all_heads=False, learned_position=True, level_width=64)
"""`exporters.model.generator`: the game worlds."""
WAN = Family("wan", bias=True, modulation=False, norm_all_heads=True, learned_position=False, level_width=256)
"""`exporters.model.wan`: Wan2.1's transformer, made causal."""
