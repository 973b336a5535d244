"""Ticks per second of the SDK beside plain PyTorch, eager and compiled, running the same loop.

    python -m tests.bench.bench_torch [--world WORLD] [--ticks N] [--threads N]

One tick is K denoising steps, a decode and a commit, one after another; the SDK's commit runs after its return and is
waited for by the next tick, so a loop pays for it as well. PyTorch's modules have the world's shape and random weights:
the time does not depend on the values. The three take turns, block by block, so that a noisy neighbour hits all of
them. Prints a table, and as its last line one JSON document with the machine, the commit and the command.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from dsa_runtime import WorldSpec, load_world
from dsa_runtime.commands.machine import describe_machine, version
from tests.bench.provenance import commit

BLOCKS = 6


def torch_tick(spec: WorldSpec, compiled: bool) -> Callable[[int], None]:
    """A function that runs one tick of `steps` denoising steps in PyTorch."""
    import torch

    from exporters.model.autoencoder import Autoencoder, AutoencoderConfig, pictures_to_uint8
    from exporters.model.flow import add_noise
    from exporters.model.generator import Context, Generator, GeneratorConfig

    latent, cache = spec.latent, spec.cache
    config = GeneratorConfig(
        latent_channels=latent.channels,
        latent_height=latent.height,
        latent_width=latent.width,
        patch=math.isqrt(latent.height * latent.width // cache.tokens),
        action_width=spec.action_space.width,
        dim=cache.heads * cache.head_dim,
        depth=cache.layers,
        heads=cache.heads,
        window=cache.window,
        temporal_dims=cache.temporal_dims,
        theta=cache.theta,
    )
    generator = Generator(config).eval()
    autoencoder = Autoencoder(AutoencoderConfig(latent_channels=latent.channels)).eval()
    autoencoder.to(memory_format=torch.channels_last)
    filled = torch.randn(1, cache.window, cache.tokens, cache.heads, cache.head_dim)
    state = {"context": Context((filled,) * cache.layers, (filled,) * cache.layers)}
    action, shape = torch.zeros(1, config.action_width), (1, *spec.latent.shape)
    levels = [torch.full((1,), value) for value in spec.schedule.levels]

    def denoise(x: torch.Tensor, level: torch.Tensor, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        clean, taps, condition = generator.denoise(x, level, action, context)
        return clean, generator.confidence(taps, condition)

    def finish(clean: torch.Tensor, context: Context) -> tuple[torch.Tensor, Context]:
        return pictures_to_uint8(autoencoder.decode(clean)), generator.commit(clean, levels[0] * 0, action, context)

    if compiled:
        # torch 2.13's attention pattern trips over batch 1 ("attempting to broadcast a dimension of length 144").
        plain = {"pattern_matcher": False}
        denoise, finish = (torch.compile(f, dynamic=False, options=plain) for f in (denoise, finish))

    @torch.no_grad()
    def tick(steps: int) -> None:
        x = torch.randn(shape)
        for k in range(steps):
            clean, logit = denoise(x, levels[k], state["context"])
            float(logit)  # the decision to go on is made on the host
            if k + 1 < steps:
                x = add_noise(clean, torch.randn(shape), levels[k + 1])
        pixels, state["context"] = finish(clean, state["context"])
        pixels.numpy()

    return tick


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. `arguments` without the program's name."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_torch", description=__doc__)
    parser.add_argument("--world", default=None, help="package folder, archive or bundled name")
    parser.add_argument("--ticks", type=int, default=300, help="ticks per candidate and step count")
    parser.add_argument("--threads", type=int, default=2)
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    import torch

    torch.set_num_threads(options.threads)
    with load_world(options.world, threads=options.threads) as world, world.session() as session:
        spec = world.spec
        action = 0 if spec.action_space.shape == () else np.zeros(spec.action_space.shape)
        candidates: dict[str, Callable[[int], None]] = {
            "dsa_runtime": lambda steps: void(session.step(action, math.inf, steps=steps)),
            "torch eager": torch_tick(spec, compiled=False),
            "torch compiled": torch_tick(spec, compiled=True),
        }
        rows = [measure(candidates, steps, options.ticks) for steps in range(1, spec.schedule.steps + 1)]
    print(f"{'steps':>5}  " + "  ".join(f"{name:>22}" for name in candidates))
    for row in rows:
        cells = (f"{row[n]['median_ms']:8.2f} ms {row[n]['ticks_per_s']:6.0f}/s" for n in candidates)
        print(f"{row['steps']:>5}  " + "  ".join(f"{cell:>22}" for cell in cells))
    line = {
        "bench": "torch",
        "command": shlex.join(["python", "-m", "tests.bench.bench_torch", *given]),
        "commit": commit(),
        "machine": {**describe_machine(), "torch": version("torch")},
        "world": {"name": spec.name, "version": spec.version},
        "threads": options.threads,
        "rows": rows,
    }
    print(json.dumps(line, allow_nan=False))
    return 0


def void(_: object) -> None:
    """Drop a result."""


def measure(candidates: dict[str, Callable[[int], None]], steps: int, ticks: int) -> dict:
    """Median and mean rate of each candidate, in turns of `ticks / BLOCKS` ticks."""
    costs: dict[str, list[float]] = {name: [] for name in candidates}
    for tick in candidates.values():
        for _ in range(5):
            tick(steps)
    for _ in range(BLOCKS):
        for name, tick in candidates.items():
            for _ in range(max(1, ticks // BLOCKS)):
                began = time.perf_counter()
                tick(steps)
                costs[name].append(time.perf_counter() - began)
    result: dict = {"steps": steps}
    for name, values in costs.items():
        result[name] = {
            "median_ms": round(1e3 * float(np.median(values)), 3),
            "p99_ms": round(1e3 * float(np.quantile(values, 0.99)), 3),
            "ticks_per_s": round(len(values) / sum(values), 1),
        }
    return result


if __name__ == "__main__":
    sys.exit(main())
