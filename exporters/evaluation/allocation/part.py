"""The part `allocation` of the evaluation: several trainings of one world, measured one after another and compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporters.evaluation.allocation.comparison import compare
from exporters.evaluation.allocation.costs import StepCosts
from exporters.evaluation.allocation.heads import heads_of
from exporters.evaluation.allocation.measure import AllocationConfig, Measured, Subject, measure
from exporters.evaluation.allocation.scoring import StateScore
from exporters.evaluation.allocation.trade_off import draw_trade_off
from exporters.evaluation.cases import Cases, held_out_cases
from exporters.evaluation.config import StateColumns
from exporters.evaluation.state.frames import real_frames, state_truth
from exporters.evaluation.state.probe import StateProbe, load_or_train_state
from exporters.evaluation.trained import TrainedWorld, load_trained
from exporters.model.lpips import PictureDistance
from exporters.recording.dataset import Dataset
from exporters.training.benefit import collect_benefits
from exporters.training.branch import run_folder
from exporters.training.calibration import calibrate
from exporters.training.config import TrainConfig
from exporters.training.data import Clips, encode_clips

STATE_ERROR = "state error (m)"
_LOST_M = 0.2


def run_allocation(
    config: AllocationConfig,
    subjects: Iterable[Subject],
    lpips: PictureDistance | None,
    *,
    state_scores: Mapping[str, StateScore] | None = None,
    costs: StepCosts | None = None,
    picture: Path | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Measure; returns a JSON-ready result for `render_allocation`. Draws the trade-off to `picture`.

    subjects  one per training seed, at least three for a claim; read one by one, so a generator will do
    costs     of a package of this world; without them nothing is said about equal time
    cache     folder for what is done, so that a run that was broken off goes on
    """
    measured: list[Measured] = []
    schedule, units = 0, None
    for subject in subjects:
        schedule, units = subject.trained.steps, subject.cases.units
        measured.append(measure(config, subject, lpips, state_scores or {}, cache))
    if not measured:
        raise ValueError("allocation: no training to measure")
    result = compare(config, schedule, measured, costs, units)
    if picture is not None:
        draw_trade_off(picture, result)
    return result


@dataclass(frozen=True)
class Source:
    """Where the trainings of a world come from, and the moments that they are measured on."""

    config: TrainConfig
    dataset: Dataset
    split: str
    runs: Path
    checkpoint: str
    seeds: Sequence[int]
    """Training seeds."""

    def subjects(self, sizes: AllocationConfig) -> Iterator[Subject]:
        """One training after another, so that one is in memory at a time. Raises FileNotFoundError or ValueError."""
        for seed in self.seeds:
            trained = load_trained(self.config, self.runs, self.checkpoint, seed)
            heads = heads_of(trained, trained.calibration or self._calibrated(trained))
            yield Subject(seed, trained, heads, self._cases(sizes, trained))

    def state_scores(self, probe: Path) -> dict[str, StateScore]:
        """The error of the state, where the recipe says what can be read; `probe` is its file, made if need be."""
        columns = self.config.evaluation.state
        if not columns.points:
            return {}
        reader = load_or_train_state(self.dataset, columns, probe)
        trained = load_trained(self.config, self.runs, self.checkpoint, self.seeds[0])
        # How things look behind this decoder, learned where nothing is measured.
        real = real_frames(self.dataset, columns, "validation", 1000).pictures
        return {STATE_ERROR: state_error(reader.used_to(trained.decode(trained.encode(real))), self.dataset.spec.state)}

    def _cases(self, sizes: AllocationConfig, trained: TrainedWorld) -> Cases:
        cases = held_out_cases(self.dataset, self.split, trained, sizes.cases, max(sizes.horizons), seed=1)
        if cases.state is None:
            return cases
        columns, names = self.config.evaluation.state, self.dataset.spec.state
        return replace(cases, state=foreseeable(cases.state, cases.window, columns, names))

    def _calibrated(self, trained: TrainedWorld) -> dict[str, Any]:
        """A calibration for a checkpoint that has none yet, from the validation split."""
        clips = Clips.load(Path(self.config.dataset), "validation", trained.generator.config.action_width, 2000)
        encode_clips(clips, trained.autoencoder)
        torch.manual_seed(4321)
        samples = collect_benefits(
            trained.generator, trained.autoencoder, trained.levels, clips, rollouts=6, frames=16, keep_taps=False
        )
        return calibrate(samples, self.config.calibration.target_steps)


def training_seeds(config: TrainConfig, runs: Path) -> list[int]:
    """Seeds of all finished trainings of a recipe: its own first, then those beside it in `seed-*`."""
    others = [path.parent.name.removeprefix("seed-") for path in run_folder(config, runs).glob("seed-*/generator.pt")]
    return [config.seed, *sorted(int(seed) for seed in others if seed.isdigit())]


def state_error(probe: StateProbe, names: Sequence[str]) -> StateScore:
    """Mean distance in metres between where things are and where the probe sees them.

    names: the state columns of the recordings. A thing that is not to be seen counts as 0.2 m off, and none as more:
    how far a blot is that the probe takes for a block means nothing.
    """

    def error(state: np.ndarray, frames: np.ndarray) -> np.ndarray:
        truth, _ = state_truth(state, names, probe.columns)
        reading = probe.read(frames)
        distance = np.linalg.norm(reading.points_m - truth, axis=2)
        known = np.where(reading.present, np.minimum(distance, _LOST_M), _LOST_M)
        # What could not be foreseen has no truth (`foreseeable`).
        return np.asarray(np.where(np.isnan(distance).any(axis=1), np.nan, known.mean(axis=1)), dtype=np.float64)

    told = [probe.digest, list(names), _LOST_M]
    return StateScore(hashlib.sha256(json.dumps(told).encode()).hexdigest(), error)


def foreseeable(state: np.ndarray, window: int, columns: StateColumns, names: Sequence[str]) -> np.ndarray:
    """State float32[B, W + N, S] with NaN from where a thing was put elsewhere by the environment."""
    if not columns.jumps:
        return state
    jumped = state[:, :, names.index(columns.jumps)] != 0
    jumped[:, :window] = False
    known: np.ndarray = np.where(np.maximum.accumulate(jumped, axis=1)[:, :, None], np.float32(np.nan), state)
    return known
