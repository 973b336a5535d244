"""Stage `calibration`: from the head's logit to probabilities and benefits that hold on held-out self-rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression

from exporters.model.autoencoder import Autoencoder
from exporters.model.generator import Generator
from exporters.training.benefit import Benefits, collect_benefits
from exporters.training.data import Clips
from exporters.training.stage import Budget, Stage


@dataclass(frozen=True)
class CalibrationTraining:
    """Settings of the calibration stage."""

    rollouts: int = 20
    frames: int = 16
    target_steps: float = 2.0
    """The default threshold is the one that takes this many steps on average."""


def isotonic_knots(logit: np.ndarray, target: np.ndarray, increasing: bool) -> dict[str, list[float]]:
    """Monotone piecewise-linear map as knots for `np.interp` (at most 32)."""
    fit = IsotonicRegression(increasing=increasing, out_of_bounds="clip").fit(logit, target)
    at = np.unique(np.quantile(logit, np.linspace(0, 1, 32)))
    return {"logit": [float(x) for x in at], "value": [float(x) for x in fit.predict(at)]}


def mean_steps(confidence: np.ndarray, threshold: float) -> float:
    """Mean steps of 'stop at the first step whose confidence reaches the threshold'. confidence [F, K - 1]."""
    reached = np.concatenate([confidence >= threshold, np.ones((len(confidence), 1), bool)], axis=1)
    return float(reached.argmax(axis=1).mean() + 1)


def calibrate(samples: Benefits, target_steps: float) -> dict[str, object]:
    """The WorldSpec's calibration table, and its reliability on the same samples.

    delta is the median distance between the first step's picture and the full schedule's: half of the frames are
    already within it after one step, so that the confidence has something to tell apart.
    """
    logit, rms = samples.logit.double().numpy(), samples.rms.double().numpy()
    steps = logit.shape[1] + 1
    delta = float(np.median(rms[:, 0]))
    within = [isotonic_knots(logit[:, k], (rms[:, k] <= delta).astype(float), True) for k in range(steps - 1)]
    benefit = [isotonic_knots(logit[:, k], rms[:, k], False) for k in range(steps - 1)]
    confidence = np.stack([np.interp(logit[:, k], within[k]["logit"], within[k]["value"]) for k in range(steps - 1)], 1)
    grid = np.unique(np.concatenate([np.linspace(0, 1, 41), np.quantile(confidence, np.linspace(0.02, 0.98, 25))]))
    table = [{"threshold": float(t), "mean_steps": mean_steps(confidence, t)} for t in grid]
    default = min(table, key=lambda row: abs(row["mean_steps"] - target_steps))
    return {
        "delta": delta,
        "delta_unit": "root mean square of 2x2-averaged picture difference, grey levels of 255",
        "default_threshold": default["threshold"],
        "within_delta": within,
        "benefit": benefit,
        "thresholds": table,
    }


def reliability(samples: Benefits, calibration: dict[str, object], bins: int = 10) -> dict[str, object]:
    """Expected calibration error, and (predicted, observed, share) per bin, over all steps, on other samples."""
    logit, rms = samples.logit.double().numpy(), samples.rms.double().numpy()
    within = calibration["within_delta"]
    assert isinstance(within, list)
    predicted = np.concatenate([np.interp(logit[:, k], w["logit"], w["value"]) for k, w in enumerate(within)])
    observed = np.concatenate([rms[:, k] <= calibration["delta"] for k in range(logit.shape[1])]).astype(float)
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
    autoencoder: Autoencoder,
    validation: Clips,
    heldout: Clips,
) -> tuple[dict[str, object], dict[str, object]]:
    """Fit on `validation`, check on `heldout`; returns the table and its gate."""
    torch.manual_seed(4321)
    stage = Stage("calibration", folder, Budget(steps=1), {})
    fit = collect_benefits(generator, autoencoder, levels, validation, config.rollouts, config.frames, keep_taps=False)
    check = collect_benefits(
        generator, autoencoder, levels, heldout, config.rollouts // 2, config.frames, keep_taps=False
    )
    table = calibrate(fit, config.target_steps)
    gate = reliability(check, table)
    stage.write(gate=gate)
    return table, gate
