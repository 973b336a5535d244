"""Stage `calibration`: from a head's logit to probabilities and benefits that hold on held-out self-rollouts.

Fitted on the earlier half of the validation split, for every head; the kept head's risk bounds are tested on the later
half. All of it is checked on the test split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression

from exporters.model.autoencoder import Autoencoder
from exporters.model.confidence import ConfidenceHead
from exporters.model.generator import Generator
from exporters.model.lpips import PictureDistance
from exporters.training.benefit import OWN, Benefits, collect_benefits
from exporters.training.confidence import rank_metrics
from exporters.training.data import Clips
from exporters.training.risk import CHECK, TEST, Played, RiskTraining, Rollouts, play, risk_bounds, rollouts_key
from exporters.training.stage import Budget, Stage

LARGEST_FACTOR = 4.0
"""A later step's delta is at most so many times the first one's, and at least the inverse of it."""


@dataclass(frozen=True)
class CalibrationTraining:
    """Settings of the calibration stage."""

    rollouts: int = 20
    frames: int = 16
    target_steps: float = 2.0
    """The default threshold is the one that takes this many steps on average."""
    risk: RiskTraining = field(default_factory=RiskTraining)


def isotonic_knots(logit: np.ndarray, target: np.ndarray, increasing: bool) -> dict[str, list[float]]:
    """Monotone piecewise-linear map as knots for `np.interp` (at most 32)."""
    fit = IsotonicRegression(increasing=increasing, out_of_bounds="clip").fit(logit, target)
    at = np.unique(np.quantile(logit, np.linspace(0, 1, 32)))
    return {"logit": [float(x) for x in at], "value": [float(x) for x in fit.predict(at)]}


def probability_knots(logit: np.ndarray, event: np.ndarray) -> dict[str, list[float]]:
    """As `isotonic_knots`, of the probability of a bool[F]; never 1.

    That many samples are not certainty, and so threshold 1 stands for the full schedule.
    """
    knots = isotonic_knots(logit, event.astype(float), True)
    most = 1.0 - 1.0 / (len(event) + 2)
    return {"logit": knots["logit"], "value": [min(value, most) for value in knots["value"]]}


def mean_steps(confidence: np.ndarray, threshold: float) -> float:
    """Mean steps of 'stop at the first step whose confidence reaches the threshold'. confidence [F, K - 1]."""
    reached = np.concatenate([confidence >= threshold, np.ones((len(confidence), 1), bool)], axis=1)
    return float(reached.argmax(axis=1).mean() + 1)


def delta_factors(samples: Benefits) -> list[float] | None:
    """By how much each step's delta is to exceed the first one's, from 1; None without a perceptual distance.

    A grey level to the full schedule's picture is not worth the same after every step: what the next step saves in
    perceptual distance to the recorded frame, per grey level that is left, mostly falls. Where it has fallen to a
    third, three times the distance is as good a reason to go on.
    """
    if not samples.perceptual.numel():
        return None
    known = samples.step_gain.isfinite().all(dim=1)
    saved, left = samples.step_gain[known].double().mean(dim=0), samples.rms[known].double().mean(dim=0)
    worth = (saved / left).clamp_min(0).tolist()
    if worth[0] <= 0:  # not even the second step brings anything: nothing to compare with
        return [1.0] * len(worth)
    ratios = [worth[0] / max(other, worth[0] / LARGEST_FACTOR) for other in worth]
    return [max(ratio, 1 / LARGEST_FACTOR) for ratio in ratios]


def step_deltas(calibration: Mapping[str, Any]) -> list[float]:
    """The delta of every step but the last, of a calibration table."""
    same = [calibration["delta"]] * len(calibration["within_delta"])
    return list(calibration.get("delta_by_step", same))


def calibrate(samples: Benefits, target_steps: float, head: str = OWN) -> dict[str, Any]:
    """The WorldSpec's calibration table of one head, without bounds.

    delta is the median distance between the first step's picture and the full schedule's: half of the frames are
    already within it after one step, so that the confidence has something to tell apart. That of a later step is wider
    by what `delta_factors` finds.
    """
    logit, rms = samples.logits[head].double().numpy(), samples.rms.double().numpy()
    steps = logit.shape[1] + 1
    delta = float(np.median(rms[:, 0]))
    factors = delta_factors(samples)
    deltas = [delta * factor for factor in factors or [1.0] * (steps - 1)]
    within = [probability_knots(logit[:, k], rms[:, k] <= deltas[k]) for k in range(steps - 1)]
    benefit = [isotonic_knots(logit[:, k], rms[:, k], False) for k in range(steps - 1)]
    confidence = np.stack([np.interp(logit[:, k], within[k]["logit"], within[k]["value"]) for k in range(steps - 1)], 1)
    grid = np.unique(np.concatenate([np.linspace(0, 1, 41), np.quantile(confidence, np.linspace(0.02, 0.98, 25))]))
    table = [{"threshold": float(t), "mean_steps": mean_steps(confidence, t)} for t in grid]
    default = min(table, key=lambda row: abs(row["mean_steps"] - target_steps))
    return {
        "delta": delta,
        **({} if factors is None else {"delta_by_step": deltas}),
        "delta_unit": "root mean square of 2x2-averaged picture difference, grey levels of 255",
        "default_threshold": default["threshold"],
        "within_delta": within,
        "benefit": benefit,
        "thresholds": table,
    }


def reliability(samples: Benefits, calibration: Mapping[str, Any], head: str = OWN, bins: int = 10) -> dict[str, Any]:
    """Expected calibration error, and (predicted, observed, share) per bin, over all steps, on other samples."""
    logit, rms = samples.logits[head].double().numpy(), samples.rms.double().numpy()
    within, deltas = calibration["within_delta"], step_deltas(calibration)
    predicted = np.concatenate([np.interp(logit[:, k], w["logit"], w["value"]) for k, w in enumerate(within)])
    observed = np.concatenate([rms[:, k] <= deltas[k] for k in range(logit.shape[1])]).astype(float)
    which = np.minimum((predicted * bins).astype(int), bins - 1)
    rows = [
        {
            "predicted": float(predicted[which == b].mean()),
            "observed": float(observed[which == b].mean()),
            "share": float((which == b).mean()),
        }
        for b in range(bins)
        if (which == b).any()
    ]
    error = sum(r["share"] * abs(r["predicted"] - r["observed"]) for r in rows)
    return {"expected_calibration_error": error, "bins": rows}


def run_calibration(
    config: CalibrationTraining,
    levels: tuple[float, ...],
    folder: Path,
    generator: Generator,
    heads: Mapping[str, ConfidenceHead],
    kept: str,
    autoencoder: Autoencoder,
    validation: Clips,
    test: Clips,
    perceptual: PictureDistance | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The tables by head, the kept one's with its `bounds`, and the gate. The generator's own head is the kept one.

    All randomness comes from torch's global generator, which the caller seeds in the same way before a first run and a
    resumed one; rollouts that were played before are not played again. With `perceptual` every step has its own delta.
    """
    seed = int(torch.randint(2**31, ()))
    earlier, later = validation.halves()
    options: dict[str, Any] = {"keep_taps": False, "heads": heads, "perceptual": perceptual}
    fit = collect_benefits(generator, autoencoder, levels, earlier, config.rollouts, config.frames, **options)
    check = collect_benefits(generator, autoencoder, levels, test, config.rollouts // 2, config.frames, **options)
    tables = {name: calibrate(fit, config.target_steps, name) for name in heads}
    gate: dict[str, Any] = {
        "kept": kept,
        "deltas": step_deltas(tables[kept]),
        "heads": {
            name: {
                "reliability": reliability(check, table, name),
                **rank_metrics(check, check.logits[name], step_deltas(table)),
            }
            for name, table in tables.items()
        },
    }
    table = tables[kept]

    def played(split: str, threshold: float) -> Played:
        clips = later if split == TEST else test
        return play(generator, autoencoder, levels, clips, table["within_delta"], threshold, config.risk, seed)

    key = rollouts_key(generator, table, config.risk, seed)
    rollouts = Rollouts(played, key, lambda: stage.save())
    stage = Stage("calibration", folder, Budget(steps=1), {"rollouts": rollouts})
    stage.resume()
    recordings = {TEST: len(later.lengths), CHECK: len(test.lengths)}
    table["bounds"] = gate["bounds"] = risk_bounds(config.risk, table, len(levels), rollouts.get, recordings)
    stage.write(gate=gate)
    return tables, gate
