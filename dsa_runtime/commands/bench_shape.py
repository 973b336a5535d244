"""`dsa bench --shape`: what a shape would cost on a device, by formula. Nothing is loaded and nothing runs."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from ..errors import DsaError
from .arguments import positive
from .result import Result

_OPTIONS = ("device", "precision", "mean_steps", "fps", "players", "gpu_hour")
_DEVICE, _PLAYERS = "h100-sxm", 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape",
        metavar="NAME",
        help="measure nothing, but predict from sizes alone: wan-1.3b, wan-14b, or a world package or its name",
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="where it runs: cpu, cuda or cuda:N (default: cpu); with --shape: h100-sxm, h200, l40s, rtx-4090, rtx-5090"
        f" or this-cpu (default: {_DEVICE})",
    )
    parser.add_argument(
        "--precision", metavar="P", help="with --shape: bf16, fp16, fp8 or fp32 (default: bf16; on this-cpu fp32)"
    )
    parser.add_argument(
        "--mean-steps",
        type=float,
        metavar="N",
        help="with --shape: denoising steps in the mean (default: for wan the paper's 2.29, for worlds all)",
    )
    parser.add_argument(
        "--fps", type=float, metavar="N", help="with --shape: pictures a second of a session (default: the shape's)"
    )
    parser.add_argument(
        "--players", type=positive, metavar="N", help=f"with --gpu-hour: sessions at a time (default: {_PLAYERS})"
    )
    parser.add_argument(
        "--gpu-hour", type=float, metavar="PRICE", help="with --shape: what an hour of a device costs you"
    )


def run(options: argparse.Namespace) -> Result:
    """For options that have a shape."""
    from ..cost.device import THIS_CPU
    from ..cost.named import find_device, find_shape
    from ..cost.precision import PRECISIONS
    from ..cost.prediction import predict, predict_capacity

    if options.world is not None:
        raise DsaError("--world: a world is measured, and a shape is predicted; leave --world or --shape out")
    if options.players is not None and options.gpu_hour is None:
        raise DsaError("--players: needs the price of a device with --gpu-hour PRICE")
    for name in ("fps", "gpu_hour"):
        value = getattr(options, name)
        if value is not None and not 0 < value < 1e9:
            raise DsaError(f"--{name.replace('_', '-')}: must be more than 0, got {value:g}")
    shape = find_shape(options.shape)
    mean_steps = shape.mean_steps if options.mean_steps is None else options.mean_steps
    if not 1 <= mean_steps <= shape.steps:
        raise DsaError(f"--mean-steps: must lie in 1..{shape.steps} for {shape.name}, got {mean_steps:g}")
    shape = dataclasses.replace(shape, mean_steps=mean_steps, fps=options.fps or shape.fps)
    device = find_device(options.device or _DEVICE)
    name = options.precision or ("fp32" if device.name == THIS_CPU else "bf16")
    if name not in device.flops:
        raise DsaError(f"--precision: {device.name} is known in {', '.join(device.flops)}, got {name!r}")
    document = predict(shape, device, PRECISIONS[name])
    if options.gpu_hour is not None:
        document["capacity"] = predict_capacity(
            shape, device, PRECISIONS[name], options.players or _PLAYERS, options.gpu_hour
        )
    return Result(document, prediction_text(document))


def refuse(options: argparse.Namespace) -> None:
    """Raise DsaError where an option of a prediction was given without a shape."""
    for name in _OPTIONS[1:]:
        if getattr(options, name) is not None:
            raise DsaError(f"--{name.replace('_', '-')}: is for predictions; give --shape, or leave it out")


def prediction_text(document: dict[str, Any]) -> str:
    """The document for reading."""
    shape, device = document["shape"], document["device"]
    pictures = "picture" if shape["pictures"] == 1 else f"{shape['pictures']} pictures"
    sizes = (
        f"{shape['parameters'] / 1e6:,.1f} M parameters, {shape['layers']} blocks of {shape['dim']},"
        f" {shape['tokens']} tokens a tick, {shape['window']} ticks in the window, {pictures} of"
        f" {shape['picture'][1]}x{shape['picture'][0]}"
    )
    parts = [
        f"PREDICTED, NOT MEASURED: {shape['name']} on {device['name']}, {document['precision']}",
        f"{sizes}\nrates: {device['source']}\n{_assumptions(document)}",
        _stages(document),
        _step(document),
        _ticks(document),
        _memory(document),
    ]
    if document["published"]:
        parts.append(_published(document["published"]))
    if "capacity" in document:
        parts.append(_capacity(document))
    return "\n\n".join(parts)


def _assumptions(document: dict[str, Any]) -> str:
    low, usual, high = document["assumptions"]["efficiency"]
    if usual["name"] == "peak":
        return "times are the least that those rates allow; one session, full window"
    kinds = ("linear", "attention", "convolution", "bandwidth")
    shares = ", ".join(f"{kind} {usual[kind]:g} ({low[kind]:g} to {high[kind]:g})" for kind in kinds)
    return f"assumed shares of peak: {shares}; one session, full window"


def _stages(document: dict[str, Any]) -> str:
    from ..report.table import table

    header = (
        "stage",
        "GFLOP",
        "weights MB",
        "cache MB",
        "activations MB",
        "ms",
        "compute",
        "memory",
        "launch",
        "roofline ms",
    )
    rows = [
        (
            row["stage"],
            row["flops"] / 1e9,
            *(row[f"{kind}_bytes"] / 1e6 for kind in ("weight", "cache", "activation")),
            *(row[key] for key in ("ms", "compute_ms", "memory_ms", "launch_ms", "roofline_ms")),
        )
        for row in document["stages"]
    ]
    return "Stages: what they do and what they wait for\n\n" + table(header, rows)


def _step(document: dict[str, Any]) -> str:
    from ..report.table import table

    whole = sum(row["ms"] for row in document["step"])
    rows = [
        (row["part"], row["flops"] / 1e9, row["bytes"] / 1e6, row["ms"], f"{row['ms'] / whole:.0%}", row["bound"])
        for row in document["step"]
    ]
    return "Inside a denoising step\n\n" + table(("part", "GFLOP", "MB", "ms", "share", "waits for"), rows)


def _ticks(document: dict[str, Any]) -> str:
    from ..report.table import table

    rows = [
        (
            row["decoder"],
            f"{row['steps']:.3g}",
            row["latency_ms"],
            row["period_ms"],
            *(row[key] for key in ("fps", "fps_low", "fps_high")),
        )
        for row in document["ticks"]
    ]
    header = ("decoder", "steps", "latency ms", "with commit ms", "pictures/s", "low", "high")
    return "Ticks, back to back\n\n" + table(header, rows)


def _memory(document: dict[str, Any]) -> str:
    from ..report.table import table

    kinds = ("weights", "cache", "prompt", "decoder_state", "activations", "per_session")
    rows = [(name, *(memory[kind] / 1e6 for kind in kinds)) for name, memory in document["memory"].items()]
    header = ("decoder", "weights, once", "cache", "prompt", "decoder state", "activations", "per session")
    return f"Memory in MB; the device has {document['device']['memory'] / 1e6:.0f}\n\n" + table(header, rows)


def _published(published: dict[str, Any]) -> str:
    from ..report.table import table

    header = ("steps", "published", "fitted", "predicted: low", "usual", "high")
    rows = [(f"{row['steps']:.3g}", row["fps"], row["fit_fps"], *row["predicted_fps"]) for row in published["rows"]]
    shares = published["implied_efficiency"]
    return (
        f"Beside published rates in pictures/s ({published['source']}; 2.29 is adaptive and left out of the fit)\n\n"
        + table(header, rows)
        + f"\n\nfit: {published['fixed_ms']:.0f} ms a chunk and {published['step_ms']:.0f} ms a step,"
        f" which is {shares['step']:.2f} of peak in a step and {shares['decode']:.2f} in decoding"
    )


def _capacity(document: dict[str, Any]) -> str:
    from ..report.table import table

    found = document["capacity"]
    header = (
        "decoder",
        "efficiency",
        "sessions",
        "held up by",
        "tick ms",
        f"devices for {found['players']}",
        "session-hour",
    )
    rows = [
        (
            row["decoder"],
            row["efficiency"],
            row["sessions"],
            row["limit"],
            row["tick_ms"],
            "none" if row["devices"] is None else row["devices"],
            "none" if row["session_hour"] is None else f"{row['session_hour']:.3g}",
        )
        for row in found["rows"]
    ]
    return (
        f"Sessions a device keeps at {found['fps']:g} pictures/s and {found['steps']:.3g} steps; a device-hour costs"
        f" {found['gpu_hour']:g}\n\n" + table(header, rows)
    )
