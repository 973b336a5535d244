"""`record-env`: a Gymnasium environment as a dataset, a contact sheet and a ready recipe."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import shutil
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from .contact_sheet import write_contact_sheet
from .dataset import DESCRIPTION_FILE, Dataset
from .episode import DatasetError
from .gymnasium_policies import gymnasium_policy
from .gymnasium_world import (
    OBSERVATION,
    RENDER,
    SHORTEST_STRETCH,
    GymnasiumConfig,
    GymnasiumWorld,
    check_moving,
    check_unbroken,
    make_environment,
    observes_pictures,
)
from .recipe import Recipe, check_new, next_steps, world_name
from .record import RecordConfig, play, record
from .size import parse_size

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HELP = "record any Gymnasium environment, and write a recipe to train its world"
FASTEST_FPS = 20.0
"""By default as many steps of the environment go into a picture as keep the world at or below this rate."""
SHORT_LIFE = 30
"""Pictures between resets below which a recording shows little but beginnings."""
_TRIAL_STEPS = 150
_HELD_OUT = 12
"""One held-out picture, for each of the two splits, in so many recorded ones."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ENV_ID", help='as for gymnasium.make: "CartPole-v1" or "module:Name-v0"')
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of the dataset: data/NAME")
    parser.add_argument("--config", type=Path, metavar="FILE", help="recipe to write (default: configs/NAME.toml)")
    parser.add_argument("--name", help="of the world (default: the folder's)")
    parser.add_argument(
        "--frames", type=int, default=24_000, help="pictures in all, held-out ones included (%(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="of training that the recipe plans (%(default)s)")
    parser.add_argument("--size", type=parse_size, default=(64, 64), metavar="WxH", help="of the frame (64x64)")
    parser.add_argument("--fps", type=float, help="pictures a second (default: what the environment says)")
    parser.add_argument("--repeat", type=int, help=f"steps per picture (default: as keeps to {FASTEST_FPS:g} a second)")
    parser.add_argument("--pictures", choices=(RENDER, OBSERVATION), help="default: the observation if it is a picture")
    parser.add_argument("--policy", default="random", metavar="MODULE:NAME", help="who plays (default: random)")
    parser.add_argument("--random-share", type=float, help="of the random player beside one's own (0.3)")
    parser.add_argument("--hold", type=float, metavar="SECONDS", help="for which random actions are held (0.3)")
    parser.add_argument("--names", type=lambda text: tuple(text.split(",")), help="of the actions: stay,left,right")
    parser.add_argument("--wrapper", action="append", default=[], metavar="MODULE:NAME", help="may be repeated")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="argument of gymnasium.make")
    parser.add_argument("--licence", default="unknown", help="of the pictures; goes into the dataset and the world")
    parser.add_argument("--episode", type=int, default=500, metavar="STEPS", help="per file (%(default)s)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(options: argparse.Namespace) -> int:
    """Look at the environment, record it, write the recipe; nothing is written unless a short trial went well, and
    nothing is left of a recording that cannot be used."""
    name = world_name(options.name or options.out.name)
    config_path = options.config or Path("configs") / f"{name}.toml"
    check_new(config_path, options.minutes)
    if (options.out / DESCRIPTION_FILE).exists():
        raise DatasetError(f"out: {options.out} already holds a dataset; choose another folder, or delete it")
    settings = chosen_settings(options)
    frames = split_frames(options.frames, options.episode)
    recording = RecordConfig(
        environment="gymnasium",
        settings={key: value for key, value in asdict(settings).items() if value is not None},
        frames=frames,
        steps_per_episode=min(options.episode, frames["test"]),
        workers=options.workers,
    )
    trial = try_out(settings, _TRIAL_STEPS, recording.first_seed["train"])
    total = sum(frames.values())
    seconds = total / trial["pictures_per_s"] / options.workers
    _say(f"{settings.id}: {_actions(trial['action_space'])}, {trial['frame']['fps']:.4g} pictures a second")
    if not trial["repeatable"]:
        _say("warning: equal seeds gave different pictures, so this recording cannot be made again exactly")
    if trial["life"] < SHORT_LIFE:
        _say(
            f"warning: it is reset every {trial['life']:.0f} pictures; a --policy that survives, or fewer steps per"
            " picture (--repeat), would show more of the world"
        )
    _say(f"recording {total} pictures, about {seconds / 60:.1f} min")
    is_new = not options.out.exists()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # which is for the result
            dataset = record(recording, name, options.out)
    except DatasetError:
        if is_new:
            shutil.rmtree(options.out)
        raise
    sheet = options.out / "train.png"
    write_contact_sheet(dataset, sheet)
    table = {
        "environment": "gymnasium",
        "frames": dict(recording.frames),
        "steps_per_episode": recording.steps_per_episode,
        "workers": recording.workers,
        "settings": {"id": settings.id, **_changed(settings)},
    }
    description = f"{settings.id} as a neural world."
    frame, space = dataset.spec.frame, dataset.spec.action_space
    Recipe(name, options.out, description, frame, space, options.minutes, table).write(config_path)
    found = {"dataset": str(options.out), "sheet": str(sheet), "config": str(config_path), "name": name}
    if options.json:
        print(json.dumps({**found, "splits": _counts(dataset), "trial": trial}, indent=1))
    else:
        print(next_steps(name, options.out, sheet, config_path, options.minutes, settings.licence))
    return 0


def chosen_settings(options: argparse.Namespace) -> GymnasiumConfig:
    """The configuration for what was asked, with what the environment itself says where nothing was."""
    height, width = options.size
    settings = GymnasiumConfig(
        id=options.id,
        height=height,
        width=width,
        arguments=parse_arguments(options.set),
        wrappers=tuple(options.wrapper),
        names=options.names or (),
        policy=options.policy,
        licence=options.licence,
        pictures=options.pictures or OBSERVATION,
        fps=options.fps,
        repeat=1 if options.repeat is None else options.repeat,
        **({} if options.random_share is None else {"random_share": options.random_share}),
        **({} if options.hold is None else {"hold_s": options.hold}),
    )
    environment = make_environment(replace(settings, pictures=OBSERVATION))  # may be without a way to render
    try:
        if options.pictures is None and not observes_pictures(environment, height, width):
            settings = replace(settings, pictures=RENDER)
        rate = environment.metadata.get("render_fps")
    finally:
        environment.close()
    if options.repeat is None and options.fps is None and rate:
        settings = replace(settings, repeat=max(1, int(-(-float(rate) // FASTEST_FPS))))
    return settings


def try_out(settings: GymnasiumConfig, steps: int, seed: int) -> dict[str, Any]:
    """Play a little, twice: how fast, how long between resets, and whether equal seeds give equal pictures."""
    world = GymnasiumWorld(settings)
    try:
        policy = gymnasium_policy(settings, world)
        began = time.perf_counter()
        episode = play(world, policy, seed, steps)
        elapsed = time.perf_counter() - began
        again = play(world, policy, seed, steps)
    finally:
        world.close()
    check_moving(episode, settings.id)
    check_unbroken(episode, settings.id)
    return {
        "frame": world.frame,
        "action_space": world.action_space,
        "pictures_per_s": steps / elapsed,
        "life": len(episode.frames) / (1 + int(episode.cut.sum())),
        "repeatable": bool(np.array_equal(episode.frames, again.frames)),
    }


def split_frames(frames: int, steps_per_episode: int) -> dict[str, int]:
    """How many of about `frames` pictures each split gets, in whole files; the held-out ones are recorded first."""
    least = _HELD_OUT * SHORTEST_STRETCH
    if frames < least:
        raise ValueError(f"frames: at least {least} are needed for three splits, got {frames}")
    if steps_per_episode < SHORTEST_STRETCH:
        raise ValueError(f"episode: must be at least {SHORTEST_STRETCH} steps, got {steps_per_episode}")
    held_out = frames // _HELD_OUT
    length = min(steps_per_episode, held_out)
    train = frames - 2 * held_out
    return {
        "validation": held_out // length * length,
        "test": held_out // length * length,
        "train": train // length * length,
    }


def parse_arguments(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE pairs, values as in TOML (3, 0.5, true, [1, 2]) or else as plain text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"set: {pair!r} is not of the form KEY=VALUE")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        # A dataset's description is JSON, which knows no dates.
        found[key] = text if isinstance(value, (datetime.date, datetime.time)) else value
    return found


def _changed(settings: GymnasiumConfig) -> dict[str, Any]:
    """The settings that are not their class's defaults, and those that a reader wants to see."""
    shown = {"height", "width", "repeat", "pictures", "policy", "licence"}
    plain = GymnasiumConfig(id=settings.id)
    values = {item.name: getattr(settings, item.name) for item in fields(settings)}
    return {key: value for key, value in values.items() if key in shown or value != getattr(plain, key)}


def _counts(dataset: Dataset) -> dict[str, int]:
    return {split: facts.frames for split, facts in dataset.spec.splits.items()}


def _actions(space: dict[str, Any]) -> str:
    return f"{space['type']} of {len(space['names'])} ({', '.join(space['names'])})"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
