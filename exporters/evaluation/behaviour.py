"""Behaviour: the parts of the evaluation that depend on what a world's actions and state mean.

Which kind is measured follows from the dataset's action space and the recipe's table `evaluation`: joints that are
driven by velocities, or a view that turns by named actions. Worlds of neither kind have free play without a response.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dsa_runtime.spec import Box, Discrete
from exporters.evaluation.allocation.policies import ConfidencePolicy
from exporters.evaluation.cases import held_out_cases
from exporters.evaluation.drift.free_play import FreePlay, SdkPlay, TorchPlay
from exporters.evaluation.drift.free_player import free_actions
from exporters.evaluation.drift.measure import DriftConfig, run_drift
from exporters.evaluation.drift.state import StateReadout
from exporters.evaluation.drift.table import draw_drift
from exporters.evaluation.response.action_probe import load_or_train
from exporters.evaluation.response.config import ResponseConfig
from exporters.evaluation.response.joints import run_joint_response, simulate
from exporters.evaluation.response.trials import TURN_ACTIONS, JointTrials, TurnTrials, joint_ranges
from exporters.evaluation.response.turning import run_response
from exporters.evaluation.state.cases import state_cases
from exporters.evaluation.state.fidelity import StateFidelityConfig, run_state
from exporters.evaluation.state.frames import real_frames
from exporters.evaluation.state.probe import StateProbe, load_or_train_state
from exporters.evaluation.trained import TrainedWorld
from exporters.packaging.describe import action_space
from exporters.recording.dataset import Dataset
from exporters.training.config import TrainConfig

_CALIBRATION = "validation"  # split whose frames say what a decoded thing looks like
_READOUT_FRAMES = 1000


def probe_path(config: TrainConfig, runs: Path) -> Path:
    """Where the probe of a world is kept unless the caller says otherwise."""
    if config.evaluation.state:
        return Path(runs) / config.name / "state_probe.npz"
    return Path(runs) / "action_probe.npz"


class Behaviour:
    """A trained world with its dataset and the probe that reads its pictures."""

    def __init__(self, config: TrainConfig, trained: TrainedWorld, dataset: Dataset, split: str, probe: Path) -> None:
        """`probe`: where the probe's weights are kept, or will be. Raises ValueError for a table that does not fit."""
        self._config, self._trained, self._dataset, self._split, self._path = config, trained, dataset, split, probe
        self._evaluation = config.evaluation
        self._evaluation.check(dataset.spec)
        self._space = action_space(dataset.spec)

    @property
    def has_state(self) -> bool:
        """Whether the recipe names things whose place can be read back."""
        return bool(self._evaluation.state.movers)

    def state(self, sizes: StateFidelityConfig) -> dict[str, Any]:
        """Where things are under the recorded actions."""
        columns = self._evaluation.state
        if not self.has_state:
            raise ValueError("part state: the recipe's table evaluation.state names no movers")
        horizon = max(*sizes.horizons, sizes.gate_horizon)
        held_out = (self._dataset, self._split, self._trained, columns)
        some = state_cases(*held_out, sizes.cases, horizon)
        moving = state_cases(*held_out, sizes.moving_cases, horizon, moving=sizes.moving, seed=1)
        return {**run_state(sizes, self._trained, some, moving, self._state_probe), "probe": self._floor()}

    def response(self, sizes: ResponseConfig) -> dict[str, Any]:
        """Whether actions do what they say."""
        horizon = max(*sizes.horizons, sizes.hold)
        trials = self._trials(sizes.hold, sizes.net_turn_deg)
        if isinstance(trials, TurnTrials):
            cases = held_out_cases(self._dataset, self._split, self._trained, sizes.cases, horizon)
            probe = load_or_train(self._dataset, self._path)
            return run_response(sizes, self._trained, cases, self._dataset, self._split, probe)
        if trials is None:
            raise ValueError(
                f"part response: {self._dataset.spec.name!r} has neither Discrete actions named"
                f" {', '.join(TURN_ACTIONS)}, nor Box actions and evaluation.joints in its recipe"
            )
        assert isinstance(self._space, Box)
        chosen = state_cases(self._dataset, self._split, self._trained, self._evaluation.state, sizes.cases, horizon)
        fps = float(self._dataset.spec.frame["fps"])
        simulated = self._simulated(sizes, trials)
        result = run_joint_response(
            sizes, self._evaluation, self._trained, chosen, trials, self._space, self._state_probe, fps, simulated
        )
        return {**result, "probe": self._floor()}

    def drift(self, sizes: DriftConfig, package: Path | None, picture: Path, resume: bool = True) -> dict[str, Any]:
        """Free play through the SDK, or in torch without a package. Curves and progress lie beside `picture`."""
        seeds = range(sizes.seed, sizes.seed + sizes.sessions)
        actions = [free_actions(self._dataset, self._split, sizes.ticks, seed, self._evaluation) for seed in seeds]
        trials = self._trials(sizes.hold, ResponseConfig().net_turn_deg) if self._asks(sizes) else None
        readout = self._readout() if self.has_state else None
        progress = picture.with_suffix(".progress.npz") if resume and package is not None else None
        with self._play(sizes, package, seeds) as play:
            result = {
                "engine": "torch" if package is None else "the SDK",
                **run_drift(
                    sizes,
                    play,
                    actions,
                    self._dataset,
                    self._split,
                    trials=trials,
                    readout=readout,
                    picture=picture,
                    progress=progress,
                ),
            }
        draw_drift(picture.with_name(f"{picture.stem}-curves.png"), result)
        return result

    @cached_property
    def _state_probe(self) -> StateProbe:
        return load_or_train_state(self._dataset, self._evaluation.state, self._path)

    def _floor(self) -> dict[str, Any]:
        """The probe's own error on held-out real frames."""
        frames = real_frames(self._dataset, self._evaluation.state, self._split, 2000)
        return self._state_probe.evaluate(frames)

    def _trials(self, hold: int, net_turn_deg: float) -> TurnTrials | JointTrials | None:
        """None for a world of neither kind."""
        space, config = self._space, self._evaluation
        if isinstance(space, Box) and config.joints:
            fps, ranges = float(self._dataset.spec.frame["fps"]), joint_ranges(config, self._dataset, self._split)
            return JointTrials(self._state_probe, space, config.joints, ranges, fps, hold)
        if isinstance(space, Discrete) and set(TURN_ACTIONS) <= set(space.names):
            return TurnTrials(load_or_train(self._dataset, self._path), space, net_turn_deg)
        return None

    def _asks(self, sizes: DriftConfig) -> bool:
        """Whether the run is long enough for a checkpoint; else no probe is needed."""
        return any(tick <= sizes.ticks for tick in sizes.checkpoints)

    def _readout(self) -> StateReadout:
        def decoded(split: str) -> np.ndarray:
            frames = real_frames(self._dataset, self._evaluation.state, split, _READOUT_FRAMES).pictures
            return self._trained.decode(self._trained.encode(frames))

        return StateReadout(self._state_probe.used_to(decoded(_CALIBRATION)), decoded(self._split))

    def _simulated(self, sizes: ResponseConfig, trials: JointTrials) -> dict[str, np.ndarray] | None:
        """The trials in the recipe's own simulator; None where that is not installed or draws other frames."""
        recording = self._config.recording
        try:
            environment = recording.kind.make(recording.world)
        except ImportError:
            return None
        with contextlib.closing(environment):
            if tuple(environment.state_names) != self._dataset.spec.state:
                return None
            policy = recording.kind.policy(recording.world, environment)
            first_seed = max(split.seeds[1] for split in self._dataset.spec.splits.values()) + 1
            return simulate(sizes, self._evaluation, environment, policy, trials, first_seed)

    @contextlib.contextmanager
    def _play(self, sizes: DriftConfig, package: Path | None, seeds: range) -> Iterator[FreePlay]:
        if package is None:
            cases = held_out_cases(self._dataset, self._split, self._trained, sizes.sessions, 1)
            table = self._trained.calibration
            policy = ConfidencePolicy(table["default_threshold"], table["within_delta"]) if table else None
            yield TorchPlay(self._trained, cases, sizes.seed, self._space, policy)
            return
        from dsa_runtime import load_world  # the models come from the package; torch only computed the ranges

        with load_world(package, threads=1) as world, contextlib.closing(SdkPlay(world, seeds)) as play:
            yield play


def long_drift(sizes: DriftConfig, ticks: int | None, sessions: int | None, moments: int | None = None) -> DriftConfig:
    """The sizes with what was asked for on the command line; a run shorter than a window has shorter windows."""
    asked: dict[str, Any] = {"ticks": ticks, "sessions": sessions, "moments": moments}
    window = min(sizes.window, max(sizes.ticks if ticks is None else ticks, 1))
    return replace(sizes, window=window, **{name: value for name, value in asked.items() if value is not None})
