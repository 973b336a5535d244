"""Wan's transformer with random weights, in the ways in which `bench_wan` plays it.

Two caches of the same committed chunks, both full: a ring as Self-Forcing keeps it (all keys in one piece, rotated to
their absolute position) for PyTorch's own attention, and the pool of slots that `dsa.PagedFrameAttention` reads. Both
start from the same random keys and values, so that every candidate must give the same chunk.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from exporters.model.attention import paged_attention, rotate_time
from exporters.model.generator import Attend
from exporters.model.wan.attention import attend_all
from exporters.model.wan.config import WanConfig
from exporters.model.wan.context import WanContext
from exporters.model.wan.generator import WanGenerator
from exporters.model.wan.transformer import WanTransformer, parameter_dtype
from tests import cuda_launch
from tests.bench.bench_cuda_attention import launcher


class Cache(Protocol):
    """Committed chunks of one session whose window is full."""

    def attends(self) -> list[Attend]:
        """Per layer, the attention of a chunk over itself and the window."""

    def commit(self, keys: list[Tensor], values: list[Tensor]) -> None:
        """In the place of the oldest chunk."""


@dataclass(frozen=True)
class Candidate:
    """One way to run the generator."""

    name: str
    denoise: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """Noisy chunk float32[1, C, n, h, w] and level [1] -> clean estimate and confidence logit."""
    commit: Callable[[Tensor], None]
    """A clean chunk into the cache."""


def make_generator(config: WanConfig, device: str, dtype: torch.dtype) -> WanGenerator:
    """With random weights, those of the linear layers in `dtype`."""
    torch.manual_seed(0)
    with torch.device(device):
        generator = WanGenerator(WanTransformer(config)).eval().requires_grad_(False)
    for name, parameter in generator.transformer.named_parameters():
        parameter.data = parameter.data.to(parameter_dtype(name, dtype))
    return generator


def random_context(config: WanConfig, device: str, dtype: torch.dtype) -> WanContext:
    """A full window of chunks, with keys and values of about the size that norms leave."""
    shape = (1, config.window, config.tokens, config.heads, config.head_dim)
    torch.manual_seed(1)
    tensors = [torch.randn(shape, device=device, dtype=dtype) for _ in range(2 * config.depth)]
    return WanContext(tuple(tensors[::2]), tuple(tensors[1::2]))


class RingCache:
    """Keys in one piece per layer, the running chunk's at the end; positions count from the start of the session."""

    def __init__(self, config: WanConfig, context: WanContext) -> None:
        self._config, first = config, context.keys[0]
        tokens, window = config.tokens, config.window
        self._chunks = window
        self._now = torch.full((1, 1), float(window * config.chunk), device=first.device)
        self._own = torch.arange(window * tokens, (window + 1) * tokens, device=first.device)
        chunk = torch.arange(window, device=first.device).unsqueeze(-1) * config.chunk
        self._keys, self._values = [], []
        for key, value in zip(context.keys, context.values, strict=True):
            turned = rotate_time(key, chunk, config.temporal_dims, config.theta).type_as(key)
            for pieces, piece in ((self._keys, turned), (self._values, value)):
                whole = torch.zeros(1, (window + 1) * tokens, *piece.shape[3:], device=piece.device, dtype=piece.dtype)
                whole[:, : window * tokens] = piece.flatten(1, 2)
                pieces.append(whole)

    def _turn(self, x: Tensor) -> Tensor:
        return rotate_time(x, self._now, self._config.temporal_dims, self._config.theta).type_as(x)

    def attends(self) -> list[Attend]:
        def attend(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            keys[:, self._own] = self._turn(key)
            values[:, self._own] = value
            return attend_all(self._turn(query), keys, values)

        pairs = zip(self._keys, self._values, strict=True)
        return [functools.partial(attend, keys=keys, values=values) for keys, values in pairs]

    def commit(self, keys: list[Tensor], values: list[Tensor]) -> None:
        tokens, slot = self._config.tokens, self._chunks % self._config.window
        place = slice(slot * tokens, (slot + 1) * tokens)
        for whole, key in zip(self._keys, keys, strict=True):
            whole[:, place] = self._turn(key)
        for whole, value in zip(self._values, values, strict=True):
            whole[:, place] = value
        self._chunks += 1
        self._now += self._config.chunk


class PagedCache:
    """Slots in any order, keys without rotation in time; a commit fills the free one and frees the oldest."""

    def __init__(self, config: WanConfig, context: WanContext) -> None:
        self._config, device = config, context.keys[0].device
        order = torch.randperm(config.window + 1, generator=torch.Generator().manual_seed(2))
        *slots, self._free = order.tolist()
        self._table = torch.tensor([slots], dtype=torch.int32, device=device)
        ages = [config.chunk * age for age in range(config.window, 0, -1)]
        self._ages = torch.tensor([ages], dtype=torch.int32, device=device)
        self._slots = slots
        self._keys, self._values = [], []
        for key, value in zip(context.keys, context.values, strict=True):
            for pools, chunks in ((self._keys, key), (self._values, value)):
                pool = torch.zeros(config.window + 1, *chunks.shape[2:], device=device, dtype=chunks.dtype)
                pool[slots] = chunks[0]
                pools.append(pool)

    def attends(self) -> list[Attend]:
        given = {"temporal_dims": self._config.temporal_dims, "theta": self._config.theta}
        tables = {"slot_table": self._table, "slot_age": self._ages}
        attend = operator() if self._table.is_cuda else paged_attention
        return [
            functools.partial(attend, key_pool=key, value_pool=value, **tables, **given)
            for key, value in zip(self._keys, self._values, strict=True)
        ]

    def commit(self, keys: list[Tensor], values: list[Tensor]) -> None:
        for pool, chunk in zip([*self._keys, *self._values], [*keys, *values], strict=True):
            pool[self._free] = chunk[0]
        self._slots.append(self._free)
        self._free = self._slots.pop(0)
        self._table.copy_(torch.tensor([self._slots], dtype=torch.int32))


@functools.cache
def operator() -> Callable[..., Tensor]:
    """Our CUDA kernel as an operator that `torch.compile` leaves as it is."""
    kernels = launcher()

    def paged(
        query: Tensor, key: Tensor, value: Tensor, key_pool: Tensor, value_pool: Tensor, slot_table: Tensor,
        slot_age: Tensor, temporal_dims: int, theta: float,
    ) -> Tensor:  # fmt: skip
        own = (x.contiguous() for x in (query, key, value))
        scale = query.shape[-1] ** -0.5
        return kernels.attention(
            *own, key_pool, value_pool, slot_table, slot_age, scale=scale, temporal_dims=temporal_dims, theta=theta
        )

    tensors = "query, key, value, key_pool, value_pool, slot_table, slot_age".replace(", ", ", Tensor ")
    schema = f"(Tensor {tensors}, int temporal_dims, float theta) -> Tensor"
    made = torch.library.custom_op("dsa_bench::paged_attention", paged, mutates_args=(), schema=schema)
    made.register_fake(lambda query, *_, **__: torch.empty_like(query, memory_format=torch.contiguous_format))
    return made


@contextmanager
def cudnn_first() -> Iterator[None]:
    """PyTorch's attention by cuDNN where it can."""
    kinds = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(kinds, set_priority=True):
        yield


def candidates(
    generator: WanGenerator, context: WanContext, text: Tensor | None, compiled: bool
) -> Iterator[Candidate]:
    """One after another; `compiled`: in PyTorch's compiled forms as well."""
    device = context.keys[0].device
    ring = RingCache(generator.config, context)
    yield make("torch", generator, ring, text, compiled=False)
    if compiled:
        yield make("torch compiled", generator, ring, text, compiled=True)
        if device.type == "cuda":
            yield make("torch compiled, cudnn", generator, ring, text, compiled=True, around=cudnn_first)
    if device.type == "cuda" and (reason := cuda_launch.missing()):
        print(f"dsa: left out: {reason}")
        return
    paged = PagedCache(generator.config, context)
    yield make("dsa", generator, paged, text, compiled=False)
    if compiled:
        yield make("dsa compiled", generator, paged, text, compiled=True)


def agreeing(
    made: list[Candidate], noisy: Tensor, level: Tensor, truth: Tensor, tolerance: float
) -> tuple[list[Candidate], dict[str, float], dict[str, str]]:
    """Those that run here, how far each is from `truth` over its largest value, and why the others were left out.

    Raises AssertionError if one is too far. All steps come before any commit, because candidates share the caches; what
    is to be compiled is compiled here.
    """
    kept, differences, left_out = [], {}, {}
    for each in made:
        try:
            clean, _ = each.denoise(noisy, level)
        except Exception as error:  # what this GPU or build lacks; each backend has errors of its own
            left_out[each.name] = str(error).splitlines()[0]
            print(f"{each.name}: left out: {left_out[each.name]}", file=sys.stderr)
            continue
        differences[each.name] = float((clean - truth).abs().max() / truth.abs().max())
        if not differences[each.name] < tolerance:
            raise AssertionError(f"{each.name}: differs from the model by {differences[each.name]}")
        kept.append(each)
    for each in kept:
        each.commit(truth)
    return kept, differences, left_out


def make(
    name: str,
    generator: WanGenerator,
    cache: Cache,
    text: Tensor | None,
    *,
    compiled: bool,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Candidate:
    """The generator over a cache. Compilation itself happens at the first call."""
    attends = cache.attends()
    action = torch.empty(1, 0, device=generator.transformer.out.weight.device)
    prompt = None if text is None else generator.transformer.prompt(text)

    def step(noisy: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        clean, taps, condition = generator.run(noisy, level, action, attends, prompt)
        return clean, generator.confidence(taps, condition)

    def keys_values(clean: Tensor, level: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return generator.keys_values(clean, level, action, attends, prompt)

    if compiled:
        step, keys_values = (torch.compile(function, dynamic=False) for function in (step, keys_values))

    @torch.no_grad()
    def denoise(noisy: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        with around():
            return step(noisy, level)

    @torch.no_grad()
    def commit(clean: Tensor) -> None:
        with around():
            cache.commit(*keys_values(clean, clean.new_zeros(1)))

    return Candidate(name, denoise, commit)
