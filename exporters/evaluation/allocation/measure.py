"""Allocation: are steps that go where the confidence is low worth more than as many steps spent otherwise?

Every rule plays the same contexts, actions and noise in its own closed loop: what it commits is what it sees next.
After each run of the rule under test (a threshold on the calibrated confidence of the kept head) the controls spend as
much: at random and, at some of the operating points, by turns, by motion of the latent, and by an oracle
(`policies.py`). Fixed schedules, and a full first frame before fixed ones, stand beside it as curves over their cost;
so does the paper's rule, whose cost is its own.

Heads that were not kept are ranked on the kept head's rollouts, but their own rules are not played here: each would
need a random control at its own shares beside it, and a third more time. `single_tick.py` compares every head so.

One training after another is measured on the same cases (`measure`), each rollout seed kept on disk when it is done;
`comparison.py` then compares.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from tqdm import tqdm

from exporters.evaluation.allocation.heads import Head, Heads, with_head
from exporters.evaluation.allocation.policies import (
    AlternatingPolicy,
    ConfidencePolicy,
    FixedPolicy,
    MotionPolicy,
    OraclePolicy,
    PaperPolicy,
    RandomPolicy,
    table_threshold,
)
from exporters.evaluation.allocation.ranking import Witnessed, joined, witness
from exporters.evaluation.allocation.scoring import Run, Scorer, StateScore
from exporters.evaluation.cases import Cases
from exporters.evaluation.fidelity import step_name
from exporters.evaluation.playing import Played, Policy, play, warm
from exporters.evaluation.trained import TrainedWorld
from exporters.model.lpips import PictureDistance

TESTED = "confidence"
FIXED, FIRST_FULL, PAPER = "fixed", "first full", "paper"
RANDOM, ALTERNATING, MOTION, ORACLE = CONTROLS = ("random", "alternating", "motion", "oracle")
"""What spends as much as the rule under test: `RANDOM` at all of its operating points, the others at some."""
RANDOM_AS_PAPER = "random as paper"
_RANKING = "ranking"


@dataclass(frozen=True)
class AllocationConfig:
    """Sizes of the evaluation.

    A training of the 64x64 world took 18 minutes of CPU time with another training on the second of two CPUs (one
    rollout seed with a quarter of the cases, scaled up); what a CPU of its own makes of it was not measured.
    """

    cases: int = 48
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Noise seeds of the rollouts."""
    mean_steps: tuple[float, ...] = (1.25, 1.5, 2.0, 2.5)
    """Operating points; the threshold of each comes from the calibration table, so the mean on the day differs."""
    control_mean_steps: tuple[float, ...] = (1.5, 2.0)
    """Those of `mean_steps` (the nearest to each) that all controls are played at; elsewhere it is random alone.

    Most of the time goes into controls: motion and the oracle need all steps of every frame, whatever they spend.
    """
    horizons: tuple[int, ...] = (4, 8, 16)
    """Where frames are compared; the steps are counted over the whole rollout up to the last of them."""
    with_flip: bool = True

    def __post_init__(self) -> None:
        for name in ("cases", "seeds", "mean_steps", "control_mean_steps", "horizons"):
            if not getattr(self, name):
                raise ValueError(f"allocation.{name}: must not be empty")
        if min(self.horizons) < 1:
            raise ValueError(f"allocation.horizons: must be at least 1, got {min(self.horizons)}")

    def points(self, schedule: int) -> tuple[float, ...]:
        """The operating points that a schedule of so many steps has room for."""
        return tuple(mean for mean in self.mean_steps if 1 < mean < schedule) or ((1 + schedule) / 2,)

    def control_points(self, schedule: int) -> tuple[float, ...]:
        """Those of `points` that all controls are played at."""
        points = self.points(schedule)
        wanted = {min(points, key=lambda point: abs(point - mean)) for mean in self.control_mean_steps}
        return tuple(point for point in points if point in wanted)


@dataclass(frozen=True)
class Subject:
    """One training to be measured: its world, its heads, its cases (the same moments for all trainings)."""

    seed: int
    """Training seed."""
    trained: TrainedWorld
    heads: Heads
    cases: Cases


@dataclass
class Measured:
    """What one training's rules scored, and its heads beside the true benefit."""

    seed: int
    heads: Heads
    runs: dict[str, Run] = field(default_factory=dict)
    witnessed: list[Witnessed] = field(default_factory=list)

    @property
    def ranking(self) -> Witnessed:
        return joined(self.witnessed)


def measure(
    config: AllocationConfig,
    subject: Subject,
    lpips: PictureDistance | None,
    state_scores: Mapping[str, StateScore],
    cache: Path | None = None,
) -> Measured:
    """Play all rules. Rollout seeds that an earlier call has left in the folder `cache` are read from there."""
    measured = Measured(subject.seed, subject.heads)
    scorer = Scorer(subject.trained, subject.cases, config.horizons, lpips, state_scores, config.with_flip)
    key = cache_key(config, subject, lpips is not None, state_scores)
    bench = _Bench(config, subject, scorer, lpips)
    total = bench.rollouts * len(config.seeds) * subject.cases.horizon
    with tqdm(total=total, desc=f"allocation, training {subject.seed}", unit="tick", disable=None) as bar:
        for seed in config.seeds:
            path = None if cache is None else cache / f"training-{subject.seed}-rollout-{seed}-{key}.npz"
            arrays = _read(path)
            if arrays is None:
                arrays = bench.play_all(seed, bar.update)
                _write(path, arrays)
            else:
                bar.update(bench.rollouts * subject.cases.horizon)
            _take(measured, arrays)
    return measured


class _Bench:
    """Plays all rules of one training with one rollout seed after another."""

    def __init__(
        self, config: AllocationConfig, subject: Subject, scorer: Scorer, lpips: PictureDistance | None
    ) -> None:
        self._config, self._subject, self._scorer, self._lpips = config, subject, scorer, lpips
        schedule = subject.trained.steps
        if schedule < 2:
            raise ValueError("schedule.levels: one step leaves nothing to allocate")
        self._points, self._control_points = config.points(schedule), config.control_points(schedule)
        self._context = warm(subject.trained, subject.cases)

    @property
    def rollouts(self) -> int:
        """Per rollout seed."""
        alone = 2 * self._subject.trained.steps + 1
        return alone + 2 * len(self._points) + len(self._control_points) * (len(CONTROLS) - 1)

    def play_all(self, seed: int, on_tick: Callable[[], object]) -> dict[str, np.ndarray]:
        """By `rule|score`, `rule|steps` and `ranking|...`. The full schedule comes first: it is the reference."""
        subject, arrays = self._subject, {}
        trained, heads, schedule = subject.trained, subject.heads, subject.trained.steps

        def run(name: str, policy: Policy, head: Head | None = None) -> Tensor:
            """Returns the steps int64[B, N]."""
            world = trained if head is None else with_head(trained, head.module)
            return take(
                name,
                play(
                    world,
                    subject.cases,
                    seed,
                    policy,
                    on_tick=on_tick,
                    context=self._context,
                    full_at=self._scorer.ticks,
                ),
            )

        def take(name: str, played: Played) -> Tensor:
            arrays[f"{name}|steps"] = played.steps.numpy()
            arrays.update((f"{name}|{score}", values) for score, values in self._scorer.scores(played, seed).items())
            return played.steps

        for steps in range(schedule, 0, -1):
            run(step_name(steps), FixedPolicy(steps, steps))
        for steps in range(1, schedule):
            run(rule(FIRST_FULL, steps), FixedPolicy(steps, schedule))
        run(RANDOM_AS_PAPER, RandomPolicy(run(PAPER, PaperPolicy(), heads.papers), seed))
        middle = min(self._points, key=lambda mean: abs(mean - 2.0))
        for mean in self._points:
            policy = _threshold(heads.best, mean)
            if mean == middle:  # the run that all heads are asked about
                seen, played = witness(
                    trained,
                    heads,
                    policy,
                    subject.cases,
                    seed,
                    self._config.horizons,
                    self._lpips,
                    on_tick,
                    self._context,
                )
                arrays.update((f"{_RANKING}|{name}", array) for name, array in vars(seen).items() if array is not None)
                spent = take(rule(TESTED, mean), played)
            else:
                spent = run(rule(TESTED, mean), policy, heads.best)
            run(rule(RANDOM, mean), RandomPolicy(spent, seed))
            if mean in self._control_points:
                run(rule(ALTERNATING, mean), AlternatingPolicy(spent))
                run(rule(MOTION, mean), MotionPolicy(spent))
                run(rule(ORACLE, mean), OraclePolicy(spent, trained))
        return arrays


def rule(family: str, point: float) -> str:
    """Name of one run of a family of rules."""
    return f"{family} @ {point:g}"


def _threshold(head: Head, mean_steps: float) -> ConfidencePolicy:
    return ConfidencePolicy(table_threshold(head.calibration, mean_steps), head.calibration["within_delta"])


def cache_key(
    config: AllocationConfig, subject: Subject, with_lpips: bool, state_scores: Mapping[str, StateScore]
) -> str:
    """Digest of all that the numbers of one rollout seed depend on."""
    told = asdict(config)
    del told["seeds"]
    cases, trained = subject.cases, subject.trained
    arrays = (cases.frames, cases.latents.numpy(), cases.actions.numpy(), cases.state)
    heads = {name: [head.calibration, _weights(head.module)] for name, head in subject.heads.by_name.items()}
    parts = [
        told,
        [None if array is None else _digest([array]) for array in arrays],
        trained.checkpoint_sha256,
        list(trained.levels),
        _weights(trained.autoencoder),
        subject.heads.kept,
        heads,
        with_lpips,
        {name: score.key for name, score in state_scores.items()},
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _weights(module: nn.Module) -> str:
    """Digest of the state dict. What the weights are, not the file that they came from."""
    state = module.state_dict()
    return _digest([state[name].detach().cpu().numpy() for name in sorted(state)])


def _digest(arrays: Iterable[np.ndarray]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _read(path: Path | None) -> dict[str, np.ndarray] | None:
    if path is not None:
        with suppress(FileNotFoundError), np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    return None


def _write(path: Path | None, arrays: Mapping[str, Any]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as stream:
        np.savez_compressed(stream, **arrays)
    os.replace(partial, path)


def _take(measured: Measured, arrays: Mapping[str, np.ndarray]) -> None:
    """Add one rollout seed."""
    by_rule: dict[str, dict[str, np.ndarray]] = {}
    for name, values in arrays.items():
        first, second = name.split("|")
        by_rule.setdefault(first, {})[second] = values
    seen = by_rule.pop(_RANKING)
    measured.witnessed.append(Witnessed(seen["logits"], seen["rms"], seen.get("signed")))
    for name, scores in by_rule.items():
        measured.runs.setdefault(name, Run()).add(scores, scores.pop("steps"))
