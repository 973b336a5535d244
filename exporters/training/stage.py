"""Stage: one resumable piece of training, with its clock, checkpoints, metrics and gate."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from exporters.training.distributed import Ranks, is_slice
from exporters.training.optimizer import recipe_settings, restore_settings
from exporters.training.progress import RunProgress
from exporters.training.sharding import load_whole, whole_state

CHAIN = ("autoencoder", "teacher", "consistency", "distillation", "confidence")
"""Stages that are each built on the one before."""


@dataclass(frozen=True)
class Budget:
    """How long a stage trains: a number of steps, or minutes of wall time (exactly one of the two).

    Wall time suits a shared machine; steps make a run repeatable to the last bit on one machine.
    """

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("budget: give exactly one of 'minutes' and 'steps'")

    def fraction(self, step: int, seconds: float) -> float:
        """Share of the budget used, 0..1; of a budget of nothing all of it."""
        if not (self.steps or self.minutes):
            return 1.0
        used = step / self.steps if self.steps is not None else seconds / 60.0 / float(self.minutes or 1.0)
        return min(1.0, used)


@dataclass
class Stage:
    """The running state of one stage: everything in `parts` is saved and restored together.

    `parts` maps a name to anything with `state_dict` and `load_state_dict` (modules, optimizers, averages).
    Checkpoints are written to a temporary name and renamed, so a kill at any point leaves the last whole one.
    Of several ranks the first reads and writes the files, and its clock decides for all. A checkpoint does not know
    how many ranks wrote it.

    A checkpoint says whether the stage is done, and so it stays if the recipe's budget changes. Only a larger budget of
    the same kind makes the stage go on, as long as nothing was built on it.
    """

    name: str
    folder: Path
    budget: Budget
    parts: dict[str, Any]
    save_every_s: float = 120.0
    step: int = 0
    seconds: float = 0.0
    done: bool = False
    inputs: dict[str, str] = field(default_factory=dict)
    """Digests of what the stage is trained on, by the name of the file. A checkpoint of other ones is refused."""
    seed: int = field(default_factory=torch.initial_seed)
    """What torch's generator was seeded with when the stage began."""
    window: dict[str, list[float]] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.pt"

    @property
    def finished(self) -> bool:
        return self.done or self.budget.fraction(self.step, self.seconds) >= 1.0

    def resume(self) -> bool:
        """Load the last checkpoint if there is one; returns whether it did."""
        ranks = Ranks.current()
        # Without a checkpoint several ranks begin with the first one's weights and random stream.
        begin = self.state() if ranks.world > 1 else None
        saved, found = ranks.from_first(lambda: (self._read() or begin, self.checkpoint.exists()))
        if saved is None:
            return False
        for name, part in self.parts.items():
            if name not in saved["parts"]:
                raise ValueError(
                    f"{self.checkpoint}: it has no {name!r}, so an older version wrote it; move it away to train anew"
                )
            self._load(name, part, saved["parts"][name])
        for name, digest in self.inputs.items():
            if saved.get("inputs", {}).get(name, digest) != digest:
                raise ValueError(
                    f"{self.checkpoint}: trained on another {name} than there is now; move it away to train anew"
                )
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.seed = saved.get("seed", self.seed)
        # Older checkpoints do not say whether they are done.
        self.done = saved.get("done", self.finished) and not self._goes_on(saved)
        torch.set_rng_state(saved["rng"])
        if "cuda_rng" in saved and _cuda_in_use():
            torch.cuda.set_rng_state(saved["cuda_rng"])
        return found

    def _load(self, name: str, part: Any, saved: dict[str, Any]) -> None:
        """Restore one part, but for an optimizer's settings: those of the recipe hold, which may have changed."""
        settings = recipe_settings(part)
        try:
            load_whole(part, saved)
        except (RuntimeError, ValueError, KeyError) as error:
            table = "autoencoder.model" if self.name == "autoencoder" else "teacher.model"
            raise ValueError(
                f"{self.checkpoint}: its {name!r} has another shape than the recipe's; set [{table}] (or [schedule])"
                f" back, or move the file away to train anew ({' '.join(str(error).split())[:200]})"
            ) from None
        restore_settings(part, settings)

    def _goes_on(self, saved: dict[str, Any]) -> bool:
        """Whether a stage that was done has been given more to do. ValueError if something was built on it."""
        before = saved.get("budget") or {}
        # A stage of no steps was not trained here; and minutes cannot be compared with steps.
        other = (before.get("steps") is None) != (self.budget.steps is None)
        if not before or other or self.step == 0 or self.budget.fraction(self.step, self.seconds) >= 1.0:
            return False
        later = CHAIN[CHAIN.index(self.name) + 1 :] if self.name in CHAIN else ()
        files = [f"{stage}.pt" for stage in later] + ["seed-*/distillation.pt"] * ("distillation" in later)
        built = Ranks.current().from_first(lambda: [path for name in files for path in self.folder.glob(name)])
        if built:
            names = ", ".join(str(path.relative_to(self.folder)) for path in built)
            old = "".join(f"{unit} = {value:g}" for unit, value in before.items() if value is not None)
            raise ValueError(
                f"{self.checkpoint}: it is finished and was built on; set {self.name}.budget back to {old},"
                f" or delete {names} to train it for longer"
            )
        return True

    def _read(self) -> dict[str, Any] | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.checkpoint.exists():
            return None
        return dict(torch.load(self.checkpoint, map_location="cpu", weights_only=True))

    def state(self) -> dict[str, Any]:
        """Everything that a checkpoint holds; of sharded parts only on the first rank, though all must call it."""
        state = {
            "parts": {name: whole_state(part.state_dict()) for name, part in self.parts.items()},
            "step": self.step,
            "seconds": self.seconds,
            "done": self.done,
            "budget": asdict(self.budget),
            "inputs": self.inputs,
            "seed": self.seed,
            "rng": torch.get_rng_state(),
        }
        if _cuda_in_use():
            state["cuda_rng"] = torch.cuda.get_rng_state()
        return state

    def save(self) -> None:
        """Write the checkpoint; all ranks must call it if parts are sharded."""
        state = self.state()
        if not Ranks.current().first:
            return
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def finish(self) -> None:
        """Save the stage as done."""
        self.done = True
        self.save()

    def steps(self, last: bool = True) -> Iterator[float]:
        """Yield the used share of the budget once per training step; saves on the way and at the end.

        A finished stage yields nothing and leaves its checkpoint alone. Unless its steps are the `last` thing that a
        stage does, it has to `finish` itself.
        """
        if self.done or self.budget.fraction(self.step, self.seconds) >= 1.0:
            return
        ranks = Ranks.current()
        saved_at = time.monotonic()
        bar = RunProgress.current().bar(self.name, self.budget, self.step, self.seconds, ranks.first)
        while not self.finished:
            began = time.monotonic()
            yield self.budget.fraction(self.step, self.seconds)
            self.step += 1
            self.seconds += time.monotonic() - began
            # The end and the learning rate follow the clock, and saving needs everybody: one rank's clock decides.
            clock = torch.tensor([self.seconds, time.monotonic() - saved_at], dtype=torch.float64)
            self.seconds, since_save = ranks.agree(clock).tolist()
            bar.show(self.step, self.seconds)
            if since_save > self.save_every_s:
                ranks.check_together()
                self.save()
                saved_at = time.monotonic()
        bar.close()
        ranks.check_together()
        self.done = last
        self.save()

    def log(self, every: int, **values: float | torch.Tensor) -> None:
        """Collect scalars; every `every` steps append their means, also over the ranks, to metrics.jsonl."""
        for name, value in values.items():
            whole = value.full_tensor() if is_slice(value) else value  # type: ignore[union-attr]
            self.window.setdefault(name, []).append(float(whole))
        if (self.step + 1) % every == 0:
            ranks = Ranks.current()
            means = ranks.average({name: sum(v) / len(v) for name, v in self.window.items()})
            self.write(**means)
            if ranks.first:
                tqdm.write(f"{self.name} {self.step + 1}: " + "  ".join(f"{k} {v:.4f}" for k, v in means.items()))
            self.window.clear()

    def write(self, **values: Any) -> None:
        """Append one line to metrics.jsonl, on the first rank."""
        if not Ranks.current().first:
            return
        line = {"stage": self.name, "step": self.step + 1, "seconds": round(self.seconds, 1), **values}
        with open(self.folder / "metrics.jsonl", "ab+") as out:
            # A kill may have left half a line, which shall not spoil this one.
            if end := out.seek(0, os.SEEK_END):
                out.seek(end - 1)
                if out.read(1) != b"\n":
                    out.write(b"\n")
            out.write(json.dumps(line).encode() + b"\n")


class Average:
    """Exponential moving average of a module's parameters and buffers, warmed up as min(decay, (1+n)/(10+n))."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay, self.count = decay, 0
        self.values = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, 1.0 - decay)
            else:
                self.values[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state["values"].items():
            self.values[name].copy_(value)
        self.count = state["count"]


def _cuda_in_use() -> bool:
    """Whether noise may be drawn on a GPU, whose random stream then belongs into the checkpoint."""
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def mixed_precision(device: torch.device) -> torch.autocast:
    """bf16 autocast where the machine multiplies it in hardware: CUDA, and CPUs with AMX or AVX512-BF16. Elsewhere it
    costs 4x.

    For plain losses, and for the scores of the distillation, whose difference is a direction that noise averages out
    of. The consistency start lives on small differences of two outputs of one network, which bf16 would round away; a
    rollout in training is to be what the runtime plays.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bf16(device))


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    asked = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # not public, so they may go
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in asked)


def warm_cool(fraction: float, step: int, warm_steps: int, cool_from: float = 0.6) -> float:
    """Learning-rate factor: linear warm-up, flat, then linear cool-down to 5 % over the last part of the budget."""
    warm = min(1.0, (step + 1) / warm_steps)
    cool = 1.0 if fraction < cool_from else max(0.05, 1.0 - 0.95 * (fraction - cool_from) / (1.0 - cool_from))
    return warm * cool


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Scale each group's `initial_lr` by `factor`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * factor
