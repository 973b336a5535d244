"""Response to turns and shots: does the world do what it is told? Read from its pictures by the action probe.

Worlds with joints are measured by `joints.py`.

Two experiments. Under one constant action from real, held-out contexts: does the probe see that turn, and does a held
trigger bring a muzzle flash? Under the recorded actions: how often the probe reads the recorded turn and the recorded
flash from generated pairs of frames, beside how often it reads them from the real pairs (its ceiling).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from exporters.evaluation.cases import Cases
from exporters.evaluation.fidelity import step_name
from exporters.evaluation.interval import share
from exporters.evaluation.playing import play
from exporters.evaluation.response.action_probe import ActionProbe, buttons, flash_template, shot_visible
from exporters.evaluation.response.config import ResponseConfig
from exporters.evaluation.response.joints import KIND as JOINTS
from exporters.evaluation.response.joints import render_joint_response
from exporters.evaluation.response.trials import TURN_ACTIONS, turned
from exporters.evaluation.trained import TrainedWorld
from exporters.recording.dataset import Dataset, DatasetSpec

FIRE, IDLE = "fire", "noop"


def run_response(
    config: ResponseConfig, trained: TrainedWorld, cases: Cases, dataset: Dataset, split: str, probe: ActionProbe
) -> dict[str, Any]:
    """Measure every number of steps; returns a JSON-ready result for `render_response`."""
    short, moves = cases.until(config.hold), _moves(dataset.spec)
    truth = recorded_truth(config, cases, dataset, split)
    held, recorded = [], []
    ticks = trained.steps * (len(moves) * config.hold + cases.horizon)
    with tqdm(total=ticks, desc="response", unit="tick", disable=None) as bar:

        def film(start: Cases, steps: int) -> np.ndarray:
            latents = play(trained, start, config.seed, steps=steps, on_tick=bar.update).latents
            return with_last_real(start, trained.decode(latents))

        for steps in range(1, trained.steps + 1):
            films = {name: film(short.under(code), steps) for name, code in moves.items()}
            held.append({"steps": steps, **read_held(config, films, probe)})
            recorded.append({"frames": step_name(steps), "horizons": read_recorded(truth, film(cases, steps), probe)})
    real = cases.frames[:, cases.window - 1 :]
    recorded.append({"frames": "real", "horizons": read_recorded(truth, real, probe)})
    return {
        "kind": "turns",
        "config": asdict(config),
        "cases": len(cases),
        "held": held,
        "recorded": recorded,
        "flash_under_fire_real": real_flash_under_fire(dataset, split, config.hold),
    }


def read_held(config: ResponseConfig, films: Mapping[str, np.ndarray], probe: ActionProbe) -> dict[str, Any]:
    """What the probe sees in films uint8[B, 1 + hold, H, W, 3] under one action each, named as in `TURN_ACTIONS`."""
    turns: dict[str, dict[str, Any]] = {}
    right: dict[int, list[np.ndarray]] = {1: [], config.hold: []}
    for (name, turn), (horizon, hits) in itertools.product(TURN_ACTIONS.items(), right.items()):
        seen = probe.read(films[name][:, horizon - 1], films[name][:, horizon]).turn == turn
        turns.setdefault(name, {})[str(horizon)] = share(seen)
        hits.append(seen)
    over_hold = {name: turned(probe, films[name], turn, config.net_turn_deg) for name, turn in TURN_ACTIONS.items()}
    return {
        "turns": turns,
        "over_hold": {name: share(hits) for name, hits in over_hold.items()},
        "all_over_hold": share(np.concatenate(list(over_hold.values()))),
        "all_turns": {str(horizon): share(np.concatenate(hits)) for horizon, hits in right.items()},
        "flash_under_fire": share(shows_flash(probe, films[FIRE], 1)),
        "flash_under_noop": share(shows_flash(probe, films[IDLE], config.flash_over)),
    }


def recorded_truth(
    config: ResponseConfig, cases: Cases, dataset: Dataset, split: str
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Per horizon the turn that was asked for, int64[B], and whether the real frame shows a flash, bool[B]."""
    turns = np.asarray([turn for turn, _ in buttons(dataset.spec)])
    template = flash_template(dataset.episodes(split), dataset.spec)
    actions = cases.actions.argmax(dim=2).numpy()
    return {
        horizon: (
            turns[actions[:, cases.window + horizon - 1]],
            shot_visible(cases.future[:, horizon - 1], template),
        )
        for horizon in config.horizons
    }


def read_recorded(
    truth: Mapping[int, tuple[np.ndarray, np.ndarray]], film: np.ndarray, probe: ActionProbe
) -> dict[str, Any]:
    """Per horizon how often the probe reads the truth from film uint8[B, 1 + N, H, W, 3]."""
    result: dict[str, Any] = {}
    for horizon, (turn, flash) in truth.items():
        reading = probe.read(film[:, horizon - 1], film[:, horizon])
        result[str(horizon)] = {
            "turn": share(reading.turn == turn),
            "flash": share(reading.shot[flash]),
            "no_flash": share(~reading.shot[~flash]),
        }
    return result


def shows_flash(probe: ActionProbe, film: np.ndarray, first: int) -> np.ndarray:
    """bool[B]: whether any horizon from `first` on shows a flash. film: uint8[B, 1 + N, H, W, 3]."""
    before, after = film[:, first - 1 : -1], film[:, first:]
    picture = after.shape[2:]
    shot = probe.read(before.reshape(-1, *picture), after.reshape(-1, *picture)).shot
    flashes: np.ndarray = shot.reshape(after.shape[:2]).max(axis=1)
    return flashes


def with_last_real(cases: Cases, generated: np.ndarray) -> np.ndarray:
    """The newest context frame in front of uint8[B, N, H, W, 3]; in the result, film[:, h] is horizon h."""
    return np.concatenate([cases.frames[:, cases.window - 1 : cases.window], generated], axis=1)


def real_flash_under_fire(dataset: Dataset, split: str, hold: int) -> dict[str, float]:
    """Share of real stretches with the trigger held for `hold` steps that show a flash: what can be asked for at most.

    Below one because the player may be out of ammunition. Stretches do not overlap.
    """
    fires = np.asarray([pressed for _, pressed in buttons(dataset.spec)])
    template = flash_template(dataset.episodes(split), dataset.spec)
    hits: list[bool] = []
    for episode in dataset.episodes(split):
        held, free_from = fires[episode.actions], 0
        for start in episode.window_starts(hold + 1):
            if start >= free_from and held[start : start + hold].all():
                hits.append(bool(shot_visible(episode.frames[start + 1 : start + hold + 1], template).any()))
                free_from = int(start) + hold
    return share(np.asarray(hits, dtype=bool))


def render_response(result: Mapping[str, Any]) -> str:
    """Markdown for a card, for either kind of actions."""
    if result.get("kind") == JOINTS:
        return render_joint_response(result)
    far = str(result["config"]["hold"])
    lines = [
        "### Response to actions",
        "",
        f"One action held for {far} ticks from each of {result['cases']} held-out contexts; share of cases in which the"
        " probe sees it (95 % Wilson interval).",
        "",
        "| steps | "
        + " | ".join(f"{name}, h {h}" for name in TURN_ACTIONS for h in ("1", far))
        + f" | all turns, h 1 | all turns, h {far} | flash under fire | flash under noop |",
        "|--:" + "|:--" * (2 * len(TURN_ACTIONS) + 4) + "|",
    ]
    for row in result["held"]:
        cells = [_percent(row["turns"][name][h]) for name in TURN_ACTIONS for h in ("1", far)]
        cells += [_interval(row["all_turns"][h]) for h in ("1", far)]
        cells += [_interval(row["flash_under_fire"]), _interval(row["flash_under_noop"])]
        lines.append(f"| {row['steps']} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Over the whole hold: the view has turned, in all, at least {result['config']['net_turn_deg']:.0f} degrees to"
        " that side (noop: less than that to either).",
        "",
        "| steps | " + " | ".join(TURN_ACTIONS) + " | all |",
        "|--:" + "|:--" * (len(TURN_ACTIONS) + 1) + "|",
    ]
    for row in result["held"]:
        over = [*row["over_hold"].values(), row["all_over_hold"]]
        lines.append(f"| {row['steps']} | " + " | ".join(map(_interval, over)) + " |")
    real = result["flash_under_fire_real"]
    lines += [
        "",
        f"Real recordings: {_interval(real)} of {real['cases']} stretches with the trigger held as long show a flash.",
        "",
        "Recorded actions: how often the probe reads the true turn, and the true presence of a muzzle flash, from pairs"
        " of frames.",
        "",
        "| frames from | horizon | turn | flash where there is one | no flash where there is none |",
        "|:--|--:|:--|:--|:--|",
    ]
    for row in result["recorded"]:
        for h, cell in row["horizons"].items():
            reads = " | ".join(_interval(cell[name]) for name in ("turn", "flash", "no_flash"))
            lines.append(f"| {row['frames']} | {h} | {reads} |")
    return "\n".join(lines) + "\n"


def _moves(spec: DatasetSpec) -> dict[str, torch.Tensor]:
    """Constant action float32[A] per name; raises ValueError for a world without these actions."""
    names = list(spec.action_space.get("names", ()))
    wanted = [*TURN_ACTIONS, FIRE]
    if spec.action_space.get("type") != "Discrete" or not set(wanted) <= set(names):
        raise ValueError(f"dataset {spec.name!r}: the probe needs Discrete actions named {', '.join(wanted)}")
    eye = torch.eye(len(names))
    return {name: eye[names.index(name)] for name in wanted}


def _percent(value: Mapping[str, float]) -> str:
    return f"{100 * value['share']:.1f} %"


def _interval(value: Mapping[str, float]) -> str:
    if not value["cases"]:
        return "no case"
    return f"{100 * value['share']:.1f} % ({100 * value['low']:.0f}-{100 * value['high']:.0f})"
