"""Drift: thousands of ticks of free play, and whether the world is still what it was.

Nothing real exists to compare a free rollout with. So statistics of the picture over windows of ticks are held against
the same statistics of real recordings: they see a world that fades, saturates, blurs, freezes or flickers. Whether it
still obeys is asked in forks shortly before checkpoints (`checkpoints.py`), whether its things are still there,
of a state probe where there is one (`state.py`). A world that is wrong in a way that none of them sees is what
the contact sheet is for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from exporters.evaluation.drift.checkpoints import Checkpoints
from exporters.evaluation.drift.free_play import FreePlay
from exporters.evaluation.drift.progress import Progress
from exporters.evaluation.drift.state import StateReadout, StateTrack
from exporters.evaluation.drift.statistics import (
    STATISTICS,
    first_run,
    frame_statistics,
    leaves_range,
    real_bounds,
    window_means,
)
from exporters.evaluation.response.trials import Trials
from exporters.recording.dataset import Dataset
from exporters.training.pictures import save_grid

_KEPT_WINDOWS = 120


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
    checkpoints: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Ticks at which the response to actions is asked; those beyond `ticks` are left out."""
    moments: int = 64
    """Forks before each checkpoint."""
    spacing: int = 15
    """Ticks between them: about a second, and the first checkpoint has room for all."""
    hold: int = 8
    """Ticks for which a fork holds an action."""
    read_every: int = 25
    """Ticks between two readings of the state."""
    save_minutes: float = 3.0

    def __post_init__(self) -> None:
        for name in ("ticks", "sessions", "window", "moments", "spacing", "hold", "read_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"drift.{name}: must be at least 1, got {getattr(self, name)}")
        if self.ticks < self.window:
            raise ValueError(f"drift.ticks: {self.ticks} are fewer than one window of {self.window}; ask for more")


def run_drift(
    config: DriftConfig,
    play: FreePlay,
    actions: Sequence[np.ndarray],
    dataset: Dataset,
    split: str,
    *,
    trials: Trials | None = None,
    readout: StateReadout | None = None,
    picture: Path | None = None,
    progress: Path | None = None,
) -> dict[str, Any]:
    """Play `config.ticks` ticks under an array of actions per session; JSON-ready, for `drift_report.render_drift`.

    `progress`: written every few minutes where `play` has snapshots, taken up if it is there, removed at the end.
    """
    run = _Run(config, play, trials, readout)
    if progress is not None:
        run.take_up(progress)
    saved = time.monotonic()
    with tqdm(total=config.ticks, initial=run.tick, desc="drift", unit="tick", disable=None) as bar:
        while run.tick < config.ticks:
            run.advance([asked[run.tick] for asked in actions])
            bar.update()
            if progress is not None and time.monotonic() - saved > 60.0 * config.save_minutes:
                run.save(progress)
                saved = time.monotonic()
    if picture is not None:
        episode = dataset.read(split, 0)
        real = episode.frames[np.linspace(0, episode.steps, len(run.sheet)).astype(int)]
        save_grid(picture, [real, *np.stack(run.sheet, axis=1)])
    result = run.result(real_bounds(dataset, split, config.window))
    if progress is not None:
        progress.unlink(missing_ok=True)
    return result


class _Run:
    """A run so far: everything that its progress file holds."""

    def __init__(
        self, config: DriftConfig, play: FreePlay, trials: Trials | None, readout: StateReadout | None
    ) -> None:
        self._config, self._play, self._trials, self._readout = config, play, trials, readout
        last, columns = config.ticks - 1, config.sheet_columns
        self._sampled = {round(i * last / max(columns - 1, 1)) for i in range(columns)}
        self.tick, self._steps, self._playing_s, self._measuring_s, self._asking_s = 0, 0.0, 0.0, 0.0, 0.0
        self._statistics = np.empty((len(play.frames), config.ticks, len(STATISTICS)), dtype=np.float32)
        self.sheet: list[np.ndarray] = []
        self._state = StateTrack(readout) if readout is not None else None
        self._checkpoints = self._asked(None)

    def advance(self, actions: Sequence[Any]) -> None:
        """One tick and everything that is measured of it."""
        config, before, started = self._config, self._play.frames, time.perf_counter()
        free = self._play.step(actions)
        played = time.perf_counter()
        self._statistics[:, self.tick] = frame_statistics(before, free.frames)
        self._steps += float(free.steps.mean())
        if self.tick in self._sampled:
            self.sheet.append(free.frames)
        self.tick += 1
        if self._state is not None and self.tick % config.read_every == 0:
            self._state.read(free.frames)
        measured = time.perf_counter()
        if self._checkpoints is not None:
            self._checkpoints.look(self.tick, self._play)
        self._playing_s += played - started
        self._measuring_s += measured - played
        self._asking_s += time.perf_counter() - measured

    def save(self, path: Path) -> None:
        snapshots = self._play.snapshots()
        if snapshots is None:
            return
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        arrays = {"statistics": self._statistics[:, : self.tick]}
        if self.sheet:
            arrays["sheet"] = np.stack(self.sheet)
        if self._state is not None:
            arrays["state"] = self._state.rows()
        if self._checkpoints is not None:
            arrays["hits"] = self._checkpoints.hits()
        Progress(numbers, arrays, snapshots).save(path, self._identity())

    def take_up(self, path: Path) -> None:
        """Go on from `path` if there is such a file."""
        found = Progress.load(path, self._identity())
        if found is None:
            return
        self._play.restore(found.snapshots)
        for name in _NUMBERS:
            setattr(self, name, found.numbers[name])
        self._statistics[:, : self.tick] = found.arrays["statistics"]
        self.sheet = list(found.arrays.get("sheet", ()))
        if self._readout is not None:
            self._state = StateTrack(self._readout, found.arrays["state"])
        self._checkpoints = self._asked(found.arrays.get("hits"))

    def result(self, bounds: dict[str, dict[str, float]]) -> dict[str, Any]:
        """Judged against the real ranges."""
        config = self._config
        windows = window_means(self._statistics, config.window)
        abnormal = leaves_range(windows, bounds, config.margin)
        count, sessions = windows.shape[1], len(windows)
        # Evenly on a scale of logarithms, so that the file stays small and the first windows are all there.
        kept = np.unique(np.round(np.geomspace(1, count, min(count, _KEPT_WINDOWS))).astype(int)) - 1
        result = {
            "config": asdict(config),
            "sessions": sessions,
            "ticks": config.ticks,
            "mean_steps": self._steps / config.ticks,
            "session_ticks_per_s": config.ticks * sessions / max(self._playing_s, 1e-9),
            "seconds": {"playing": self._playing_s, "measuring": self._measuring_s, "asking": self._asking_s},
            "real": bounds,
            "window_ends": ((kept + 1) * config.window).tolist(),
            "windows": {name: np.round(windows[:, kept, i], 3).tolist() for i, name in enumerate(STATISTICS)},
            "extremes": {
                name: {
                    "first": float(windows[:, 0, i].mean()),
                    "last": float(windows[:, -1, i].mean()),
                    "lowest": float(windows[..., i].min()),
                    "highest": float(windows[..., i].max()),
                }
                for i, name in enumerate(STATISTICS)
            },
            "abnormal_windows": {name: int(abnormal[:, :, i].sum()) for i, name in enumerate(STATISTICS)},
            "windows_per_session": count,
            "collapsed_at_tick": [first_run(each.any(axis=1), config.patience, config.window) for each in abnormal],
        }
        if self._checkpoints is not None and self._checkpoints.when:
            result["response"] = self._checkpoints.result()
        if self._state is not None and len(self._state.rows()):
            result["state"] = self._state.result(config.read_every)
        return result

    def _asked(self, hits: np.ndarray | None) -> Checkpoints | None:
        if self._trials is None:
            return None
        config = self._config
        ticks = [tick for tick in config.checkpoints if tick <= config.ticks]
        return Checkpoints(ticks, config.moments, config.spacing, config.hold, self._trials, hits)

    def _identity(self) -> dict[str, Any]:
        sizes = {name: value for name, value in asdict(self._config).items() if name != "save_minutes"}
        names = list(self._trials.names) if self._trials is not None else None
        return {"world": self._play.identity, "config": sizes, "trials": names, "state": self._readout is not None}


_NUMBERS = ("tick", "_steps", "_playing_s", "_measuring_s", "_asking_s")
