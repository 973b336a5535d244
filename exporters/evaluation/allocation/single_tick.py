"""Single ticks: what the steps of one frame are worth after a real past, and whether the confidence knows it.

In a closed loop (`measure.py`) each rule soon lives in a future of its own, and most of its distance to the real
frame is that of one plausible future to another. After a real past the next real frame is the yardstick itself; every
rule is read off the same K estimates, and a thousand moments cost as much as fifty rollouts. What it does not show is
what a frame's error does to the frames after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from exporters.evaluation.allocation.heads import KEPT, AllHeads, Heads, with_head
from exporters.evaluation.allocation.measure import Subject
from exporters.evaluation.allocation.policies import best_spend, stop_smallest, table_threshold
from exporters.evaluation.allocation.ranking import spearman
from exporters.evaluation.allocation.scoring import TICK_RMS, StateScore, benefit_sign, picture_rms
from exporters.evaluation.cases import Cases
from exporters.evaluation.interval import Interval, pooled_interval, pooled_ratio
from exporters.evaluation.metrics import flip, psnr
from exporters.evaluation.playing import warm
from exporters.evaluation.trained import TrainedWorld
from exporters.model.autoencoder import pictures_to_uint8
from exporters.model.lpips import PictureDistance
from exporters.model.rollout import denoise_frame

BATCH = 60
"""Cases that are denoised together."""
CONTROLS = ("random", "fixed", "motion", "oracle")
"""Fixed: the mix of the two nearest fixed schedules that costs the same. Oracle: nearest to the full schedule."""


@dataclass(frozen=True)
class SingleTickConfig:
    """Sizes of the evaluation."""

    cases: int = 600
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    mean_steps: tuple[float, ...] = (1.25, 1.5, 2.0, 2.5)
    """Operating points; the threshold of each comes from the calibration table, so the mean on the day differs."""


@dataclass(frozen=True)
class Looks:
    """Every step of every frame, of one training: B cases, S noise seeds, K steps.

    scores: float64[B, S, K] each. logits: per head float64[B, S, K - 1]. motion: float32[B, S, K - 1], how far an
    estimate is from the frame before (after step 1) or from the step before.
    """

    scores: Mapping[str, np.ndarray]
    logits: Mapping[str, np.ndarray]
    motion: np.ndarray


@torch.inference_mode()
def look(
    trained: TrainedWorld,
    heads: Heads,
    cases: Cases,
    seeds: Sequence[int],
    lpips: PictureDistance | None,
    state_scores: Mapping[str, StateScore] | None = None,
    batch: int = BATCH,
    on_batch: Callable[[], object] | None = None,
) -> Looks:
    """Run the full schedule on the first frame of all cases; `state_scores` as in `scoring.Scorer`."""
    names = list(heads.by_name)
    asked = with_head(trained, AllHeads([heads.by_name[name] for name in names]))
    real = cases.future[:, 0]
    state = None if cases.state is None else cases.state[:, cases.window]
    parts: list[list[dict[str, np.ndarray]]] = []
    for start in range(0, len(cases), batch):
        rows = slice(start, start + batch)
        some = replace(
            cases,
            frames=cases.frames[rows],
            latents=cases.latents[rows],
            actions=cases.actions[rows],
            state=None if cases.state is None else cases.state[rows],
            recording=None if cases.recording is None else cases.recording[rows],
        )
        context, previous = warm(asked, some), some.latents[:, -1]
        rowed = []
        for seed in seeds:
            # The batch keys the noise too: one draw for all batches would tie their cases together.
            draw = torch.Generator().manual_seed(seed * 1_000_003 + start)
            noise = [torch.randn(tuple(previous.shape), generator=draw) for _ in asked.levels]
            action = some.actions[:, some.window]
            steps = denoise_frame(asked.generator, asked.levels, action, context, noise.__getitem__)[2]
            clean = torch.stack([previous, *(estimate.clean for estimate in steps)], dim=1)
            motion = (clean[:, 1:-1] - clean[:, :-2]).square().mean(dim=(2, 3, 4))
            pictures = [trained.autoencoder.decode(estimate.clean) for estimate in steps]
            shown = [pictures_to_uint8(picture).contiguous().numpy() for picture in pictures]
            scores = {
                TICK_RMS: [picture_rms(picture, pictures[-1]).double().numpy() for picture in pictures],
                "psnr_real_db": [psnr(real[rows], frames) for frames in shown],
                "flip_real": [flip(real[rows], frames) for frames in shown],
            }
            if lpips is not None:
                scores["lpips_real"] = [lpips.distance(real[rows], frames) for frames in shown]
            if state is not None:
                for name, score in (state_scores or {}).items():
                    scores[name] = [score(state[rows], frames) for frames in shown]
            logits = torch.stack([estimate.logit for estimate in steps[:-1]], dim=1).double().numpy()
            found = {name: np.stack(values, axis=1) for name, values in scores.items()}
            found |= {f"head {name}": logits[..., i] for i, name in enumerate(names)}
            rowed.append({**found, "motion": motion.numpy()})
            if on_batch is not None:
                on_batch()
        parts.append(rowed)
    joined = {
        name: np.stack([np.concatenate([part[s][name] for part in parts]) for s in range(len(seeds))], axis=1)
        for name in parts[0][0]
    }
    motion = joined.pop("motion")
    logits_by_head = {name: joined.pop(f"head {name}") for name in names}
    return Looks(joined, logits_by_head, motion)


def run_single_tick(
    config: SingleTickConfig,
    subjects: Iterable[Subject],
    lpips: PictureDistance | None,
    state_scores: Mapping[str, StateScore],
) -> dict[str, Any]:
    """Measure; returns a JSON-ready result for `render_single_tick`. One subject per training seed, on equal cases."""
    trainings, units = [], None
    for subject in subjects:
        units = subject.cases.units
        batches = -(-len(subject.cases) // BATCH) * len(config.seeds)
        with tqdm(total=batches, desc=f"single ticks, training {subject.seed}", unit="batch", disable=None) as bar:
            seen = look(
                subject.trained, subject.heads, subject.cases, config.seeds, lpips, state_scores, BATCH, bar.update
            )
        trainings.append((subject.heads, seen))
    if not trainings:
        raise ValueError("single-tick: no training to measure")
    return judge(config, trainings, units)


def judge(
    config: SingleTickConfig, trainings: Sequence[tuple[Heads, Looks]], units: np.ndarray | None = None
) -> dict[str, Any]:
    """Compare every head's rule with the controls at equal steps; JSON-ready. S trainings on the same cases.

    The rows named `heads.KEPT` take from each training the head that it kept; the others one head by name.
    units: int64[B], `Cases.units`.
    """
    scores = list(trainings[0][1].scores)
    steps = trainings[0][1].scores[TICK_RMS].shape[2]
    fixed = [
        {"steps": k + 1, **{s: _over(trainings, lambda seen: seen.scores[s][:, :, k], units) for s in scores}}  # noqa: B023
        for k in range(steps)
    ]
    worth = [
        {
            "step": k + 1,
            **{s: _over(trainings, lambda seen: np.diff(seen.scores[s])[:, :, k - 1], units) for s in scores},  # noqa: B023
        }
        for k in range(1, steps)
    ]
    shared = [name for name in trainings[0][0].by_name if all(name in one.by_name for one, _ in trainings)]
    heads = [KEPT, *(name for name in shared if name != KEPT)]
    known = {s: [seen.scores[s] for _, seen in trainings] for s in scores}
    known = {s: values for s, values in known.items() if not np.isnan(values).any()}
    rows = [_point(trainings, name, mean, scores, units) for name in heads for mean in config.mean_steps]
    ranks = [
        {
            "head": name,
            "step": k + 1,
            **{
                score: spearman(
                    [seen.logits[one.name_of(name)][:, :, k] for one, seen in trainings],
                    [-benefit_sign(score) * (values[:, :, k] - values[:, :, -1]) for values in known[score]],
                    units,
                )
                for score in known
            },
        }
        for name in heads
        for k in range(steps - 1)
    ]
    return {
        "config": asdict(config),
        "cases": int(trainings[0][1].motion.shape[0]),
        "trainings": len(trainings),
        "kept": [one.kept for one, _ in trainings],
        "scores": scores,
        "fixed": fixed,
        "worth": worth,
        "points": rows,
        "ranks": ranks,
    }


def _point(
    trainings: Sequence[tuple[Heads, Looks]],
    head: str,
    wanted: float,
    scores: Sequence[str],
    units: np.ndarray | None,
) -> dict[str, Any]:
    """One head at one operating point: its scores, and how far the controls are from them."""
    rules: dict[str, dict[str, list[np.ndarray]]] = {}
    means = []
    for heads, seen in trainings:
        own = heads.name_of(head)
        calibration = heads.by_name[own].calibration
        threshold = table_threshold(calibration, wanted)
        steps = spend(seen.logits[own], calibration["within_delta"], threshold)
        means.append(float(steps.mean()))
        for rule, values in _rules(seen, steps, scores).items():
            for score, value in values.items():
                rules.setdefault(rule, {}).setdefault(score, []).append(value)
    row: dict[str, Any] = {"head": head, "wanted": wanted, "mean_steps": means, "scores": {}}
    for score in scores:
        by_rule = {rule: np.stack(values[score]) for rule, values in rules.items()}
        tested = by_rule["confidence"]
        entry: dict[str, Any] = {"mean": _plain(pooled_interval(tested, units))}
        entry["above_full"] = _plain(pooled_interval(tested - by_rule["full"], units))
        for control in CONTROLS:
            gap = tested - by_rule[control]
            found = pooled_interval(gap, units)
            signs = {int(np.sign(np.nanmean(one))) for one in gap}
            better = found.sign * benefit_sign(score)
            verdict = ("unclear", "better", "worse")[better] if len(signs) == 1 else "unclear"
            entry[control] = {**_plain(found), "trainings": [float(np.nanmean(one)) for one in gap], "verdict": verdict}
        # Positive where better; of an oracle that is not, nobody can have a share.
        gained, most = (benefit_sign(score) * (by_rule[rule] - by_rule["random"]) for rule in ("confidence", "oracle"))
        reached = pooled_ratio(gained, most, units)
        entry["share_of_oracle"] = _plain(reached)
        row["scores"][score] = entry
    return row


def spend(logits: np.ndarray, curves: Sequence[Mapping[str, Sequence[float]]], threshold: float) -> np.ndarray:
    """Steps int64[B, S] of 'stop at the first step whose calibrated confidence reaches the threshold'."""
    confident = np.stack(
        [np.interp(logits[..., k], curve["logit"], curve["value"]) >= threshold for k, curve in enumerate(curves)], -1
    )
    last = np.ones((*confident.shape[:2], 1), dtype=bool)
    steps: np.ndarray = np.concatenate([confident, last], axis=-1).argmax(axis=-1) + 1
    return steps


def _rules(seen: Looks, steps: np.ndarray, scores: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Per rule and score float64[B], the mean over seeds, where all rules spend as `steps` does within each seed."""
    count = seen.motion.shape[2] + 1
    motion, oracle = np.empty_like(steps), np.empty_like(steps)
    for s in range(steps.shape[1]):
        motion[:, s] = stop_smallest(torch.from_numpy(seen.motion[:, s]), torch.from_numpy(steps[:, s])).numpy()
        oracle[:, s] = best_spend(seen.scores[TICK_RMS][:, s], int(steps[:, s].sum()))
    shares = np.stack([(steps == k + 1).mean(axis=0) for k in range(count)], axis=-1)  # [S, K]
    mean = steps.mean(axis=0)
    lower = np.minimum(mean.astype(int), count - 1)
    mixed = np.zeros_like(shares)
    seeds = np.arange(len(mean))
    mixed[seeds, lower - 1], mixed[seeds, lower] = 1.0 - (mean - lower), mean - lower

    def of(chosen: np.ndarray) -> dict[str, np.ndarray]:
        return {s: _at(seen.scores[s], chosen).mean(axis=1) for s in scores}

    return {
        "confidence": of(steps),
        "full": {s: seen.scores[s][:, :, -1].mean(axis=1) for s in scores},
        # Handed out blindly, every frame has the same chances: the expectation needs no draw.
        "random": {s: (seen.scores[s] * shares).sum(axis=2).mean(axis=1) for s in scores},
        "fixed": {s: (seen.scores[s] * mixed).sum(axis=2).mean(axis=1) for s in scores},
        "motion": of(motion),
        "oracle": of(oracle),
    }


def _at(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """float64[B, S] of float64[B, S, K]."""
    return np.take_along_axis(values, steps[:, :, None] - 1, axis=2)[:, :, 0]


def _over(
    trainings: Sequence[tuple[Heads, Looks]], read: Callable[[Looks], np.ndarray], units: np.ndarray | None
) -> dict[str, float]:
    """Mean and interval of what `read` gives per training, float64[B, S]."""
    return _plain(pooled_interval(np.stack([read(seen).mean(axis=1) for _, seen in trainings]), units))


def _plain(value: Interval) -> dict[str, float]:
    return {"mean": value.mean, "low": value.low, "high": value.high}
