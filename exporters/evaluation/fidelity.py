"""Fidelity: generated frames against the real environment under the same actions, for 1..K denoising steps.

From held-out contexts the world plays the recorded actions. Beside it stand the newest context frame, frozen ("copy
last"), and the autoencoder's reconstruction of the real frame, which no generator behind that decoder can beat.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from exporters.evaluation.cases import Cases
from exporters.evaluation.interval import interval, per_case
from exporters.evaluation.metrics import change_quartile, compare, copy_last
from exporters.evaluation.playing import TickView, play
from exporters.evaluation.trained import TrainedWorld
from exporters.model.lpips import PictureDistance
from exporters.training.pictures import save_grid

COPY_LAST, CEILING = "copy last", "autoencoder"
HIGHER_IS_BETTER = {"psnr_db": True, "ssim": True, "lpips": False, "flip": False}
SPLITS = ("all", "easy", "hard")


@dataclass(frozen=True)
class FidelityConfig:
    """Sizes of the evaluation."""

    cases: int = 96
    seeds: tuple[int, ...] = (0, 1, 2)
    horizons: tuple[int, ...] = (1, 4, 8, 16)
    with_flip: bool = True


def run_fidelity(
    config: FidelityConfig,
    trained: TrainedWorld,
    cases: Cases,
    lpips: PictureDistance | None,
    picture: Path | None = None,
) -> dict[str, Any]:
    """Measure; returns a JSON-ready result for `render_fidelity`. Writes sample pictures to `picture`."""
    real = {h: cases.future[:, h - 1] for h in config.horizons}

    def measure(frames: Mapping[int, np.ndarray]) -> dict[str, np.ndarray]:
        """Per metric float64[B, horizons]."""
        columns = [compare(real[h], frames[h], lpips=lpips, with_flip=config.with_flip) for h in config.horizons]
        return {name: np.stack([column[name] for column in columns], axis=1) for name in columns[0]}

    systems = {
        COPY_LAST: [measure(dict.fromkeys(config.horizons, copy_last(cases.frames[:, : cases.window], 1)[:, 0]))],
        CEILING: [measure({h: trained.decode(trained.encode(frames)) for h, frames in real.items()})],
    }
    alone: dict[str, list[dict[str, np.ndarray]]] = {}
    films: dict[str, np.ndarray] = {}
    ticks = trained.steps * len(config.seeds) * cases.horizon
    with tqdm(total=ticks, desc="fidelity", unit="tick", disable=None) as bar:
        for steps, seed in itertools.product(range(1, trained.steps + 1), config.seeds):
            seen = _Estimates(config.horizons)
            latents = play(trained, cases, seed, seen, steps=steps, on_tick=bar.update).latents
            frames = {h: trained.decode(latents[:, h - 1]) for h in config.horizons}
            systems.setdefault(step_name(steps), []).append(measure(frames))
            if steps == trained.steps:
                for k in range(1, steps + 1):
                    exits = {h: trained.decode(clean[k - 1]) for h, clean in seen.clean.items()}
                    alone.setdefault(step_name(k), []).append(measure(exits))
            if picture is not None and seed == config.seeds[0] and steps in (1, trained.steps):
                films[step_name(steps)] = trained.decode(latents[_hardest(cases, 3)])
    if picture is not None:
        _save_films(picture, cases, films)
    return summarise(_stack(systems), _stack(alone), masks(cases, config.horizons), config, cases.units)


class _Estimates:
    """A rule that takes every step it is given, and keeps the estimates of all steps at some horizons."""

    def __init__(self, horizons: Sequence[int]) -> None:
        self._horizons = horizons
        self.clean: dict[int, list[Tensor]] = {}

    def __call__(self, view: TickView) -> Tensor:
        if view.tick + 1 in self._horizons:
            self.clean[view.tick + 1] = [estimate.clean for estimate in view.estimates]
        return torch.full((len(view.previous),), len(view.estimates))


def _stack(systems: Mapping[str, Sequence[Mapping[str, np.ndarray]]]) -> dict[str, dict[str, np.ndarray]]:
    """Per system and metric float64[B, seeds, horizons], from one float64[B, horizons] per seed."""
    return {
        system: {metric: np.stack([run[metric] for run in runs], axis=1) for metric in runs[0]}
        for system, runs in systems.items()
    }


def step_name(steps: int) -> str:
    """How a fixed number of steps is called in tables."""
    return "1 step" if steps == 1 else f"{steps} steps"


def masks(cases: Cases, horizons: Sequence[int]) -> dict[str, np.ndarray]:
    """Per split bool[B, horizons]. Easy and hard: the quarters of the cases whose real frame at that horizon changes
    least and most from the frame before it."""
    quartile = np.stack(
        [change_quartile(cases.frames[:, cases.window + h - 2], cases.future[:, h - 1]) for h in horizons], axis=1
    )
    return {"all": np.ones_like(quartile, dtype=bool), "easy": quartile == 0, "hard": quartile == 3}


def summarise(
    values: Mapping[str, Mapping[str, np.ndarray]],
    alone: Mapping[str, Mapping[str, np.ndarray]],
    split_masks: Mapping[str, np.ndarray],
    config: FidelityConfig,
    units: np.ndarray,
) -> dict[str, Any]:
    """From float64[B, seeds, horizons] per system and metric to means and paired comparisons.

    `values`: whole rollouts of fixed steps, and what stands beside them. `alone`: the frame at the horizon with so many
    steps, after a rollout of full schedules. units: int64[B], `Cases.units`.
    """
    metrics = list(values[COPY_LAST])
    rollouts = {system: values[system] for system in values if system not in (COPY_LAST, CEILING)}
    full = rollouts[list(rollouts)[-1]]
    means, against_copy = [], []
    for split, (column, horizon) in itertools.product(SPLITS, enumerate(config.horizons)):
        where = {"frames": split, "horizon": horizon}
        keep = split_masks[split][:, column]
        for system in values:
            cells = {metric: interval(values[system][metric][keep][:, :, column], units[keep]) for metric in metrics}
            means.append({**where, "system": system, **{metric: asdict(cell) for metric, cell in cells.items()}})
        for metric in metrics:
            copied = per_case(values[COPY_LAST][metric][keep][:, :, column])
            change = interval(per_case(full[metric][keep][:, :, column]) - copied, units[keep])
            against_copy.append({**where, "metric": metric, **asdict(change), "verdict": verdict(metric, change.sign)})
    return {
        "config": asdict(config),
        "cases": len(units),
        "systems": list(values),
        "metrics": metrics,
        "means": means,
        "added_steps": compare_steps(rollouts, split_masks, config, units),
        "added_steps_alone": compare_steps(alone, split_masks, config, units),
        "against_copy_last": against_copy,
    }


def compare_steps(
    systems: Mapping[str, Mapping[str, np.ndarray]],
    split_masks: Mapping[str, np.ndarray],
    config: FidelityConfig,
    units: np.ndarray,
) -> list[dict[str, Any]]:
    """What each added step changes, paired by case and seed; systems in order of their steps."""
    rows = []
    for split, (column, horizon) in itertools.product(SPLITS, enumerate(config.horizons)):
        keep = split_masks[split][:, column]
        for before, after in itertools.pairwise(systems):
            for metric in systems[before]:
                change = interval((systems[after][metric] - systems[before][metric])[keep][:, :, column], units[keep])
                row = {"frames": split, "horizon": horizon, "metric": metric, "from": before, "to": after}
                rows.append({**row, **asdict(change), "verdict": verdict(metric, change.sign)})
    return rows


def verdict(metric: str, sign: int) -> str:
    """What a difference whose 95 % interval has this sign says; 0: the interval holds zero."""
    if sign == 0:
        return "unclear"
    return "better" if (sign > 0) == HIGHER_IS_BETTER[metric] else "worse"


def render_fidelity(result: Mapping[str, Any]) -> str:
    """Markdown for a card."""
    config, metrics = result["config"], result["metrics"]
    lines = [
        "### Against the real environment, same actions",
        "",
        f"{result['cases']} held-out moments, {len(config['seeds'])} noise seeds each. Mean ± standard error over the"
        " moments (seeds averaged first). Easy and hard: the quarter of the real frames that change least and most."
        " No moment contains a reset of the environment. PSNR and SSIM: higher is better; LPIPS and FLIP: lower.",
    ]
    for split in SPLITS:
        lines += ["", f"**{split.capitalize()} frames**", ""]
        lines.append("| horizon | frames from | " + " | ".join(map(_title, metrics)) + " |")
        lines.append("|--:|:--" + "|--:" * len(metrics) + "|")
        for row in result["means"]:
            if row["frames"] == split:
                cells = [_mean(row[m], _digits(m)) for m in metrics]
                lines.append(f"| {row['horizon']} | {row['system']} | " + " | ".join(cells) + " |")
    perceptual = "lpips" if "lpips" in metrics else metrics[0]
    lines += [
        "",
        f"What each added step does to {_title(perceptual)} (paired; 95 % interval over moments). Of the"
        " frame alone: the frames before it are those of the full schedule, so that only its own steps differ. Of the"
        " rollout: every frame since the context had so many steps; its later frames are other, also possible futures.",
        "",
        "| frames | horizon | steps | of the frame alone | interval | | of the rollout | interval | |",
        "|:--|--:|:--|--:|:--|:--|--:|:--|:--|",
    ]
    for one, all_of_them in zip(result["added_steps_alone"], result["added_steps"], strict=True):
        if one["metric"] == perceptual:
            name = f"{one['from'].split()[0]} -> {one['to'].split()[0]}"
            both = f"{_signed(one)} | {one['verdict']} | {_signed(all_of_them)} | {all_of_them['verdict']}"
            lines.append(f"| {one['frames']} | {one['horizon']} | {name} | {both} |")
    lines += [
        "",
        f"{result['systems'][-1]} against copy last (paired):",
        "",
        "| horizon | metric | difference | interval | |",
        "|--:|:--|--:|:--|:--|",
    ]
    for row in result["against_copy_last"]:
        if row["frames"] == "all":
            lines.append(f"| {row['horizon']} | {_title(row['metric'])} | {_signed(row)} | {row['verdict']} |")
    return "\n".join(lines) + "\n"


def _mean(cell: Mapping[str, float], digits: int) -> str:
    return f"{cell['mean']:.{digits}f} ± {cell['standard_error']:.{digits}f}"


def _signed(row: Mapping[str, Any]) -> str:
    return f"{row['mean']:+.4f} | {row['low']:+.4f} .. {row['high']:+.4f}"


def _title(metric: str) -> str:
    return {"psnr_db": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS", "flip": "FLIP"}[metric]


def _digits(metric: str) -> int:
    return 2 if metric == "psnr_db" else 3


def _hardest(cases: Cases, count: int) -> np.ndarray:
    """Indices of the cases whose real frames change most over the horizon."""
    change = np.abs(np.diff(cases.frames[:, cases.window - 1 :].astype(np.int16), axis=1)).mean(axis=(1, 2, 3, 4))
    return np.argsort(-change, kind="stable")[:count]


def _save_films(path: Path, cases: Cases, films: Mapping[str, np.ndarray]) -> None:
    """Per hard case three rows: real, one step, all steps."""
    rows = []
    for row, index in enumerate(_hardest(cases, 3)):
        rows += [cases.future[index], *(film[row] for film in films.values())]
    save_grid(path, rows)
