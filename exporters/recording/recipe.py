"""A ready recipe for a new world: one TOML file whose budgets fit a number of minutes on two CPU cores."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LATENT_CELL = 8
"""Pixels on a latent's side."""

_REST_MINUTES = 6.0
"""For the confidence, the calibration and the package, whose sizes below do not depend on the minutes."""
_SHARES = {"autoencoder": 0.20, "teacher": 0.54, "consistency": 0.12, "distillation": 0.14}
"""How the rest is spent."""


@dataclass(frozen=True)
class Recipe:
    """What a recipe has to know of a dataset; all else are the trainer's defaults."""

    name: str
    dataset: Path
    description: str
    frame: Mapping[str, Any]
    action_space: Mapping[str, Any]
    minutes: float
    """The whole training, from the first stage to the package."""
    recording: Mapping[str, Any] | None
    """The table [recording], with which the dataset can be recorded anew; None if it was converted."""

    def text(self) -> str:
        """The TOML file."""
        space = self.action_space
        width = len(space["low"]) if space["type"] == "Box" else space["n"]
        shape = {f"latent_{side}": self.frame[side] // _LATENT_CELL for side in ("height", "width")}
        trained = max(self.minutes - _REST_MINUTES, 0.5 * self.minutes)
        budgets = {stage: max(0.1, round(share * trained, 1)) for stage, share in _SHARES.items()}
        lines = [
            f"# {self.name}: the whole training is planned for {self.minutes:g} minutes on two CPU cores.",
            f"name = {toml(self.name)}",
            'version = "0.1.0"',
            f"dataset = {toml(self.dataset.as_posix())}",
            f"description = {toml(self.description)}",
            "",
        ]
        if self.recording is not None:
            settings = self.recording["settings"]
            rest = {key: value for key, value in self.recording.items() if key != "settings"}
            lines += ["[recording]", *_pairs(rest), "", "[recording.settings]", *_pairs(settings), ""]
        lines += [
            "[schedule]",
            "levels = [1.0, 0.75, 0.5]",
            "",
            "[autoencoder]",
            f"budget.minutes = {budgets['autoencoder']}",
            "",
            "[teacher]",
            f"budget.minutes = {budgets['teacher']}",
            f"model.action_width = {width}",
            *(f"model.{key} = {value}" for key, value in shape.items()),
            "",
            "[consistency]",
            f"budget.minutes = {budgets['consistency']}",
            "",
            "[distillation]",
            f"budget.minutes = {budgets['distillation']}",
            "",
            "# Enough for a default threshold and one promise; more samples make it tighter (docs/quality.md).",
            "[confidence]",
            'perceptual = "none"',
            "rollouts = 8",
            "heldout_rollouts = 4",
            "frames = 8",
            "budget.steps = 300",
            "",
            "[calibration]",
            "rollouts = 8",
            "frames = 8",
            "",
            "[calibration.risk]",
            "alphas = [0.1]",
            "deltas = [1.0, 2.0]",
            "rollouts = 96",
            "frames = 6",
            "candidates = 6",
            "",
        ]
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write the file in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(self.text(), encoding="utf-8")
        os.replace(partial, path)


def check_new(path: Path, minutes: float) -> None:
    """Raise ValueError if a recipe lies there already, or for minutes that cannot be planned."""
    if path.exists():
        raise ValueError(f"config: {path} is there already; choose another file with --config")
    if not 0 < minutes < math.inf:
        raise ValueError(f"minutes: must be a positive number, got {minutes}")


def world_name(wanted: str) -> str:
    """A name that a world may have, from a folder's or an environment's: lower-case words joined by '-'."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"([a-z0-9])([A-Z])", r"\1-\2", wanted).lower())
    if not words:
        raise ValueError(f"name: {wanted!r} has no letters or digits to make a world's name of; give --name")
    return "-".join(words)


def next_steps(name: str, dataset: Path, sheet: Path, config: Path, minutes: float, licence: str) -> str:
    """What to do with a new dataset, in commands that can be copied."""
    lines = [
        f"dataset  {dataset}",
        f"sheet    {sheet}   look at it before you train",
        f"recipe   {config}",
        f"train    python -m exporters train {config} --package build/{name}   (about {minutes:g} min)",
        f"play     dsa play build/{name}",
    ]
    if licence == "unknown":
        lines.append("note     the licence of the pictures is unknown; --licence says it, in the dataset and the world")
    return "\n".join(lines)


def toml(value: Any) -> str:
    """A value in TOML; tables inline."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {toml(item)}" for key, item in value.items()) + " }" if value else "{}"
    return "[" + ", ".join(toml(item) for item in value) + "]"


def _pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {toml(value)}" for key, value in table.items() if value is not None]


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
