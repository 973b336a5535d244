"""Shape: the sizes of a generator, from which its parameters, operations and memory follow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .decoder import Decoder
from .family import Family
from .linear import Linear

TAP_WIDTH = 64
"""Width of the confidence head's queries."""


@dataclass(frozen=True)
class Shape:
    """A causal generator and how it is played. A tick draws one latent frame, or a chunk of them."""

    name: str
    family: Family
    layers: int
    heads: int
    head_dim: int
    mlp_width: int
    gated: bool
    """Whether the MLP has a gate: three matrices, not two."""
    tokens: int
    """Of a tick: full attention among them."""
    token_values: int
    """Values of the latent in a token: the cells of a patch times their channels."""
    window: int
    """Earlier ticks that a tick can see."""
    text_tokens: int
    """Of a prompt, attended to in every block; 0: no text."""
    text_width: int
    action_width: int
    taps: int
    """Blocks that the confidence head reads."""
    latent: tuple[int, int, int, int]
    """Channels, frames, height and width of a tick's latent."""
    picture: tuple[int, int]
    """Height and width."""
    pictures: int
    """That a tick shows."""
    fps: float
    """Pictures a second that a session needs."""
    steps: int
    """Denoising steps of the full schedule."""
    mean_steps: float
    """Denoising steps of a tick in the mean, for what sessions cost."""
    decoders: tuple[Decoder, ...]

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def period_ms(self) -> float:
        """Time between ticks of a session that is shown at `fps`."""
        return 1000.0 * self.pictures / self.fps

    def linears(self) -> Iterator[Linear]:
        """Every linear layer; a commit leaves out what comes after the last block's keys and values."""
        d, n, bias = self.dim, self.layers, self.family.bias
        yield Linear("ends", self.token_values, d, "token")
        yield Linear("ends", self.family.level_width, d, "tick")
        yield Linear("ends", d, d, "tick")
        if self.action_width:
            yield Linear("ends", self.action_width, d, "tick")
        if self.family.modulation:
            yield Linear("modulation", d, 6 * d, "tick", n, n)
            yield Linear("ends", d, 2 * d, "tick", committed=0)
        else:
            yield Linear("modulation", d, 6 * d, "tick")
        yield Linear("projections", d, 3 * d, "token", n, n, bias)
        yield Linear("projections", d, d, "token", n, n - 1, bias)
        if self.text_tokens:
            yield Linear("text", self.text_width, d, "prompt")
            yield Linear("text", d, d, "prompt")
            yield Linear("text", d, d, "prompt", 2 * n)
            yield Linear("text", d, d, "token", 2 * n, 2 * (n - 1))
        yield Linear("mlp", d, self.mlp_width, "token", n * (1 + self.gated), (n - 1) * (1 + self.gated), bias)
        yield Linear("mlp", self.mlp_width, d, "token", n, n - 1, bias)
        yield Linear("ends", d, self.token_values, "token", committed=0)

    def confidence_linears(self) -> Iterator[Linear]:
        """Those of the confidence head, which a step asks and a commit does not."""
        yield Linear("confidence", self.dim, TAP_WIDTH, "token", 2 * self.taps, 0, bias=False)
        yield Linear("confidence", self.dim, TAP_WIDTH, "tick", committed=0)
        yield Linear("confidence", TAP_WIDTH * (self.taps + 1), self.dim, "tick", committed=0)
        yield Linear("confidence", self.dim, 1, "tick", committed=0)

    @property
    def parameters(self) -> int:
        """Of the generator without its confidence head."""
        norm = self.dim if self.family.norm_all_heads else self.head_dim
        per_layer = 2 * norm
        if not self.family.modulation:
            per_layer += 6 * self.dim
        if self.text_tokens:
            per_layer += 2 * norm + 2 * self.dim  # the text's own norms
        rest = self.tokens * self.dim if self.family.learned_position else 0
        rest += 0 if self.family.modulation else 2 * self.dim
        return sum(linear.parameters for linear in self.linears()) + self.layers * per_layer + rest

    @property
    def confidence_parameters(self) -> int:
        norms = self.taps * 2 * self.dim + 2 * TAP_WIDTH * (self.taps + 1)
        queries = self.taps * TAP_WIDTH
        return sum(linear.parameters for linear in self.confidence_linears()) + norms + queries

    @property
    def slot_values(self) -> int:
        """Of one tick in the cache: keys and values of all layers."""
        return 2 * self.layers * self.tokens * self.dim

    @property
    def prompt_values(self) -> int:
        """Keys and values of a prompt, in all layers."""
        return 2 * self.layers * self.text_tokens * self.dim
