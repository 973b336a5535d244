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
from tqdm import tqdm

from ..training.pictures import save_grid
from .cases import Cases
from .interval import interval, per_case
from .metrics import PictureDistance, change_quartile, compare, copy_last
from .playing import play
from .trained import TrainedWorld

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
    films: dict[str, np.ndarray] = {}
    ticks = trained.steps * len(config.seeds) * cases.horizon
    with tqdm(total=ticks, desc="fidelity", unit="tick", disable=None) as bar:
        for steps, seed in itertools.product(range(1, trained.steps + 1), config.seeds):
            latents = play(trained, cases, seed, steps=steps, on_tick=bar.update).latents
            frames = {h: trained.decode(latents[:, h - 1]) for h in config.horizons}
            systems.setdefault(step_name(steps), []).append(measure(frames))
            if picture is not None and seed == config.seeds[0] and steps in (1, trained.steps):
                films[step_name(steps)] = trained.decode(latents[_hardest(cases, 3)])
    # Per system and metric float64[B, seeds, horizons].
    values = {
        system: {metric: np.stack([run[metric] for run in runs], axis=1) for metric in runs[0]}
        for system, runs in systems.items()
    }
    if picture is not None:
        _save_films(picture, cases, films)
    return summarise(values, masks(cases, config.horizons), config, len(cases))


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
    split_masks: Mapping[str, np.ndarray],
    config: FidelityConfig,
    cases: int,
) -> dict[str, Any]:
    """From float64[B, seeds, horizons] per system and metric to means and paired comparisons."""
    metrics = list(values[COPY_LAST])
    step_systems = [system for system in values if system not in (COPY_LAST, CEILING)]
    means, steps, against_copy = [], [], []
    for split, (column, horizon) in itertools.product(SPLITS, enumerate(config.horizons)):
        where = {"frames": split, "horizon": horizon}
        keep = split_masks[split][:, column]
        picked = {
            system: {metric: per_case(values[system][metric][keep][:, :, column]) for metric in metrics}
            for system in values
        }
        for system in values:
            means.append({**where, "system": system, **{m: asdict(interval(picked[system][m])) for m in metrics}})
        for metric, (before, after) in itertools.product(metrics, itertools.pairwise(step_systems)):
            change = interval(picked[after][metric] - picked[before][metric])
            row = {**where, "metric": metric, "from": before, "to": after, **asdict(change)}
            steps.append({**row, "verdict": verdict(metric, change.sign)})
        for metric in metrics:
            change = interval(picked[step_systems[-1]][metric] - picked[COPY_LAST][metric])
            against_copy.append({**where, "metric": metric, **asdict(change), "verdict": verdict(metric, change.sign)})
    return {
        "config": asdict(config),
        "cases": cases,
        "systems": list(values),
        "metrics": metrics,
        "means": means,
        "added_steps": steps,
        "against_copy_last": against_copy,
    }


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
        f"What each added step does to {_title(perceptual)} (paired; 95 % bootstrap interval over moments):",
        "",
        "| frames | horizon | steps | difference | interval | |",
        "|:--|--:|:--|--:|:--|:--|",
    ]
    for row in result["added_steps"]:
        if row["metric"] == perceptual:
            name = f"{row['from'].split()[0]} -> {row['to'].split()[0]}"
            lines.append(f"| {row['frames']} | {row['horizon']} | {name} | {_signed(row)} | {row['verdict']} |")
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
