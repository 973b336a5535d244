"""Statistics of the picture over windows of ticks, and when they are no longer those of real recordings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from exporters.recording.dataset import Dataset

STATISTICS = ("red", "green", "blue", "contrast", "gradient_energy", "change")
"""Per frame, grey levels of 255: channel means; standard deviation over the picture; root mean square difference of
neighbouring pixels; mean absolute difference from the frame before."""


def frame_statistics(before: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """`STATISTICS` of uint8[S, H, W, 3] and the frames before them, as float64[S, 6].

    Single precision and no needless copies: it runs once a tick for a hundred thousand ticks.
    """
    now = frames.astype(np.float32)
    colours = now.reshape(len(now), -1, 3).mean(axis=1, dtype=np.float64)
    variance = _power(now) - np.square(colours.mean(axis=1))
    down, right = now[:, 1:] - now[:, :-1], now[:, :, 1:] - now[:, :, :-1]
    energy = np.sqrt((_power(down) + _power(right)) / 2)
    now -= before
    change = np.abs(now, out=now).mean(axis=(1, 2, 3), dtype=np.float64)
    return np.stack([*colours.T, np.sqrt(np.maximum(variance, 0.0)), energy, change], axis=1)


def window_means(values: np.ndarray, window: int) -> np.ndarray:
    """float[S, ticks, 6] -> float64[S, windows, 6]; a last part shorter than a window is left out."""
    sessions, ticks, columns = values.shape
    count = ticks // window
    if count == 0:
        raise ValueError(f"{ticks} ticks are fewer than one window of {window}")
    whole = values[:, : count * window].reshape(sessions, count, window, columns)
    means: np.ndarray = whole.mean(axis=2, dtype=np.float64)
    return means


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


def real_bounds(dataset: Dataset, split: str, window: int) -> dict[str, dict[str, float]]:
    """Per statistic the 5, 50 and 95 % quantile of real windows."""
    quantiles = np.quantile(real_windows(dataset, split, window), [0.05, 0.5, 0.95], axis=0)
    return {
        name: dict(zip(("p5", "p50", "p95"), quantiles[:, i].tolist(), strict=True))
        for i, name in enumerate(STATISTICS)
    }


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


def _power(values: np.ndarray) -> np.ndarray:
    """float64[S]: mean square of float32[S, ...]."""
    rows = values.reshape(len(values), -1)
    return np.asarray([np.dot(row, row) for row in rows], dtype=np.float64) / rows.shape[1]
