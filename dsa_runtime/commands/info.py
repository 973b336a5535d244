"""`dsa info`: versions, execution providers, the operator library, what is installed beside, and the worlds at hand."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from .arguments import add_json
from .result import Result

HELP = "show versions, execution providers, extras and worlds"
_GPU_REPAIR = "pip install --force-reinstall --no-deps onnxruntime-gpu"


@dataclass(frozen=True)
class Extra:
    """An optional part of the installation: `pip install 'dsa-runtime[name]'`."""

    name: str
    use: str
    distributions: tuple[str, ...]
    """What it consists of, as in pyproject.toml."""


EXTRAS = (
    Extra("viewer", "dsa play", ("aiohttp",)),
    Extra("export", "dsa export to .mp4 and .parquet", ("av", "pyarrow")),
    Extra("rerun", "dsa export to .rrd", ("rerun-sdk",)),
    Extra("gym", "dsa_runtime.gym", ("gymnasium",)),
    Extra("completion", "dsa completion", ("shtab",)),
    Extra("gpu", "ONNX Runtime for NVIDIA GPUs", ("onnxruntime-gpu",)),
)
"""What users of the SDK may add. The training side's are for checkouts, see README."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "world", nargs="?", metavar="WORLD", help="only this world: a package folder, an archive or a name"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> Result:
    from ..package import bundled_folder, bundled_worlds

    if options.world is not None:
        world = describe_world(options.world)
        return Result(world, world_text(world))
    document = describe_runtime()
    document["world_folder"] = str(bundled_folder())
    document["worlds"] = [describe_world(name) for name in bundled_worlds()]
    return Result(document, runtime_text(document))


def describe_runtime() -> dict[str, Any]:
    """Versions and what can run worlds here, as plain JSON values."""
    from .. import __version__
    from ..ort import ort
    from ..spec import FORMAT_VERSION
    from .machine import describe_machine, installed

    machine = describe_machine()
    providers = ort.get_available_providers()
    problems = []
    if installed("onnxruntime-gpu") and "CUDAExecutionProvider" not in providers:
        # Both distributions fill the same folder, and the one for the CPU was installed last.
        problems.append(f"onnxruntime-gpu is installed but was overwritten by onnxruntime; repair: {_GPU_REPAIR}")
    return {
        "dsa_runtime": __version__,
        "package_format": FORMAT_VERSION,
        "machine": machine,
        "providers": providers,
        "operator_library": _operators(),
        "extras": [describe_extra(extra) for extra in EXTRAS],
        "problems": problems,
    }


def describe_extra(extra: Extra) -> dict[str, Any]:
    """Whether it is here, and how to get it, as plain JSON values."""
    from .machine import installed

    missing = [name for name in extra.distributions if not installed(name)]
    install = f"pip install 'dsa-runtime[{extra.name}]'"
    return {"name": extra.name, "use": extra.use, "missing": missing, "install": install if missing else None}


def _operators() -> dict[str, Any]:
    """The operator library, or why there is none."""
    from ..ops.library import LibraryMissing, find

    try:
        return {"available": True, **vars(find())}
    except LibraryMissing as problem:
        return {"available": False, "problem": str(problem)}


def describe_world(path_or_name: str) -> dict[str, Any]:
    """The gist of a world's spec, as plain JSON values. Verifies the package's files, runs nothing."""
    from ..form import choose_form
    from ..package import open_package
    from ..strict_json import encode

    with open_package(path_or_name) as package:
        spec, source = package.spec, str(package.source)
    choice = choose_form(spec)
    space = spec.to_dict()["action_space"]
    return {
        "name": spec.name,
        "version": spec.version,
        "description": spec.description,
        "licence": spec.licence,
        "path": source,
        "bytes": sum(entry.bytes for entry in spec.files.values()),
        "frame": {
            "height": spec.frame.height,
            "width": spec.frame.width,
            "fps": spec.frame.fps,
            "frames_per_tick": spec.frame.frames_per_tick,
        },
        "actions": {"type": space["type"], "names": list(space["names"])},
        "steps": spec.schedule.steps,
        "window": spec.cache.window,
        "form": choice.form,
        "form_reason": choice.reason,
        "default_threshold": spec.calibration.default_threshold,
        "delta": spec.calibration.delta,
        "delta_by_step": list(spec.calibration.deltas),
        "delta_unit": spec.calibration.delta_unit,
        "bounds": [encode(bound) for bound in spec.calibration.bounds],
        "native_budget_ms": spec.frame.period_ms,
        "prompts": list(spec.text.prompts),
        "batchable": not (spec.decoder.state or spec.text.width),
    }


def runtime_text(document: dict[str, Any]) -> str:
    """The description of the runtime and its worlds for reading."""
    machine = document["machine"]
    text = _facts(
        [
            ("dsa-runtime", f"{document['dsa_runtime']}, world packages of format {document['package_format']}"),
            ("machine", f"{machine['cpu']}, usable cores: {machine['cores']}, {machine['system']}"),
            ("python", f"{machine['python']}, numpy {machine['numpy']}"),
            ("onnxruntime", machine["onnxruntime"]),
            ("providers", ", ".join(document["providers"])),
            ("operator library", _operators_text(document["operator_library"])),
            *(("extras" if i == 0 else "", _extra_text(extra)) for i, extra in enumerate(document["extras"])),
            ("worlds", f"by name from {document['world_folder']}; any other by its path"),
            *(("PROBLEM", problem) for problem in document["problems"]),
        ]
    )
    worlds = [world_text(world) for world in document["worlds"]] or ["No world is bundled with this installation."]
    return "\n\n".join([text, *worlds])


def _extra_text(extra: dict[str, Any]) -> str:
    state = f"missing; {extra['install']}" if extra["missing"] else "present"
    return f"{extra['name']} ({extra['use']}): {state}"


def _operators_text(operators: dict[str, Any]) -> str:
    from ..ops.library import without_cuda

    if not operators["available"]:
        return f"{operators['problem']}. Worlds run in their plain ONNX form"
    cuda = operators["cuda"] or f"none, {without_cuda()}"
    return (
        f"version {operators['version']}, CPU: {operators['instruction_set']} ({operators['path']}). "
        f"CUDA kernels: {cuda}; --device cuda uses them, not yet tried on a GPU"
    )


def world_text(world: dict[str, Any]) -> str:
    """One world for reading."""
    frame, actions = world["frame"], world["actions"]
    facts = _facts(
        [
            ("description", world["description"]),
            ("licence", world["licence"]),
            ("frame", f"{frame['width']} x {frame['height']} at {frame['fps']:g} frames/s"),
            *_tick_text(world),
            ("actions", f"{actions['type']}: {', '.join(actions['names'])}"),
            ("denoising", f"1 to {world['steps']} steps, threshold {world['default_threshold']:.2f} by default"),
            ("confidence", _confidence_text(world)),
            *(("quality" if i == 0 else "", text) for i, text in enumerate(_bounds_text(world))),
            ("memory", f"{world['window']} {'frames' if frame['frames_per_tick'] == 1 else 'ticks'}"),
            *(("prompts" if i == 0 else "", prompt) for i, prompt in enumerate(world["prompts"])),
            *([] if world["batchable"] else [("sessions", "each on its own; they cannot be batched")]),
            ("form", f"{world['form']}: {world['form_reason']}"),
            ("package", f"{world['path']}, {world['bytes'] / 1e6:.1f} MB"),
        ]
    )
    return f"{world['name']} {world['version']}\n" + "\n".join(f"  {line}" for line in facts.splitlines())


def _tick_text(world: dict[str, Any]) -> list[tuple[str, str]]:
    """Of a world whose tick is not simply a picture."""
    pictures = world["frame"]["frames_per_tick"]
    return [] if pictures == 1 else [("tick", f"{pictures} pictures, every {world['native_budget_ms']:g} ms")]


def _confidence_text(world: dict[str, Any]) -> str:
    """What a frame's confidence is about."""
    deltas = ", ".join(f"{delta:.3g} after step {k}" for k, delta in enumerate(world["delta_by_step"], 1))
    if not deltas:
        return "always 1: a single step is the full schedule"
    return f"of being no further from the full schedule's frame than {deltas}; unit: {world['delta_unit']}"


def _bounds_text(world: dict[str, Any]) -> list[str]:
    """One line per risk bound, after one that says what delta is."""
    if not world["bounds"]:
        return []
    lines = [f"frames further than delta from the full schedule's; delta: {world['delta_unit']}"]
    for bound in world["bounds"]:
        checked = bound["checked"]
        low, high = checked["interval"]
        lines.append(
            f"alpha {bound['alpha']:g}, delta {bound['delta']:.3g}: threshold {bound['threshold']:.2f},"
            f" {bound['mean_steps']:.2f} steps"
            + (f", found {checked['violation']:.2%} ({low:.2%} to {high:.2%})" if checked["rollouts"] else ", exact")
        )
    return lines


def _facts(facts: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in facts)
