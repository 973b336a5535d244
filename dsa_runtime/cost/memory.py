"""Memory: what has to lie in a device's memory, per device and per session."""

from __future__ import annotations

from dataclasses import dataclass

from .decoder import Decoder
from .precision import Precision
from .shape import Shape


@dataclass(frozen=True)
class Memory:
    """Bytes. `weights` once; everything else for each session."""

    weights: int
    """Of generator, confidence head and decoder."""
    cache: int
    """Slots of the paged pool: a window, and one that the commit fills."""
    prompt: int
    decoder_state: int
    activations: int
    """The widest place of a tick: an estimate, since it depends on what is fused and on the allocator."""

    @property
    def per_session(self) -> int:
        return self.cache + self.prompt + self.decoder_state + self.activations

    def of(self, sessions: int) -> int:
        """Bytes with so many sessions in one batch."""
        return self.weights + sessions * self.per_session


def memory_of(shape: Shape, decoder: Decoder, precision: Precision) -> Memory:
    """What a shape needs with this decoder, without a history for `rewind`."""
    size = precision.value_bytes
    # x, its normed copy, and the wider of: query, key, value and result; the MLP before and after its activation
    widest = shape.tokens * (2 * shape.dim + max(4 * shape.dim, 2 * shape.mlp_width))
    return Memory(
        weights=(shape.parameters + shape.confidence_parameters) * precision.weight_bytes + decoder.parameters * size,
        cache=(shape.window + 1) * shape.slot_values * size,
        prompt=shape.prompt_values * size,
        decoder_state=decoder.state_values * size,
        activations=max(widest, max(each.widest for each in decoder.convolutions)) * size,
    )
