"""Ranks: the processes that train one model together, started by torchrun on one machine or several.

    torchrun --nproc-per-node 4 -m exporters train CONFIG

They give the run that one process gives. `batch` of a recipe is the global batch, and every rank draws all of its
indices, noise levels and noise from the same stream and keeps its own rows: drawing is cheap, and so neither the number
of ranks nor a change of it at a resume changes what the model sees. Each rank has all weights and takes the same
optimizer step with the mean of all ranks' gradients (data parallel); `sharding` spreads large models instead.

The mean is taken here, after the backward pass, and not by `torch.nn.parallel.DistributedDataParallel`. That wrapper
prepares a reduction in its own `forward` and expects one forward for one backward. Here a generator is entered by three
methods (`denoise`, `commit`, `teacher_forced`), many times for one backward and with other parameters used each time,
the confidence head on its own, and its blocks are compiled in place. What the wrapper would save is the overlap of
communication with the backward pass.

`torch.distributed` is imported where it is used: some builds of torch lack it, and a single process never needs it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
BUCKET = 2**24
"""Gradients that are sent in one message: 64 MiB of float32."""
PATIENCE = timedelta(hours=1)
"""How long a rank waits for the others; the longest wait is for rank 0 to encode the dataset's frames."""


@dataclass(frozen=True)
class Ranks:
    """This process's place among all that train together. Without torchrun: alone, and every method does nothing."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    sharded: bool = False
    """Whether the generators' weights are spread over the ranks (FSDP2)."""

    @staticmethod
    def current() -> Ranks:
        """The ranks that this process has joined."""
        return _current

    @staticmethod
    @contextlib.contextmanager
    def join(device: str | None = None, shard: bool = False) -> Iterator[Ranks]:
        """Meet the other processes that torchrun has started (its environment says how many), until the block ends.

        `device`: torch's name; by default `cuda` if there is one, else `cpu`. On CUDA each process takes the GPU of its
        local rank and talks over NCCL, on the CPU over Gloo. Only rank 0 has a standard output.
        """
        global _current
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if world == 1:
            if shard:
                raise ValueError("shard: one process has nothing to share weights with; start several with torchrun")
            _current = Ranks(device=chosen)
            yield _current
            return
        import torch.distributed as dist

        if not dist.is_available():
            raise ValueError("this build of torch has no torch.distributed: start one process without torchrun")
        if chosen.type == "cuda":
            chosen = _local_gpu(chosen)
            torch.cuda.set_device(chosen)
        # Tensors on the CPU, among them every decision, go over Gloo in either case.
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "cpu:gloo"
        dist.init_process_group(backend, timeout=PATIENCE, device_id=chosen if chosen.type == "cuda" else None)
        _current = Ranks(rank, world, chosen, shard)
        with contextlib.ExitStack() as quiet:
            if rank != 0:
                quiet.enter_context(contextlib.redirect_stdout(quiet.enter_context(open(os.devnull, "w"))))
            try:
                yield _current
                _current.leave()
            finally:
                _current = Ranks()  # after an error no goodbye: the others may never come to it; torchrun ends them

    def leave(self) -> bool:
        """The end of the common part: what follows is short and runs on rank 0 alone. Returns whether this is it."""
        global _current
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier()
            dist.destroy_process_group()
            _current = Ranks(rank=self.rank, device=self.device)
        return self.first

    @property
    def first(self) -> bool:
        """Whether this rank writes the files and talks to the user."""
        return self.rank == 0

    # The global batch.

    def divide(self, batch: int, name: str) -> int:
        """Rows of a global batch on each rank. Raises ValueError, naming the setting, if they are not whole."""
        if batch % self.world:
            nearest = max(1, round(batch / self.world)) * self.world
            raise ValueError(
                f"{name}: a batch of {batch} does not divide over {self.world} processes; choose a multiple of "
                f"{self.world}, for example {nearest}, or another number of processes"
            )
        return batch // self.world

    def rows(self, whole: Tensor) -> Tensor:
        """This rank's rows of a global batch (first axis)."""
        size = self.divide(len(whole), "batch")
        return whole[self.rank * size : (self.rank + 1) * size]

    def draw(self, source: Callable[[tuple[int, ...]], Tensor], shape: tuple[int, ...]) -> Tensor:
        """This rank's rows, of `shape`, of what `source` draws for the shape of the global batch."""
        return self.rows(source((self.world * shape[0], *shape[1:])))

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal noise for this rank's rows `x` (batch first, also in memory)."""
        if self.world == 1:
            return torch.randn_like(x)
        # The order in memory decides which element gets which number, so it has to be that of the whole batch.
        strides = torch.empty_like(x).stride()
        whole = torch.empty_strided((self.world * len(x), *x.shape[1:]), strides, dtype=x.dtype, device=x.device)
        return self.rows(whole.normal_())

    def gather(self, x: Tensor) -> Tensor:
        """All ranks' rows as one global batch, without gradient."""
        if self.world == 1:
            return x
        import torch.distributed as dist

        x = x.detach().contiguous()
        parts = [torch.empty_like(x) for _ in range(self.world)]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    # What all ranks have to agree on.

    def agree(self, value: Tensor) -> Tensor:
        """Rank 0's value, on every rank; `value` has the same shape and type everywhere and lies on the CPU."""
        if self.world > 1:
            import torch.distributed as dist

            dist.broadcast(value, src=0)
        return value

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns on rank 0, on every rank. If it raises there, it raises everywhere.

        So only rank 0 needs to see the folder of checkpoints.
        """
        if self.world == 1:
            return make()
        import torch.distributed as dist

        result: list[Any] = [None, None]
        if self.first:
            try:
                result[0] = make()
            except Exception as error:
                result[1] = error
        dist.broadcast_object_list(result, src=0, device=torch.device("cpu"))
        if result[1] is not None:
            raise result[1]
        return result[0]

    def check_together(self) -> None:
        """Raise RuntimeError if the ranks' random streams have come apart: then their decisions would as well."""
        if self.world == 1:
            return
        mine = torch.get_rng_state()
        together = torch.equal(self.agree(mine.clone()), mine)
        if not bool(self.gather(torch.tensor([together])).all()):
            raise RuntimeError("the ranks' random streams have come apart: some code draws on one rank only")

    # Means over all ranks.

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its mean over the ranks; those of sharded weights are, after a backward pass."""
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None and not is_slice(p)]
        import torch.distributed as dist

        buckets: list[list[Tensor]] = []
        filled = BUCKET
        for gradient in gradients:
            if filled >= BUCKET or gradient.dtype != buckets[-1][0].dtype:
                buckets.append([])
                filled = 0
            buckets[-1].append(gradient)
            filled += gradient.numel()
        sent = []
        for bucket in buckets:
            flat = torch.cat([g.reshape(-1) for g in bucket])
            sent.append((flat, dist.all_reduce(flat, async_op=True)))
        for bucket, (flat, work) in zip(buckets, sent, strict=True):
            work.wait()
            parts = flat.div_(self.world).split([g.numel() for g in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))

    def average(self, values: Mapping[str, float]) -> dict[str, float]:
        """Means of scalars over the ranks, for the log."""
        if self.world == 1 or not values:
            return dict(values)
        import torch.distributed as dist

        total = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(total)
        return dict(zip(values, (total / self.world).tolist(), strict=True))


_current = Ranks()


def is_slice(value: object) -> bool:
    """Whether this is a tensor of which each rank has a part (`sharding`)."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def _local_gpu(asked: torch.device) -> torch.device:
    """The GPU of this process among those that torchrun started on this machine."""
    local, here = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if asked.index is not None:
        raise ValueError(f"device: {asked} is one GPU for several processes; say cuda, and each takes its own")
    if local >= here:
        raise ValueError(f"device: process {local} of this machine finds {here} GPUs; start at most one per GPU")
    return torch.device("cuda", local)
