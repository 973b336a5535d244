"""Drift: thousands of ticks of free play, and whether the pictures still look like the world's.

Nothing real exists to compare a free rollout with, so statistics of the picture over windows of ticks are held against
the same statistics of real recordings. They see a world that fades, saturates, blurs, freezes or flickers; they do not
see a world that is wrong in a plausible way, which is what the contact sheet is for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from ..recording.dataset import Dataset
from ..recording.environment import Observation
from ..recording.policies import StickyRandomPolicy
from ..training.pictures import save_grid
from .action_probe import buttons
from .cases import Cases
from .playing import Player, Policy
from .trained import TrainedWorld

if TYPE_CHECKING:
    from dsa_runtime import World

STATISTICS = ("red", "green", "blue", "contrast", "gradient_energy", "change")
"""Per frame, grey levels of 255: channel means; standard deviation over the picture; root mean square difference of
neighbouring pixels; mean absolute difference from the frame before."""


@dataclass(frozen=True)
class DriftConfig:
    """Sizes of the evaluation, and what counts as a collapse."""

    ticks: int = 3000
    sessions: int = 3
    window: int = 100
    """Ticks whose frames are averaged before they are judged."""
    margin: float = 0.5
    """A window is abnormal when a statistic leaves the real 5-95 % range by more than this share (`leaves_range`)."""
    patience: int = 5
    """Collapse: this many abnormal windows of one session in a row."""
    seed: int = 0
    sheet_columns: int = 16


@dataclass(frozen=True)
class Free:
    """One tick of S sessions: frames uint8[S, H, W, 3] and steps int64[S]."""

    frames: np.ndarray
    steps: np.ndarray


def run_drift(
    config: DriftConfig,
    play: Iterator[Free],
    first: np.ndarray,
    dataset: Dataset,
    split: str,
    picture: Path | None = None,
) -> dict[str, Any]:
    """Judge `config.ticks` ticks of `play`, which starts after the frames `first` uint8[S, H, W, 3]."""
    before, statistics, steps = first, [], 0.0
    sampled = {round(i * (config.ticks - 1) / max(config.sheet_columns - 1, 1)) for i in range(config.sheet_columns)}
    sheet: list[np.ndarray] = []
    started = time.perf_counter()
    for tick, free in enumerate(tqdm(play, total=config.ticks, desc="drift", unit="tick", disable=None)):
        statistics.append(frame_statistics(before, free.frames))
        before, steps = free.frames, steps + float(free.steps.mean())
        if tick in sampled:
            sheet.append(free.frames)
    seconds = time.perf_counter() - started
    measured = np.stack(statistics, axis=1)
    real = real_windows(dataset, split, config.window)
    bounds = {name: _bounds(real[:, column]) for column, name in enumerate(STATISTICS)}
    windows = window_means(measured, config.window)
    abnormal = leaves_range(windows, bounds, config.margin)
    if picture is not None:
        _save_sheet(picture, sheet, dataset, split, config.sheet_columns)
    return {
        "config": asdict(config),
        "sessions": len(first),
        "ticks": int(measured.shape[1]),
        "mean_steps": steps / measured.shape[1],
        "session_ticks_per_s": measured.shape[1] * len(first) / seconds,
        "real": bounds,
        "windows": {name: windows[:, :, column].tolist() for column, name in enumerate(STATISTICS)},
        "abnormal_windows": {name: int(abnormal[:, :, column].sum()) for column, name in enumerate(STATISTICS)},
        "windows_per_session": int(windows.shape[1]),
        "collapsed_at_tick": [first_run(session.any(axis=1), config.patience, config.window) for session in abnormal],
    }


def frame_statistics(before: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """`STATISTICS` of uint8[S, H, W, 3] and the frames before them, as float64[S, 6]."""
    now = frames.astype(np.float64)
    axes = (1, 2, 3)
    down, right = np.diff(now, axis=1), np.diff(now, axis=2)
    energy = np.sqrt((np.square(down).mean(axis=axes) + np.square(right).mean(axis=axes)) / 2)
    change = np.abs(now - before).mean(axis=axes)
    columns = (*now.mean(axis=(1, 2)).T, now.std(axis=axes), energy, change)
    return np.stack(columns, axis=1)


def window_means(values: np.ndarray, window: int) -> np.ndarray:
    """float64[S, ticks, 6] -> float64[S, windows, 6]; a last part shorter than a window is left out."""
    sessions, ticks, columns = values.shape
    count = ticks // window
    if count == 0:
        raise ValueError(f"{ticks} ticks are fewer than one window of {window}")
    return values[:, : count * window].reshape(sessions, count, window, columns).mean(axis=2)


def real_windows(dataset: Dataset, split: str, window: int) -> np.ndarray:
    """The same windows of real recordings, float64[M, 6]; where the environment was reset, no change is counted."""
    parts = []
    for episode in dataset.episodes(split):
        for start in range(0, episode.steps - window + 1, window):
            after = slice(start + 1, start + 1 + window)
            values = frame_statistics(episode.frames[start : start + window], episode.frames[after])
            values[episode.cut[after], STATISTICS.index("change")] = np.nan
            parts.append(np.nanmean(values, axis=0))
    return np.stack(parts)


def leaves_range(windows: np.ndarray, bounds: Mapping[str, Mapping[str, float]], margin: float) -> np.ndarray:
    """bool[S, windows, 6]: outside the real 5-95 % range by more than `margin` of its width or of its end.

    The width alone would forgive everything below a range that is wide and near zero: a frozen picture, for one.
    """
    low, high = (np.asarray([bounds[name][key] for name in STATISTICS]) for key in ("p5", "p95"))
    slack = margin * (high - low)
    least = np.maximum(low - slack, low / (1.0 + margin))
    most = np.minimum(high + slack, high * (1.0 + margin))
    outside: np.ndarray = (windows < least) | (windows > most)
    return outside


def first_run(abnormal: np.ndarray, patience: int, window: int) -> int | None:
    """Tick at which the first `patience` True in a row begin, or None."""
    for start in range(len(abnormal) - patience + 1):
        if abnormal[start : start + patience].all():
            return start * window
    return None


def free_actions(dataset: Dataset, split: str, ticks: int, seed: int) -> np.ndarray:
    """int64[ticks] of a sticky random player that knows its heading only by counting its turns."""
    turns = [turn for turn, _ in buttons(dataset.spec)]
    degrees = _degrees_per_step(dataset, split)
    player = StickyRandomPolicy()
    player.begin(np.random.default_rng(seed))
    heading, actions = 0.0, np.empty(ticks, dtype=np.int64)
    nothing = np.empty((0, 0, 3), dtype=np.uint8)
    for tick in range(ticks):
        actions[tick] = player.act(Observation(nothing, np.asarray([heading], dtype=np.float32)))
        heading += turns[actions[tick]] * degrees
    return actions


def play_sdk(world: World, seeds: Sequence[int], actions: Sequence[np.ndarray]) -> tuple[np.ndarray, Iterator[Free]]:
    """Free play through `Session.step` at the world's default threshold: first frames, and the ticks to come."""
    sessions = [world.session(seed) for seed in seeds]
    first = np.stack([session.reset(seed) for session, seed in zip(sessions, seeds, strict=True)])

    def ticks() -> Iterator[Free]:
        try:
            for asked in zip(*actions, strict=True):
                done = [s.step(int(action), budget_ms=math.inf) for s, action in zip(sessions, asked, strict=True)]
                yield Free(np.stack([tick.pixels for tick in done]), np.asarray([tick.steps for tick in done]))
        finally:
            for session in sessions:
                session.close()

    return first, ticks()


def play_torch(
    trained: TrainedWorld, cases: Cases, seed: int, actions: Sequence[np.ndarray], policy: Policy | None
) -> tuple[np.ndarray, Iterator[Free]]:
    """The same without a package, one session per case; without a policy, all steps."""
    code = torch.eye(trained.generator.config.action_width)

    def ticks() -> Iterator[Free]:
        player = Player(trained, cases, seed)
        for asked in zip(*actions, strict=True):
            done = player.step(code[torch.tensor(asked)], policy)
            yield Free(trained.decode(done.latents[:, 0]), done.steps[:, 0].numpy())

    return cases.frames[:, cases.window - 1], ticks()


def render_drift(result: Mapping[str, Any]) -> str:
    """Markdown for a card."""
    config, real = result["config"], result["real"]
    total = result["windows_per_session"] * result["sessions"]
    lines = [
        "### Free play",
        "",
        f"{result['sessions']} sessions of {result['ticks']} ticks through {result['engine']}, a sticky random player,"
        f" {result['mean_steps']:.2f} steps a tick on average. Means over windows of {config['window']} ticks, beside"
        " the same windows of real recordings (grey levels of 255).",
        "",
        "| statistic | real 5-95 % | first window | last window | lowest | highest | windows outside |",
        "|:--|:--|--:|--:|--:|--:|--:|",
    ]
    for name in STATISTICS:
        values = np.asarray(result["windows"][name])
        cells = [values[:, 0].mean(), values[:, -1].mean(), values.min(), values.max()]
        lines.append(
            f"| {name.replace('_', ' ')} | {real[name]['p5']:.1f} - {real[name]['p95']:.1f} | "
            + " | ".join(f"{cell:.1f}" for cell in cells)
            + f" | {result['abnormal_windows'][name]} of {total} |"
        )
    lost = [tick for tick in result["collapsed_at_tick"] if tick is not None]
    verdict = "No session collapsed"
    if lost:
        verdict = f"{len(lost)} of {result['sessions']} sessions collapsed, the first at tick {min(lost)}"
    lines += [
        "",
        f"{verdict}. A window is outside when a statistic leaves the real range by more than {config['margin']:.0%} of"
        f" its width or of its end; {config['patience']} such windows in a row are a collapse.",
    ]
    return "\n".join(lines) + "\n"


def _bounds(values: np.ndarray) -> dict[str, float]:
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return {"p5": float(low), "p50": float(middle), "p95": float(high)}


def _degrees_per_step(dataset: Dataset, split: str) -> float:
    """Median turn of one step in which a turn was asked for."""
    turns = np.asarray([turn for turn, _ in buttons(dataset.spec)])
    column = dataset.spec.state.index("angle_deg")
    episode = dataset.read(split, 0)
    assert episode.state is not None
    turned = np.abs((np.diff(episode.state[:, column]) + 180.0) % 360.0 - 180.0)
    return float(np.median(turned[(turns[episode.actions] != 0) & ~episode.cut[1:]]))


def _save_sheet(path: Path, sheet: Sequence[np.ndarray], dataset: Dataset, split: str, columns: int) -> None:
    """A row of real frames, then a row per session, from its first tick to its last."""
    episode = dataset.read(split, 0)
    real = episode.frames[np.linspace(0, episode.steps, columns).astype(int)]
    save_grid(path, [real, *np.stack(sheet, axis=1)])
