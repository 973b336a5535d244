"""State read-back: are things where the simulator says, under the recorded actions, for 1..K denoising steps?

Pictures hide this: a world whose blocks never move can have the better PSNR. So the places that the probe reads from
generated frames stand beside "it stays" (the true places at the end of the context) and beside the probe's own error
on real frames, in general and where a thing really moves.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from exporters.evaluation.fidelity import step_name
from exporters.evaluation.playing import play
from exporters.evaluation.state.cases import Moving, StateCases
from exporters.evaluation.state.probe import StateProbe
from exporters.evaluation.trained import TrainedWorld

STAYS, FLOOR, DECODED = "it stays", "real frames", "real frames, decoded"
"""What stands beside the model: nothing moves; the probe on real frames; on what the autoencoder makes of them."""
_RESAMPLES = 1000


@dataclass(frozen=True)
class StateFidelityConfig:
    """Sizes of the evaluation, and its gate."""

    cases: int = 64
    moving_cases: int = 128
    seeds: tuple[int, ...] = (0, 1)
    horizons: tuple[int, ...] = (1, 2, 4, 8, 16)
    moved_m: float = 0.05
    gate_horizon: int = 8
    gate_ratio: float = 0.5
    """Where things move, the median error at the gate's horizon is at most this share of that of "it stays"."""
    gate_cases: int = 64
    """Fewer moving clips than this decide nothing."""

    @property
    def moving(self) -> Moving:
        return Moving(self.gate_horizon, self.moved_m)


@dataclass(frozen=True)
class _Errors:
    """error_m: float64[B, M, seeds, horizons]; present: bool of the same shape. M movers."""

    error_m: np.ndarray
    present: np.ndarray


def run_state(
    config: StateFidelityConfig, trained: TrainedWorld, some: StateCases, moving: StateCases, probe: StateProbe
) -> dict[str, Any]:
    """Measure on `some` random clips and on `moving` ones; returns a JSON-ready result for `render_state`."""
    used = probe.used_to(trained.decode(trained.encode(some.cases.frames[:, trained.window - 1])))
    movers = [probe.names.index(name) for name in probe.columns.movers]
    rows, gates = [], []
    ticks = trained.steps * len(config.seeds) * max(config.horizons) * 2
    with tqdm(total=ticks, desc="state", unit="tick", disable=None) as bar:
        for clips, chosen in (("all", some), ("moving", moving)):
            systems = _measure(config, trained, chosen, used, probe, movers, bar)
            unforeseen = np.stack([chosen.jumped[:, h] for h in config.horizons], axis=1)[:, None]
            keep = np.broadcast_to(~unforeseen, (len(chosen), len(movers), len(config.horizons)))
            if clips == "moving":
                keep = keep & (chosen.travel_m(config.gate_horizon)[:, movers] > config.moved_m)[:, :, None]
                column = config.horizons.index(config.gate_horizon)
                stays = systems[STAYS].error_m[..., column]
                for steps in range(1, trained.steps + 1):
                    errors = systems[step_name(steps)].error_m[..., column]
                    gates.append({"steps": steps, **judge(config, errors, stays, keep[..., column])})
            for (column, horizon), system in itertools.product(enumerate(config.horizons), systems):
                row = {"clips": clips, "horizon": horizon, "system": system}
                rows.append({**row, **_summary(systems[system], keep[..., column], column)})
    return {
        "config": asdict(config),
        "movers": list(probe.columns.movers),
        "clips": {"all": len(some), "moving": len(moving)},
        "rows": rows,
        "gate": gates,
    }


def judge(config: StateFidelityConfig, model: np.ndarray, stays: np.ndarray, keep: np.ndarray) -> dict[str, Any]:
    """The gate, from errors float64[B, M, seeds] and the pairs bool[B, M] that count.

    `ratio`: median error of the model over that of "it stays", with a 95 % bootstrap interval over clips.
    """

    def ratios(clips: np.ndarray) -> tuple[float, float]:
        mine, other = model[clips][keep[clips]], stays[clips][keep[clips]]
        return float(np.median(mine) / np.median(other)), float(mine.mean() / other.mean())

    counted = np.flatnonzero(keep.any(axis=1))
    if not len(counted):
        return {"clips": 0, "pairs": 0, "passes": False}
    rng = np.random.default_rng(0)
    spread = [ratios(rng.choice(counted, len(counted)))[0] for _ in range(_RESAMPLES)]
    low, high = np.quantile(spread, [0.025, 0.975])
    ratio, mean_ratio = ratios(counted)
    return {
        "clips": len(counted),
        "pairs": int(keep.sum()),
        "ratio": ratio,
        "low": float(low),
        "high": float(high),
        "mean_ratio": mean_ratio,
        "passes": len(counted) >= config.gate_cases and ratio <= config.gate_ratio,
    }


def _measure(
    config: StateFidelityConfig,
    trained: TrainedWorld,
    chosen: StateCases,
    used: StateProbe,
    probe: StateProbe,
    movers: Sequence[int],
    bar: tqdm,
) -> dict[str, _Errors]:
    """Every system's errors on these clips."""
    horizons = list(config.horizons)
    truth = np.stack([chosen.points_m[:, h] for h in horizons], axis=1)  # [B, horizons, P, 2]

    def read(reader: StateProbe, frames: np.ndarray) -> _Errors:
        """frames: uint8[B, horizons, H, W, 3]."""
        reading = reader.read(frames.reshape(-1, *frames.shape[2:]))
        points = reading.points_m.reshape(truth.shape)
        present = reading.present.reshape(truth.shape[:3])
        error = np.linalg.norm(points.astype(np.float64) - truth, axis=3)
        return _Errors(*(value.transpose(0, 2, 1)[:, movers, None] for value in (error, present)))

    real = chosen.cases.future[:, [h - 1 for h in horizons]]
    moved = np.linalg.norm(chosen.points_m[:, :1].astype(np.float64) - truth, axis=3)
    still = moved.transpose(0, 2, 1)[:, movers, None]
    systems = {
        STAYS: _Errors(still, np.ones_like(still, dtype=np.bool_)),
        FLOOR: read(probe, real),
        DECODED: read(used, trained.decode(trained.encode(real))),
    }
    cases = chosen.cases.until(max(horizons))
    for steps in range(1, trained.steps + 1):
        runs = []
        for seed in config.seeds:
            latents = play(trained, cases, seed, steps=steps, on_tick=bar.update).latents
            runs.append(read(used, trained.decode(latents[:, [h - 1 for h in horizons]])))
        systems[step_name(steps)] = _Errors(
            *(np.concatenate([getattr(run, name) for run in runs], axis=2) for name in ("error_m", "present"))
        )
    return systems


def _summary(errors: _Errors, keep: np.ndarray, column: int) -> dict[str, Any]:
    """Of the pairs bool[B, M] that count, over all seeds."""
    error, present = errors.error_m[..., column][keep], errors.present[..., column][keep]
    if not error.size:
        return {"pairs": 0}
    median, p90 = np.quantile(error, [0.5, 0.9])
    return {
        "pairs": int(keep.sum()),
        "median_m": float(median),
        "mean_m": float(error.mean()),
        "p90_m": float(p90),
        "present": float(present.mean()),
    }


def render_state(result: Mapping[str, Any]) -> str:
    """Markdown for a card."""
    config, clips = result["config"], result["clips"]
    far, moved_mm = config["gate_horizon"], 1000 * config["moved_m"]
    lines = [
        "### State read back from the pictures",
        "",
        f"Where {', '.join(result['movers'])} are, read by a probe from frames under the recorded actions, against the"
        f" simulator: median / mean error in mm, {len(config['seeds'])} noise seeds each. {clips['all']} random"
        f" held-out clips, and {clips['moving']} in which something moves: of those, the things that are more than"
        f' {moved_mm:.0f} mm from their place after {far} ticks. "{STAYS}": the true place at the end of the context.'
        f' "{FLOOR}": the probe\'s own error. Frames since something was put elsewhere by the simulator do not count.',
    ]
    for name in clips:
        rows = [row for row in result["rows"] if row["clips"] == name]
        systems = list(dict.fromkeys(row["system"] for row in rows))
        lines += ["", f"**{name.capitalize()} clips**", "", "| horizon | things | " + " | ".join(systems) + " |"]
        lines.append("|--:|--:" + "|--:" * len(systems) + "|")
        for horizon in config["horizons"]:
            cells = [row for row in rows if row["horizon"] == horizon]
            lines.append(f"| {horizon} | {cells[0]['pairs']} | " + " | ".join(map(_millimetres, cells)) + " |")
        seen = [row for row in rows if row["horizon"] == max(config["horizons"]) and row["system"] != STAYS]
        shares = ", ".join(f"{row['system']} {100 * row['present']:.1f} %" for row in seen if row["pairs"])
        lines += ["", f"Seen at all, once and as it should look, at horizon {max(config['horizons'])}: {shares}."]
    lines += [
        "",
        f"Gate: where things move, the median error at horizon {far} is at most {config['gate_ratio']:.2f} of that of"
        f' "{STAYS}".',
        "",
        "| steps | clips | things | ratio of medians | 95 % interval | ratio of means | |",
        "|--:|--:|--:|--:|:--|--:|:--|",
    ]
    for row in result["gate"]:
        if not row["pairs"]:
            lines.append(f"| {row['steps']} | 0 | 0 | | | | undecided |")
            continue
        verdict = "passes" if row["passes"] else "fails" if row["clips"] >= config["gate_cases"] else "undecided"
        lines.append(
            f"| {row['steps']} | {row['clips']} | {row['pairs']} | {row['ratio']:.2f} |"
            f" {row['low']:.2f} .. {row['high']:.2f} | {row['mean_ratio']:.2f} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def _millimetres(row: Mapping[str, Any]) -> str:
    return f"{1000 * row['median_m']:.1f} / {1000 * row['mean_m']:.1f}" if row["pairs"] else "no case"
