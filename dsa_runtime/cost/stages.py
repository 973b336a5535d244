"""The work of the stages of a tick, part by part.

The denoising step and the commit of a generator, the keys and values of a prompt, and the decoding of a tick. Norms,
modulation, rotary position and sums are taken to be fused into one pass each, over what goes in and comes out.
"""

from __future__ import annotations

from collections.abc import Sequence

from .cost import Cost
from .decoder import Decoder
from .linear import Linear
from .precision import Precision
from .shape import Shape

_BLOCK_PASSES = 14
"""Reads and writes of all tokens in a block, apart from its matrix products: two norms with modulation (2 each), norm
and rotation of query and key (4), two gated sums (3 each)."""
_TEXT_PASSES = 7
"""A norm (2), the query's norm (2) and a sum (3)."""
_BLOCK_KERNELS, _TEXT_KERNELS = 7, 3
_TAP_PASSES = 2
"""The norm of a block that the confidence head reads."""


def step_cost(shape: Shape, precision: Precision, *, filled: int | None = None, batch: int = 1) -> list[Cost]:
    """One denoising step of `batch` sessions, confidence included, with `filled` ticks in the window (None: all)."""
    every = [*shape.linears(), *shape.confidence_linears()]
    counted = [(linear, linear.count) for linear in every]
    costs = _generator(shape, precision, counted, shape.layers, shape.window if filled is None else filled, batch)
    normed = _TAP_PASSES * batch * shape.tokens * shape.dim * precision.value_bytes
    return [*costs, Cost("confidence", "none", 0, 0, 0, shape.taps * normed, shape.taps)]


def commit_cost(shape: Shape, precision: Precision, *, filled: int | None = None, batch: int = 1) -> list[Cost]:
    """A finished tick into the cache: a step whose last block stops at its keys and values."""
    counted = [(linear, linear.committed) for linear in shape.linears()]
    costs = _generator(shape, precision, counted, shape.layers - 1, shape.window if filled is None else filled, batch)
    written = batch * shape.slot_values * precision.value_bytes
    return [*costs, Cost("cache", "none", 0, 0, written, 0, 2 * shape.layers)]


def prompt_cost(shape: Shape, precision: Precision, *, batch: int = 1) -> list[Cost]:
    """A prompt's keys and values, once per prompt; what embeds the text is not part of it. Empty without text."""
    counted = [(linear, linear.count) for linear in shape.linears() if linear.rows == "prompt"]
    return [_linear(linear, count, batch * shape.text_tokens, precision) for linear, count in counted]


def decode_cost(decoder: Decoder, precision: Precision, *, batch: int = 1) -> list[Cost]:
    """A tick's latent to pictures. The state of causal convolutions is read, and written anew."""
    size = precision.value_bytes
    costs = []
    for each in decoder.convolutions:
        state = 2 * batch * each.inputs * each.past * size
        moved, around = batch * each.moved * size, batch * each.around * size
        flops, weights = batch * each.flops, each.parameters * size
        costs.append(Cost("convolutions", "convolution", flops, weights, state, moved, 1))
        kernels = each.normed + each.enlarged + each.added
        costs.append(Cost("element-wise", "none", 0, 0, 0, around, kernels))
    if decoder.attended:
        costs.append(Cost("attention", "attention", batch * decoder.attended, 0, 0, 0, 1))
    return [cost for cost in costs if cost.kernels]


def _generator(
    shape: Shape, precision: Precision, counted: Sequence[tuple[Linear, int]], layers: int, filled: int, batch: int
) -> list[Cost]:
    """`counted`: linear layers and how many of each; `layers`: whole blocks."""
    rows = {"token": batch * shape.tokens, "tick": batch}
    costs = [_linear(linear, count, rows[linear.rows], precision) for linear, count in counted if linear.rows in rows]
    size = precision.value_bytes
    tensor = batch * shape.tokens * shape.dim * size  # all tokens, once
    seen = shape.tokens * (1 + filled)
    text = 2 * batch * shape.text_tokens * shape.dim * size
    costs.append(
        Cost(
            "attention",
            "attention",
            layers * 4 * batch * shape.tokens * seen * shape.dim,
            0,
            layers * 2 * filled * tensor,
            layers * 4 * tensor,
            layers,
        )
    )
    if shape.text_tokens:
        attended = 4 * batch * shape.tokens * shape.text_tokens * shape.dim
        costs.append(Cost("text", "attention", layers * attended, 0, layers * text, layers * 2 * tensor, layers))
    passes = _BLOCK_PASSES + _TEXT_PASSES * bool(shape.text_tokens)
    hidden = 2 * tensor * shape.mlp_width / shape.dim  # the activation of the MLP: read and write
    kernels = layers * (_BLOCK_KERNELS + _TEXT_KERNELS * bool(shape.text_tokens))
    costs.append(Cost("element-wise", "none", 0, 0, 0, layers * (passes * tensor + hidden), kernels))
    return [cost for cost in costs if cost.kernels]


def _linear(linear: Linear, count: int, rows: int, precision: Precision) -> Cost:
    """`count` of these layers, on so many rows."""
    each = linear.inputs * linear.outputs
    moved = rows * (linear.inputs + linear.outputs) * precision.value_bytes
    weights = linear.parameters / linear.count * precision.weight_bytes
    return Cost(linear.part, "linear", 2 * count * rows * each, count * weights, 0, count * moved, count)
