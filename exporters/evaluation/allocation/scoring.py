"""Scoring: how good a rule's rollouts are, against the real frames and against what all steps would have made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from exporters.evaluation.cases import Cases
from exporters.evaluation.metrics import flip, psnr
from exporters.evaluation.playing import Played
from exporters.evaluation.trained import TrainedWorld
from exporters.model.autoencoder import pictures_to_uint8
from exporters.model.lpips import PictureDistance

TICK_RMS = "tick_rms"
SCORES = {
    TICK_RMS: "distance to the same tick's full schedule (grey levels)",
    "lpips_tick": "LPIPS to the same tick's full schedule",
    "lpips_full": "LPIPS to a rollout of full schedules",
    "flip_full": "FLIP to a rollout of full schedules",
    "lpips_real": "LPIPS to the real frame",
    "flip_real": "FLIP to the real frame",
    "psnr_real_db": "PSNR to the real frame (dB)",
}
"""What every world is judged by. Scores of the state come after them, under the names that they are handed in with."""
TO_REAL = ("lpips_real", "flip_real")
"""Where 'as good as the full schedule' is decided, besides the scores of the state."""
_RISING = ("psnr_real_db",)


@dataclass(frozen=True)
class StateScore:
    """(real state float32[n, S], frames uint8[n, H, W, 3]) -> error float64[n]; NaN where none can be told."""

    key: str
    """Digest of all that `error` depends on besides its arguments; results that are kept on disk are known by it."""
    error: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def __call__(self, state: np.ndarray, frames: np.ndarray) -> np.ndarray:
        return self.error(state, frames)


def benefit_sign(score: str) -> int:
    """+1 where more is better, -1 where less is."""
    return 1 if score in _RISING else -1


def title(score: str) -> str:
    """How a score is called in tables; a score of the state by its own name."""
    return SCORES.get(score, score)


@dataclass
class Run:
    """One rule's rollouts: per score one float64[B, horizons] per rollout seed, and steps int64[B, N] per seed."""

    scores: dict[str, list[np.ndarray]] = field(default_factory=dict)
    steps: list[np.ndarray] = field(default_factory=list)

    def add(self, scores: Mapping[str, np.ndarray], steps: np.ndarray) -> None:
        """One more rollout seed."""
        for name, values in scores.items():
            self.scores.setdefault(name, []).append(values)
        self.steps.append(steps)

    def score(self, name: str) -> np.ndarray:
        """float64[B, seeds, horizons]."""
        return np.stack(self.scores[name], axis=1)

    def cases(self, name: str) -> np.ndarray:
        """float64[B]: the mean of each case over seeds and horizons; without NaNs, where not all are."""
        values = self.score(name)
        known = ~np.isnan(values)
        count = known.sum(axis=(1, 2))
        total = np.where(known, values, 0.0).sum(axis=(1, 2))
        mean: np.ndarray = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
        return mean

    @property
    def mean_steps(self) -> float:
        return float(np.mean(self.steps))


class Scorer:
    """Scores rollouts of the same cases. The first of a seed is its reference: the full schedule."""

    def __init__(
        self,
        trained: TrainedWorld,
        cases: Cases,
        horizons: tuple[int, ...],
        lpips: PictureDistance | None,
        state_scores: Mapping[str, StateScore],
        with_flip: bool = True,
    ) -> None:
        if max(horizons) > cases.horizon:
            raise ValueError(f"allocation.horizons: {max(horizons)} lies beyond the cases' {cases.horizon} frames")
        if state_scores and cases.state is None:
            raise ValueError(f"{next(iter(state_scores))}: these recordings hold no state to compare with")
        self._trained, self._lpips, self._state_scores, self._with_flip = trained, lpips, state_scores, with_flip
        self._columns = [horizon - 1 for horizon in horizons]
        self._real = _flat(cases.future[:, self._columns])
        state = cases.state
        self._state = None if state is None else _flat(state[:, cases.window :][:, self._columns])
        self._references: dict[int, np.ndarray] = {}

    @property
    def ticks(self) -> list[int]:
        """The ticks (from 0) that are looked at."""
        return self._columns

    def scores(self, played: Played, seed: int) -> dict[str, np.ndarray]:
        """Per score float64[B, horizons]."""
        batch = len(played.steps)
        pictures = self._pictures(played.latents)
        shown = _shown(pictures)
        reference = self._references.setdefault(seed, shown)
        scores = self._to_the_tick(played, pictures, shown)
        scores["psnr_real_db"] = psnr(self._real, shown)
        if self._with_flip:
            scores |= {"flip_full": flip(reference, shown), "flip_real": flip(self._real, shown)}
        if self._lpips is not None:
            scores["lpips_full"] = self._lpips.distance(reference, shown)
            scores["lpips_real"] = self._lpips.distance(self._real, shown)
        ordered = {name: scores[name] for name in SCORES if name in scores}
        if self._state is not None:
            ordered |= {name: score(self._state, shown) for name, score in self._state_scores.items()}
        return {name: values.reshape(batch, -1) for name, values in ordered.items()}

    def _to_the_tick(self, played: Played, pictures: Tensor, shown: np.ndarray) -> dict[str, np.ndarray]:
        """What frames that did not get all their steps lost by it, float64[B * horizons]."""
        short = (played.steps[:, self._columns].flatten() < self._trained.steps).nonzero().squeeze(1)
        distances = {TICK_RMS: np.zeros(len(pictures))}
        if self._lpips is not None:
            distances["lpips_tick"] = np.zeros(len(pictures))
        if not len(short):
            return distances
        full = self._decode(played.full[:, self._columns].flatten(0, 1)[short])
        distances[TICK_RMS][short] = picture_rms(pictures[short], full).double().numpy()
        if self._lpips is not None:
            distances["lpips_tick"][short] = self._lpips.distance(_shown(full), shown[short])
        return distances

    def _pictures(self, latents: Tensor) -> Tensor:
        """float32[B * horizons, 3, H, W] of latents [B, N, C, h, w]."""
        return self._decode(latents[:, self._columns].flatten(0, 1))

    @torch.inference_mode()
    def _decode(self, latents: Tensor) -> Tensor:
        parts = latents.contiguous(memory_format=torch.channels_last).split(64)
        return torch.cat([self._trained.autoencoder.decode(part) for part in parts])


def picture_rms(first: Tensor, second: Tensor) -> Tensor:
    """float32[B] in grey levels of 255, the calibration's unit: of pictures float32[B, 3, H, W], averaged 2x2."""
    difference = F.avg_pool2d(first.clamp(-1, 1), 2) - F.avg_pool2d(second.clamp(-1, 1), 2)
    return difference.square().mean(dim=(1, 2, 3)).sqrt() * 127.5


def _shown(pictures: Tensor) -> np.ndarray:
    frames: np.ndarray = pictures_to_uint8(pictures).contiguous().numpy()
    return frames


def _flat(values: np.ndarray) -> np.ndarray:
    """[B, n, ...] -> [B * n, ...]."""
    return values.reshape(-1, *values.shape[2:])
