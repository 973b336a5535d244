"""Response of joints: do they turn as far as they are told? Read from the pictures by the state probe.

Two experiments. Constant velocities from real, held-out contexts (`trials.py`), beside the same in the simulator, where
the arm meets its limits and blocks as well. And the recorded actions: how far the joint velocity that the probe reads
from two generated frames is from the simulator's, beside the same of the real frames (its floor).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dsa_runtime.spec import Box
from exporters.evaluation.config import EvaluationConfig
from exporters.evaluation.fidelity import step_name
from exporters.evaluation.interval import share
from exporters.evaluation.playing import play
from exporters.evaluation.response.config import ResponseConfig
from exporters.evaluation.response.trials import JointTrials
from exporters.evaluation.state.cases import StateCases
from exporters.evaluation.state.frames import wrapped
from exporters.evaluation.state.probe import StateProbe
from exporters.evaluation.trained import TrainedWorld
from exporters.recording.environment import Environment
from exporters.recording.policies import Policy

KIND = "joints"
_WARM_UP = 24  # frames of free play before a command is held in the simulator


def run_joint_response(
    config: ResponseConfig,
    evaluation: EvaluationConfig,
    trained: TrainedWorld,
    chosen: StateCases,
    trials: JointTrials,
    space: Box,
    probe: StateProbe,
    fps: float,
    simulated: Mapping[str, np.ndarray] | None,
) -> dict[str, Any]:
    """Measure every number of steps; returns a JSON-ready result for `render_joint_response`.

    `simulated`: what `simulate` returned, or None where the simulator cannot be run.
    """
    cases = chosen.cases
    short = cases.until(config.hold)
    held, recorded = [], []
    columns = [probe.columns.angles.index(column) for column in evaluation.joints.values()]
    truth = wrapped(np.diff(chosen.angles_rad[:, :, columns], axis=1)) * fps
    with tqdm(
        total=trained.steps * (len(trials.names) * config.hold + cases.horizon),
        desc="response",
        unit="tick",
        disable=None,
    ) as bar:

        def angles(start: Any, steps: int) -> np.ndarray:
            """float32[B, 1 + N, J], the newest context frame first."""
            latents = play(trained, start, config.seed, steps=steps, on_tick=bar.update).latents
            newest = start.frames[:, start.window - 1 : start.window]
            return trials.angles_rad(np.concatenate([newest, trained.decode(latents)], axis=1))

        for steps in range(1, trained.steps + 1):
            films = {}
            for name in trials.names:
                code = torch.from_numpy(space.encode(trials.action(name)))
                films[name] = angles(short.under(code), steps)
            held.append({"frames": step_name(steps), **read_trials(trials, films)})
            velocity = wrapped(np.diff(angles(cases, steps), axis=1)) * fps
            recorded.append({"frames": step_name(steps), "horizons": compare(config, velocity, truth)})
    real = trials.angles_rad(cases.frames[:, cases.window - 1 :])
    recorded.append({"frames": "real", "horizons": compare(config, wrapped(np.diff(real, axis=1)) * fps, truth)})
    if simulated is not None:
        held.append({"frames": "simulator, its state", **read_trials(trials, _named(simulated, trials, "angles_rad"))})
        films = {name: trials.angles_rad(film) for name, film in _named(simulated, trials, "film").items()}
        held.append({"frames": "simulator, its pictures", **read_trials(trials, films)})
    return {
        "kind": KIND,
        "config": asdict(config),
        "cases": len(cases),
        "joints": list(evaluation.joints),
        "asked_rad": dict(zip(evaluation.joints, trials.yardstick_rad.tolist(), strict=True)),
        "held": held,
        "recorded": recorded,
    }


def read_trials(trials: JointTrials, films: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Shares of obedience from angles float[B, 1 + hold, J] per trial, and the median of turned over asked angle."""
    verdicts = {name: trials.judge(name, films[name]) for name in trials.names}
    shares = {name: share(verdict[~np.isnan(verdict)] > 0.5) for name, verdict in verdicts.items()}
    every = np.concatenate(list(verdicts.values()))
    gains = {}
    for name in trials.names:
        asked = trials.gain(name, films[name])[~np.isnan(verdicts[name])] if trials.action(name).any() else np.empty(0)
        if len(asked):
            gains[name] = float(np.median(asked))
    return {"trials": shares, "all": share(every[~np.isnan(every)] > 0.5), "gain": gains}


def compare(config: ResponseConfig, velocity: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Per horizon and joint the median and 90 % error (rad/s) of velocities float[B, N, J]."""
    errors = np.abs(velocity - truth)
    return {
        str(h): {
            "median": np.median(errors[:, h - 1], axis=0).tolist(),
            "p90": np.quantile(errors[:, h - 1], 0.9, 0).tolist(),
        }
        for h in config.horizons
    }


def simulate(
    config: ResponseConfig,
    evaluation: EvaluationConfig,
    environment: Environment,
    policy: Policy,
    trials: JointTrials,
    first_seed: int,
) -> dict[str, np.ndarray]:
    """The trials in the simulator: per trial `<name>/film` uint8[B, 1 + hold, H, W, 3] and `<name>/angles_rad`.

    Every trial starts from the same `config.cases` moments: equal seeds and actions give equal frames.
    """
    columns = [environment.state_names.index(column) for column in evaluation.joints.values()]
    films: dict[str, list[np.ndarray]] = {}
    for seed in tqdm(range(first_seed, first_seed + config.cases), desc="simulator", unit="case", disable=None):
        for name in trials.names:
            rng = np.random.default_rng(seed)
            policy.begin(rng)
            seen = environment.reset(seed)
            for _ in range(_WARM_UP):
                seen = environment.step(policy.act(seen)).observation
            shown = [seen]
            for _ in range(config.hold):
                shown.append(environment.step(trials.action(name)).observation)
            films.setdefault(f"{name}/film", []).append(np.stack([each.frame for each in shown]))
            films.setdefault(f"{name}/angles_rad", []).append(np.stack([each.state[columns] for each in shown]))
    return {key: np.stack(parts) for key, parts in films.items()}


def render_joint_response(result: Mapping[str, Any]) -> str:
    """Markdown for a card."""
    config = result["config"]
    names = list(result["held"][0]["trials"])
    asked = ", ".join(f"{joint} {np.degrees(angle):.0f}" for joint, angle in result["asked_rad"].items())
    lines = [
        "### Response to actions",
        "",
        f"One velocity held for {config['hold']} ticks from each of {result['cases']} held-out contexts, the other"
        f" joint at rest; asked for, in degrees: {asked}. Share of cases in which the joint turns at least half of"
        " that to the right side and the other less than a quarter of its own (rest: both less than a quarter), with"
        " the 95 % Wilson interval; in brackets the median of turned over asked angle. Not asked where a joint is too"
        " near its limit.",
        "",
        "| frames from | " + " | ".join(names) + " | all |",
        "|:--" + "|:--" * (len(names) + 1) + "|",
    ]
    for row in result["held"]:
        cells = []
        for name in names:
            gain = f" [{row['gain'][name]:.2f}]" if name in row["gain"] else ""
            cells.append(_percent(row["trials"][name]) + gain)
        lines.append(f"| {row['frames']} | " + " | ".join([*cells, _percent(row["all"])]) + " |")
    lines += [
        "",
        "Recorded actions: error of the joint velocity read from two frames, median / 90 %, rad/s.",
        "",
        "| frames from | horizon | " + " | ".join(result["joints"]) + " |",
        "|:--|--:" + "|:--" * len(result["joints"]) + "|",
    ]
    for row in result["recorded"]:
        for h, cell in row["horizons"].items():
            pairs = zip(cell["median"], cell["p90"], strict=True)
            lines.append(f"| {row['frames']} | {h} | " + " | ".join(f"{a:.2f} / {b:.2f}" for a, b in pairs) + " |")
    return "\n".join(lines) + "\n"


def _named(simulated: Mapping[str, np.ndarray], trials: JointTrials, what: str) -> dict[str, np.ndarray]:
    return {name: simulated[f"{name}/{what}"] for name in trials.names}


def _percent(value: Mapping[str, float]) -> str:
    if not value["cases"]:
        return "no case"
    return f"{100 * value['share']:.1f} % ({100 * value['low']:.0f}-{100 * value['high']:.0f})"
