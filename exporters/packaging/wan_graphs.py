"""Graphs of a package whose generator is of Wan's family, as `exporters.packaging.graphs` has those of the game worlds.

B sessions, C latent channels, n latent frames of a chunk, L tokens of a prompt, H heads, D head width, `2 layers` the
keys and values of each layer in turn. The runtime counts ages in ticks, the operator's rotation latent frames, so the
graphs multiply.
"""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn

from dsa_runtime.form import Form
from exporters.model.generator import Attend
from exporters.model.wan.context import Prompt
from exporters.model.wan.generator import WanGenerator
from exporters.model.wan.transformer import parameter_dtype
from exporters.packaging.graphs import Graph, WriteGraph, paged_attends


class WanDenoiseGraph(nn.Module):
    """One denoising step of a chunk: clean estimate float32[B, C, n, h, w] and confidence logit float32[B]."""

    def __init__(self, generator: WanGenerator, form: Form) -> None:
        super().__init__()
        self.generator, self.form = generator, form

    def forward(
        self, latent: Tensor, level: Tensor, action: Tensor, slot_table: Tensor, slot_age: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Inputs as of `graphs.DenoiseGraph`, but latent [B, C, n, h, w], without the axis of n where that is 1.

        rest   the prompt [B, 2 layers, L, H, D], if the model takes text; key and value pools of each layer in turn
        """
        attends, prompt = self.unpack(slot_table, slot_age, rest)
        clean, taps, condition = self.generator.run(self.chunk(latent), level, action, attends, prompt)
        return clean.view_as(latent), self.generator.confidence(taps, condition)

    def chunk(self, latent: Tensor) -> Tensor:
        """[B, C, n, h, w], also of a chunk of one latent frame."""
        return latent if self.generator.config.chunk > 1 else latent.unsqueeze(2)

    def unpack(
        self, slot_table: Tensor, slot_age: Tensor, rest: tuple[Tensor, ...]
    ) -> tuple[list[Attend], Prompt | None]:
        """Per layer the attention, and the prompt."""
        c = self.generator.config
        dtype = self.generator.transformer.stem.embed.weight.dtype
        prompt, pools = (unstack_prompt(rest[0].to(dtype)), rest[1:]) if c.text_width else (None, rest)
        return paged_attends(c, self.form, slot_table, c.chunk * slot_age, pools), prompt


class WanCommitGraph(WanDenoiseGraph):
    """Keys and values of a finished chunk: key, value per layer, each float32[B, T, H, D]."""

    def forward(
        self, latent: Tensor, level: Tensor, action: Tensor, slot_table: Tensor, slot_age: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        """The inputs of `WanDenoiseGraph`, with the clean latent and the context level."""
        attends, prompt = self.unpack(slot_table, slot_age, rest)
        keys, values = self.generator.keys_values(self.chunk(latent), level, action, attends, prompt)
        return tuple(tensor for pair in zip(keys, values, strict=True) for tensor in pair)


class ConditionGraph(nn.Module):
    """Text embeddings float32[B, L, text width] -> prompt float32[B, 2 layers, L, H, D]."""

    def __init__(self, generator: WanGenerator) -> None:
        super().__init__()
        self.transformer = generator.transformer

    def forward(self, text: Tensor) -> Tensor:
        """`text` is filled up with zeros to L already."""
        return stack_prompt(self.transformer.prompt(text))


def stack_prompt(prompt: Prompt) -> Tensor:
    """[B, 2 layers, L, H, D]"""
    pairs = zip(prompt.keys, prompt.values, strict=True)
    return torch.stack(list(itertools.chain.from_iterable(pairs)), dim=1)


def unstack_prompt(stacked: Tensor) -> Prompt:
    """The reverse of `stack_prompt`."""
    layers = stacked.unbind(1)
    return Prompt(layers[::2], layers[1::2])


def half(generator: WanGenerator) -> WanGenerator:
    """A copy whose large matrices are float16; norms, what is made of the noise level and the head stay float32."""
    copied = copy.deepcopy(generator)
    for name, parameter in copied.transformer.named_parameters():
        parameter.data = parameter.data.to(parameter_dtype(name, torch.float16))
    return copied


def wan_graphs(generator: WanGenerator, form: Form) -> list[Graph]:
    """`denoise` and `commit`, and `condition` with the plain form of a model that takes text; or `denoise_op`,
    `commit_op` and `write_op`; or these three in float16, of a generator that `half` has made.
    """
    c = generator.config
    # Sizes of the example: none is 1 and free sizes differ from all others, or tracing would take them for constants.
    batch, slots = 2, c.window + 3
    names = [f"{kind}_{layer}" for layer in range(c.depth) for kind in ("key", "value")]
    # Never written, so that the pools of a large model take no memory.
    dtype = torch.float16 if form == "half" else torch.float32
    pools = {
        name.replace("_", "_pool_"): torch.empty(slots, c.tokens, c.heads, c.head_dim, dtype=dtype) for name in names
    }
    shape = c.latent_shape if c.chunk > 1 else (c.latent_channels, c.latent_height, c.latent_width)
    state = {
        "latent": torch.zeros(batch, *shape),
        "level": torch.ones(batch),
        "action": torch.zeros(batch, max(c.action_width, 1)),
        "slot_table": torch.zeros(batch, c.window, dtype=torch.int32),
        "slot_age": torch.ones(batch, c.window, dtype=torch.int32),
    }
    if c.text_width:
        state["prompt"] = torch.zeros(batch, 2 * c.depth, c.text_tokens, c.heads, c.head_dim)
    inputs, free = {**state, **pools}, dict.fromkeys(state, "B") | dict.fromkeys(pools, "S")
    suffix = "" if form == "plain" else f"_{form}"
    graphs = [
        Graph(f"denoise{suffix}", WanDenoiseGraph(generator, form), inputs, free, ("clean", "confidence_logit")),
        Graph(f"commit{suffix}", WanCommitGraph(generator, form), inputs, free, tuple(names)),
    ]
    if form != "plain":
        frames = {name: torch.empty(batch, c.tokens, c.heads, c.head_dim, dtype=dtype) for name in names}
        frames = {"slot": torch.zeros(batch, dtype=torch.int32), **frames}
        written = tuple(name.replace("_", "_pool_out_") for name in names)
        free = dict.fromkeys(frames, "B") | dict.fromkeys(pools, "S")
        graphs.append(Graph(f"write{suffix}", WriteGraph(), {**frames, **pools}, free, written))
    elif c.text_width:
        text = {"text": torch.zeros(batch, c.text_tokens, c.text_width)}
        graphs.append(Graph("condition", ConditionGraph(generator), text, {"text": "B"}, ("prompt",)))
    return graphs
