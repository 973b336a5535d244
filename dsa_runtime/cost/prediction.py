"""Prediction: what the model says about a shape on a device, as one document of plain JSON values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from . import published
from .capacity import HOST_MS, USABLE_MEMORY, capacity
from .cost import Cost, total
from .decoder import Decoder
from .device import Device
from .efficiency import PEAK, assumed
from .memory import memory_of
from .precision import Precision
from .roofline import latency
from .shape import Shape
from .stages import commit_cost, decode_cost, prompt_cost, step_cost
from .tick import tick_time


def predict(shape: Shape, device: Device, precision: Precision) -> dict[str, Any]:
    """Stages, ticks and memory of one session whose window is full."""
    low, usual, high = assumed(device)
    published_here = (shape.name, device.name, precision.name) == ("wan-1.3b", "h100-sxm", "bf16")
    return {
        "predicted": True,
        "shape": describe(shape),
        "device": asdict(device),
        "precision": precision.name,
        "assumptions": {
            "efficiency": [asdict(each) for each in (low, usual, high)],
            "host_ms_per_tick": HOST_MS,
            "usable_memory": USABLE_MEMORY,
            "window": "full",
        },
        "stages": [_stage(name, costs, device, precision) for name, costs in _stages(shape, precision).items()],
        "step": [_part(costs, device, precision) for costs in _parts(step_cost(shape, precision))],
        "ticks": [
            _tick(shape, decoder, steps, device, precision)
            for decoder in (None, *shape.decoders)
            for steps in sorted({*range(1, shape.steps + 1), shape.mean_steps})
        ],
        "memory": {
            decoder.name: {
                **asdict(memory := memory_of(shape, decoder, precision)),
                "per_session": memory.per_session,
                "device": device.memory,
            }
            for decoder in shape.decoders
        },
        "published": describe_published() if published_here else None,
    }


def predict_capacity(shape: Shape, device: Device, precision: Precision, players: int, price: float) -> dict[str, Any]:
    """Sessions on a device at the shape's rate and mean steps, devices for so many players, and price of an hour."""
    rows = []
    for decoder in shape.decoders:
        for efficiency in assumed(device):
            found = capacity(shape, decoder, device, precision, efficiency, shape.mean_steps)
            rows.append(
                {
                    "decoder": decoder.name,
                    "efficiency": efficiency.name,
                    **asdict(found),
                    "devices": found.devices(players),
                    "session_hour": found.session_hour(price),
                }
            )
    return {"players": players, "gpu_hour": price, "fps": shape.fps, "steps": shape.mean_steps, "rows": rows}


def describe(shape: Shape) -> dict[str, Any]:
    """The sizes, and what follows from them."""
    document = asdict(shape)
    document["decoders"] = {decoder.name: decoder.parameters for decoder in shape.decoders}
    return {**document, "family": shape.family.name, "dim": shape.dim, "parameters": shape.parameters}


def describe_published() -> dict[str, Any]:
    """Frame rates of the paper, the fit through them, and what this model says about the same films."""
    found = published.fit()
    rates = [*published.FPS.items(), (published.ADAPTIVE_STEPS, published.ADAPTIVE_FPS)]
    return {
        "source": "arXiv 2606.04432, one H100, 480x832, films of 7 chunks",
        "rows": [
            {
                "steps": steps,
                "fps": rate,
                "fit_fps": found.fps(steps),
                "predicted_fps": [published.predicted_fps(steps, each) for each in assumed(published.DEVICE)],
            }
            for steps, rate in rates
        ],
        "fixed_ms": found.fixed_ms,
        "step_ms": found.step_ms,
        "implied_efficiency": asdict(published.implied(found)),
    }


def _stages(shape: Shape, precision: Precision) -> dict[str, list[Cost]]:
    stages = {"denoising step": step_cost(shape, precision), "commit": commit_cost(shape, precision)}
    if shape.text_tokens:
        stages["prompt"] = prompt_cost(shape, precision)
    return stages | {f"decode, {decoder.name}": decode_cost(decoder, precision) for decoder in shape.decoders}


def _stage(name: str, costs: list[Cost], device: Device, precision: Precision) -> dict[str, Any]:
    """What a stage does, how long it takes and at least takes, and what it waits for."""
    _, usual, _ = assumed(device)
    work, time = total(costs), latency(costs, device, precision, usual)
    return {
        "stage": name,
        **{key: getattr(work, key) for key in ("flops", "weight_bytes", "cache_bytes", "activation_bytes", "kernels")},
        "ms": time.ms,
        **asdict(time),
        "roofline_ms": latency(costs, device, precision, PEAK).ms,
    }


def _parts(costs: Iterable[Cost]) -> list[list[Cost]]:
    """By name, in their order."""
    parts: dict[str, list[Cost]] = {}
    for cost in costs:
        parts.setdefault(cost.part, []).append(cost)
    return list(parts.values())


def _part(costs: list[Cost], device: Device, precision: Precision) -> dict[str, Any]:
    _, usual, _ = assumed(device)
    time = latency(costs, device, precision, usual)
    bounds = {"compute": time.compute_ms, "memory": time.memory_ms, "launch": time.launch_ms}
    return {
        "part": costs[0].part,
        "flops": sum(cost.flops for cost in costs),
        "bytes": sum(cost.bytes for cost in costs),
        "ms": time.ms,
        "bound": max(bounds, key=lambda bound: bounds[bound]),
    }


def _tick(shape: Shape, decoder: Decoder | None, steps: float, device: Device, precision: Precision) -> dict[str, Any]:
    low, usual, high = (tick_time(shape, decoder, device, precision, each) for each in assumed(device))
    return {
        "decoder": "none" if decoder is None else decoder.name,
        "steps": steps,
        "latency_ms": usual.latency_ms(steps),
        "period_ms": usual.period_ms(steps),
        "fps": 1e3 * shape.pictures / usual.period_ms(steps),
        "fps_low": 1e3 * shape.pictures / low.period_ms(steps),
        "fps_high": 1e3 * shape.pictures / high.period_ms(steps),
    }
