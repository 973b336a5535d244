"""Ranking: does a head's confidence tell frames that gain by more steps from frames that do not?

All heads are read on the same frames, met in closed loop under the kept head's own rule, as at play. The benefit of
going on after step k is the distance between its picture and the full schedule's. Signed, it is what going on changes
in the LPIPS to the real frame: that can be a harm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from exporters.evaluation.allocation.heads import AllHeads, Heads, with_head
from exporters.evaluation.allocation.scoring import picture_rms
from exporters.evaluation.cases import Cases
from exporters.evaluation.interval import pooled_interval
from exporters.evaluation.playing import Played, Policy, TickView, play
from exporters.evaluation.trained import TrainedWorld
from exporters.model.autoencoder import pictures_to_uint8
from exporters.model.generator import Context
from exporters.model.lpips import PictureDistance
from exporters.training.benefit import GREY, OWN, Benefits
from exporters.training.calibration import reliability


@dataclass(frozen=True)
class Witnessed:
    """What was seen at the horizons of B cases. All float64 and of K - 1 steps.

    logits: [B, horizons, K - 1, heads]. rms: [B, horizons, K - 1] in grey levels. signed: the same shape, LPIPS to the
    real frame after that step less the LPIPS after all steps; None without LPIPS.
    """

    logits: np.ndarray
    rms: np.ndarray
    signed: np.ndarray | None


def witness(
    trained: TrainedWorld,
    heads: Heads,
    policy: Policy,
    cases: Cases,
    seed: int,
    horizons: Sequence[int],
    lpips: PictureDistance | None,
    on_tick: Callable[[], object] | None = None,
    context: Context | None = None,
) -> tuple[Witnessed, Played]:
    """Play under `policy`, which is asked with the kept head's logits, and look at every step's picture.

    The rollouts are those of the kept head's rule: nobody has to play it again.
    """
    names = list(heads.by_name)
    kept, seen = names.index(heads.kept), []

    def watch(view: TickView) -> Tensor:
        own = [replace(estimate, logit=estimate.logit[:, kept]) for estimate in view.estimates]
        if view.tick + 1 in horizons:
            seen.append(_look(trained, view, cases.future[:, view.tick], lpips))
        return policy(replace(view, estimates=own))

    asked = with_head(trained, AllHeads([heads.by_name[name] for name in names]))
    played = play(asked, cases, seed, watch, on_tick=on_tick, context=context)
    logits, rms, signed = ([look[part] for look in seen] for part in range(3))
    together = None if lpips is None else np.stack(signed, axis=1)
    return Witnessed(np.stack(logits, axis=1), np.stack(rms, axis=1), together), played


def joined(parts: Sequence[Witnessed]) -> Witnessed:
    """Several rollout seeds of the same cases as more horizons of one."""
    logits, rms = (np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("logits", "rms"))
    signed = [part.signed for part in parts if part.signed is not None]
    return Witnessed(logits, rms, np.concatenate(signed, axis=1) if signed else None)


def rank_heads(
    trainings: Sequence[tuple[Heads, Witnessed]], names: Sequence[str], units: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Per head and step the rank correlations with the benefits, and the reliability over all steps, of S trainings.

    units: int64[B], the cluster of each case.
    """
    rows = []
    for name in names:
        columns = [list(heads.by_name).index(name) for heads, _ in trainings]
        seen = [witnessed for _, witnessed in trainings]
        steps = []
        for step in range(seen[0].rms.shape[2]):
            logits = [one.logits[:, :, step, column] for one, column in zip(seen, columns, strict=True)]
            row: dict[str, Any] = {"step": step + 1}
            row["rms"] = spearman(logits, [one.rms[:, :, step] for one in seen], units)
            if all(one.signed is not None for one in seen):
                signed = [one.signed[:, :, step] for one in seen if one.signed is not None]
                row["signed"] = spearman(logits, signed, units)
                row["mean_signed_benefit"] = float(np.mean(signed))
                row["share_harmed"] = float(np.mean(np.asarray(signed) < 0))
            steps.append(row)
        tables = [
            _reliability(one.logits[..., column], one.rms, heads.by_name[name].calibration)
            for (heads, one), column in zip(trainings, columns, strict=True)
        ]
        errors = [table["expected_calibration_error"] for table in tables]
        rows.append({"head": name, "steps": steps, "ece": float(np.mean(errors)), "reliability": tables})
    return rows


def spearman(
    logits: Sequence[np.ndarray], benefits: Sequence[np.ndarray], units: np.ndarray | None = None
) -> dict[str, Any]:
    """Rank correlation of -logit with the benefit, the mean of S trainings. Of float64[B, n] each.

    1 ranks frames perfectly, 0 knows nothing. The interval is that of the mean product of the ranks,
    taken as given, over trainings and cases, the latter in clusters `units` int64[B].
    """
    products, found = [], []
    for logit, benefit in zip(logits, benefits, strict=True):
        first, second = (_standard_ranks(values).reshape(logit.shape) for values in (-logit, benefit))
        products.append((first * second).mean(axis=1))
        found.append(float(products[-1].mean()))
    whole = pooled_interval(np.stack(products), units).within(-1.0, 1.0)
    return {"mean": whole.mean, "low": whole.low, "high": whole.high, "trainings": found}


def _reliability(logits: np.ndarray, rms: np.ndarray, calibration: Mapping[str, Any]) -> dict[str, Any]:
    """Of 'within delta of the full schedule', over all steps. logits, rms: float64[B, n, K - 1]."""
    steps = rms.shape[-1]
    squared = torch.from_numpy((rms / GREY) ** 2).reshape(-1, steps)
    seen = {OWN: torch.from_numpy(np.ascontiguousarray(logits)).reshape(-1, steps)}
    return reliability(Benefits([], torch.empty(0), squared, seen), calibration)


def _look(
    trained: TrainedWorld, view: TickView, real: np.ndarray, lpips: PictureDistance | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """logits [B, K - 1, heads], rms [B, K - 1], signed [B, K - 1] (empty without LPIPS) of one tick."""
    logits = torch.stack([estimate.logit for estimate in view.estimates[:-1]], dim=1)
    pictures = [trained.autoencoder.decode(estimate.clean) for estimate in view.estimates]
    rms = torch.stack([picture_rms(picture, pictures[-1]) for picture in pictures[:-1]], dim=1)
    signed = np.empty((len(logits), 0))
    if lpips is not None:
        errors = [lpips.distance(real, pictures_to_uint8(picture).contiguous().numpy()) for picture in pictures]
        signed = np.stack([error - errors[-1] for error in errors[:-1]], axis=1)
    return logits.double().numpy(), rms.double().numpy(), signed


def _standard_ranks(values: np.ndarray) -> np.ndarray:
    """float64[n]: ranks (ties share theirs) of mean 0 and variance 1; zeros where all values are equal."""
    ranks = rankdata(values.ravel())
    spread = ranks.std()
    ranked: np.ndarray = (ranks - ranks.mean()) / spread if spread > 0 else np.zeros_like(ranks)
    return ranked
