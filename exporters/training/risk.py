"""Risk: thresholds that keep a promise, by learn-then-test (Angelopoulos, Bates, Candes, Jordan, Lei 2021).

The promise: at most a share alpha of the frames lies further than delta from what the full schedule would have drawn
in their place (`benefit`: root mean square of 2x2-averaged pictures, grey levels). Each candidate threshold is
*played*, in closed loop on held-out recordings, so that the contexts are those that it makes itself. The frames of one
rollout depend on each other, so the rollout is the unit: its loss is the share of its frames that break delta. A frame
that took all steps breaks nothing.

Candidates are tested from the most careful one on, and testing stops at the first that fails. Such a fixed sequence
needs no correction for the number of candidates: for each (alpha, delta) the chance that the chosen threshold breaks
its promise is at most `RISK_ERROR`. Before all of them stands the full schedule, which is right by definition.

What it is a promise about: windows drawn at random from the recordings that were played, followed by their recorded
actions. How far it carries over to other recordings is then measured on a third split.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor
from tqdm import tqdm

from dsa_runtime.calibration import RISK_ERROR
from exporters.model.autoencoder import Autoencoder
from exporters.model.flow import add_noise
from exporters.model.generator import Generator
from exporters.model.rollout import warm_context
from exporters.training.benefit import GREY, mean_square, pooled, seeded
from exporters.training.data import Clips


@dataclass(frozen=True)
class RiskTraining:
    """Settings of the risk bounds.

    Power: to prove alpha at all takes ln(RISK_ERROR) / ln(1 - alpha) rollouts without a single violation, 299 for
    1 %. 384 rollouts leave room for 1 violating frame among their 3,072; twice as many for 16 among 6,144.
    """

    alphas: tuple[float, ...] = (0.01, 0.05, 0.1)
    deltas: tuple[float, ...] = (1.0, 2.0)
    """In units of the calibration's delta."""
    rollouts: int = 384
    """Played per threshold, and again on the third split for those that are chosen."""
    frames: int = 8
    batch: int = 32
    candidates: int = 12
    """Thresholds between the full schedule and a single step."""

    def __post_init__(self) -> None:
        if not all(0 < alpha < 1 for alpha in self.alphas):
            raise ValueError(f"calibration.risk.alphas: must lie in (0, 1), got {self.alphas}")
        if not self.deltas or min(self.deltas) <= 0:
            raise ValueError(f"calibration.risk.deltas: must be positive, got {self.deltas}")
        for name in ("alphas", "deltas"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"calibration.risk.{name}: each may stand there once, got {getattr(self, name)}")
        for name in ("rollouts", "frames", "batch", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"calibration.risk.{name}: must be at least 1, got {getattr(self, name)}")


def hoeffding_bentkus(mean: float, count: int, alpha: float) -> float:
    """p-value of 'the expected loss exceeds alpha', from the mean of `count` independent losses in [0, 1]."""
    low = min(mean, alpha)
    divergence = (low * math.log(low / alpha) if low > 0 else 0.0) + (1 - low) * math.log((1 - low) / (1 - alpha))
    hoeffding = math.exp(-count * divergence)
    bentkus = math.e * float(binom.cdf(math.ceil(round(mean * count, 9)), count, alpha))
    return min(hoeffding, bentkus, 1.0)


def confidence_interval(losses: np.ndarray, error: float = RISK_ERROR) -> tuple[float, float]:
    """Of the expected loss, from float64[n] in [0, 1]; valid at any n, by inverting the test on both sides."""

    def upper(mean: float) -> float:
        low, high = mean, 1.0
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (middle, high) if hoeffding_bentkus(mean, len(losses), middle) > error / 2 else (low, middle)
        return high

    mean = float(losses.mean())
    return 1.0 - upper(1.0 - mean), upper(mean)


def learn_then_test(losses: Callable[[int], np.ndarray], candidates: int, alpha: float, error: float) -> int:
    """How many candidates, from the most careful one on, pass before the first that fails.

    `losses(i)`: float64[n] in [0, 1] of candidate i. Later ones are not asked for.
    """
    for i in range(candidates):
        drawn = losses(i)
        if hoeffding_bentkus(float(drawn.mean()), len(drawn), alpha) > error:
            return i
    return candidates


def candidate_thresholds(table: Sequence[Mapping[str, float]], steps: int, count: int) -> list[float]:
    """At most `count` thresholds, falling, whose mean steps in the calibration's table divide 1..`steps` evenly."""
    wanted = np.linspace(steps, 1, count + 1)[1:]
    rows = [row for row in table if row["threshold"] < 1.0]
    if not rows:
        return []
    chosen = {min(rows, key=lambda row: abs(row["mean_steps"] - mean))["threshold"] for mean in wanted}
    return sorted(chosen, reverse=True)


@dataclass(frozen=True)
class Played:
    """Rollouts under one threshold."""

    distance: Tensor
    """float32[R, N]: of each frame from the full schedule's, in grey levels; 0 where it was the full schedule's."""
    steps: Tensor
    """int64[R, N]: that each frame took."""

    def losses(self, delta: float) -> np.ndarray:
        """float64[R]: share of each rollout's frames that are further than delta."""
        share: np.ndarray = (self.distance > delta).double().mean(dim=1).numpy()
        return share

    @property
    def mean_steps(self) -> float:
        return float(self.steps.double().mean())


@torch.no_grad()
def play(
    generator: Generator,
    autoencoder: Autoencoder,
    levels: tuple[float, ...],
    clips: Clips,
    within_delta: Sequence[Mapping[str, Sequence[float]]],
    threshold: float,
    config: RiskTraining,
    seed: int,
) -> Played:
    """Play one threshold in closed loop; the steps that it saves are run too, but only looked at.

    The same seed gives the same starts and noise at every threshold. `within_delta`: the curves of the calibration.
    """
    device = next(generator.parameters()).device
    window, count = generator.config.window, len(levels)
    distances, taken = [], []
    with seeded(seed):
        left = config.rollouts
        progress = tqdm(total=left, desc=f"threshold {threshold:.3f}", unit="rollout", mininterval=5.0)
        while left > 0:
            batch = min(config.batch, left)
            starts = clips.sample_starts(batch, window + config.frames)
            real, action = (x.to(device) for x in clips.windows(starts, window + config.frames))
            context = warm_context(generator, real[:, :window], action[:, :window])
            for i in range(window, window + config.frames):
                act = action[:, i]
                steps = torch.full((batch,), count)
                clean = chosen = real[:, i]  # replaced below: the first step sees noise alone
                for k, value in enumerate(levels):
                    noise = torch.randn(clean.shape).to(device)
                    x = noise if k == 0 else add_noise(clean, noise, clean.new_full((batch,), value))
                    clean, taps, condition = generator.denoise(x, clean.new_full((batch,), value), act, context)
                    stops = steps == count
                    if k + 1 < count:
                        curve, logit = within_delta[k], generator.confidence(taps, condition).double().cpu().numpy()
                        stops &= torch.from_numpy(np.interp(logit, curve["logit"], curve["value"]) >= threshold)
                        steps[stops] = k + 1
                    chosen = torch.where(stops.to(device)[:, None, None, None], clean, chosen)
                early = (steps < count).to(device)
                distance = torch.zeros(batch, device=device)
                if early.any():
                    gap = pooled(autoencoder, chosen[early]) - pooled(autoencoder, clean[early])
                    distance[early] = mean_square(gap).sqrt() * GREY
                distances.append(distance.cpu())
                taken.append(steps)
                context = generator.commit(chosen, chosen.new_zeros(batch), act, context)
            left -= batch
            progress.update(batch)
        progress.close()
    return Played(_by_rollout(distances, config.frames), _by_rollout(taken, config.frames))


def _by_rollout(frames: list[Tensor], length: int) -> Tensor:
    """One [B] per frame, batch after batch of `length` frames -> [R, length]."""
    return torch.cat([torch.stack(frames[i : i + length], 1) for i in range(0, len(frames), length)])


class Rollouts:
    """What was played so far, by split and threshold: part of the stage's checkpoint, as playing takes long."""

    def __init__(self, make: Callable[[str, float], Played], key: str, save: Callable[[], None]) -> None:
        """`key` says all that decides what `make(split, threshold)` plays; results under another key are dropped."""
        self._make, self._key, self._save = make, key, save
        self._done: dict[str, dict[str, Tensor]] = {}

    def get(self, split: str, threshold: float) -> Played:
        name = f"{split} {threshold!r}"
        if name not in self._done:
            self._done[name] = vars(self._make(split, threshold))
            self._save()
        return Played(**self._done[name])

    def state_dict(self) -> dict[str, Any]:
        return {"key": self._key, "done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["key"] == self._key:
            self._done = state["done"]


def rollouts_key(generator: Generator, table: Mapping[str, object], config: RiskTraining, seed: int) -> str:
    """Digest of all that decides the rollouts, besides the recordings."""
    digest = hashlib.sha256(json.dumps([table, asdict(config), seed], sort_keys=True).encode())
    for name, value in sorted(generator.state_dict().items()):
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


TEST, CHECK = "test", "check"
"""The rollouts that decide, and those of the third split."""


def risk_bounds(
    config: RiskTraining,
    table: Mapping[str, Any],
    steps: int,
    get: Callable[[str, float], Played],
    recordings: Mapping[str, int],
) -> list[dict[str, Any]]:
    """The WorldSpec's `bounds`, one per alpha and delta; threshold 1 is the full schedule of `steps` steps.

    `get(split, threshold)` plays, or remembers; `table`: the calibration without bounds; `recordings`: of each split.
    """
    thresholds = candidate_thresholds(table["thresholds"], steps, config.candidates)

    def losses(delta: float, candidate: int) -> np.ndarray:
        return get(TEST, thresholds[candidate]).losses(delta)

    rows: list[dict[str, Any]] = []
    for factor in config.deltas:
        delta = factor * table["delta"]
        for alpha in sorted(config.alphas):
            passed = learn_then_test(partial(losses, delta), len(thresholds), alpha, RISK_ERROR)
            row = {"alpha": alpha, "delta": delta}
            if passed:
                row |= _bound(get, thresholds[passed - 1], alpha, delta, recordings)
            else:
                row |= _full_schedule(steps)
            rows.append(row)
    return rows


def _bound(
    get: Callable[[str, float], Played], threshold: float, alpha: float, delta: float, recordings: Mapping[str, int]
) -> dict[str, Any]:
    tested, checked = get(TEST, threshold), get(CHECK, threshold)
    losses, again = tested.losses(delta), checked.losses(delta)
    return {
        "threshold": threshold,
        "mean_steps": tested.mean_steps,
        "violation": float(losses.mean()),
        "rollouts": len(losses),
        "recordings": recordings[TEST],
        "p_value": hoeffding_bentkus(float(losses.mean()), len(losses), alpha),
        "checked": {
            "violation": float(again.mean()),
            "interval": list(confidence_interval(again)),
            "rollouts": len(again),
            "recordings": recordings[CHECK],
            "mean_steps": checked.mean_steps,
        },
    }


def _full_schedule(steps: int) -> dict[str, Any]:
    """Nothing cheaper passes. Nothing had to be played: the full schedule is what frames are compared with."""
    checked = {"violation": 0.0, "interval": [0.0, 0.0], "rollouts": 0, "recordings": 0, "mean_steps": float(steps)}
    return {
        "threshold": 1.0, "mean_steps": float(steps), "violation": 0.0, "rollouts": 0, "recordings": 0,
        "p_value": 0.0, "checked": checked,
    }  # fmt: skip
