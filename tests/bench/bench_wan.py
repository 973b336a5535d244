"""A chunk of Wan2.1's 1.3B shape made causal, on a GPU in one call, beside what the cost model predicts.

    python -m tests.bench.bench_wan [--json FILE] [--rounds N] [--eager] [--tiny]

480x832, chunks of 3 latent frames (12 pictures), a full window of 7 chunks, bfloat16, random weights: speed does not
depend on them, so the steps are fixed (1 to 4, and the paper's 16 in 7 chunks) and said so. Candidates are the same
model in plain PyTorch, eager and compiled, with PyTorch's attention over one piece of keys, and with this project's
operator over the paged cache (`wan_candidates.py`). Each must first give the chunk that the model itself gives from the
same context. Decoding is by Wan's full decoder and by the small one, eager and compiled, by itself and (the compiled
ones) inside ticks; a tick ends when its pictures are on the host and its commit is done.

Candidates take turns, round by round. Results are printed as they come, and with --json written after every part, so
that a run that is cut off leaves what it has. The last line is one JSON document. Compiling takes minutes the first
time; TORCHINDUCTOR_CACHE_DIR keeps the result. Without a GPU there is only `--tiny`, a model of no use that shows that
everything runs.

NOT RUN ON A GPU YET: neither this script nor the CUDA operator. On a CPU `--tiny` has run in all its parts, compiled
forms included; there the operator's place is taken by its plain PyTorch form.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from dsa_runtime.commands.machine import describe_machine, version
from dsa_runtime.cost.decoder import small_decoder, wan_decoder
from dsa_runtime.cost.device import DEVICES, Device
from dsa_runtime.cost.precision import PRECISIONS
from dsa_runtime.cost.prediction import predict
from dsa_runtime.cost.shape import Shape
from dsa_runtime.cost.this_cpu import measure_this_cpu
from dsa_runtime.cost.wan import wan_shape
from dsa_runtime.report.table import table
from tests import cuda_launch
from tests.bench.bench_cuda_attention import measure_ceilings
from tests.bench.provenance import commit
from tests.bench.wan_sizes import TINY_BASE, TINY_WIDTHS

K = TypeVar("K")
LEVELS = (1.0, 0.9375, 0.8333, 0.625)
PAPER = (4, 1, 4, 1, 4, 1, 1)
"""Steps of the chunks of a film in the paper's mean: three refined in full, four not, 16 in 7 chunks."""
KERNELS = 12
NAMES = {"H100": "h100-sxm", "H200": "h200", "L40S": "l40s", "RTX 4090": "rtx-4090", "RTX 5090": "rtx-5090"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. `arguments` without the program's name."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_wan", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns of every candidate (default: %(default)s)")
    parser.add_argument("--eager", action="store_true", help="leave out what has to be compiled")
    parser.add_argument("--tiny", action="store_true", help="a tiny model; needs no GPU")
    parser.add_argument(
        "--json", type=Path, default=None, metavar="FILE", help="write the document there after each part"
    )
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    no_gpu = cuda_launch.no_gpu()
    if no_gpu and not options.tiny:
        print(f"cannot run: {no_gpu}", file=sys.stderr)
        return 2
    bench = Bench("cpu" if no_gpu else "cuda", options)
    bench.line = {
        "bench": "wan",
        "command": shlex.join(["python", "-m", "tests.bench.bench_wan", *given]),
        "commit": commit(),
        "machine": {**describe_machine(), "torch": version("torch"), "gpu": bench.gpu},
        "model": asdict(bench.config),
        "dtype": str(bench.dtype).removeprefix("torch."),
        "steps": "fixed; weights are random",
    }
    bench.measure()
    print(json.dumps(bench.line, allow_nan=False))
    return 0


class Bench:
    """One run: the model, its candidates, and the document that grows."""

    def __init__(self, device: str, options: argparse.Namespace) -> None:
        import torch

        from exporters.model.wan.config import WAN_1_3B, WanConfig

        self.device, self.options = device, options
        self.cuda = device == "cuda"
        torch.backends.cudnn.benchmark = True
        self.gpu = torch.cuda.get_device_properties(0).name if self.cuda else None
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        tiny = WanConfig(dim=64, depth=2, heads=2, mlp_width=96, text_width=24, text_tokens=7, latent_height=4,
                         latent_width=4, window=2)  # fmt: skip
        self.config = tiny if options.tiny else WAN_1_3B
        self.line: dict[str, Any] = {}

    def measure(self) -> None:
        """All parts, in an order in which what matters most comes first."""
        self.predict()
        from tests.bench.wan_decoders import make_decoders

        candidates = self.candidates()
        compiled = not self.options.eager
        decoders = make_decoders(self.config, self.device, self.dtype, tiny=self.options.tiny, compiled=compiled)
        self.stages(candidates, decoders)
        self.kernels(candidates)
        self.ticks(candidates, [each for each in decoders if each.compiled == compiled])

    def save(self, **part: Any) -> None:
        """Add a part to the document."""
        self.line.update(part)
        if self.options.json is not None:
            self.options.json.write_text(json.dumps(self.line, allow_nan=False) + "\n")

    def predict(self) -> None:
        """What the cost model says, where it knows the device, and what this device reaches in a product and a copy."""
        device = self.known_device()
        predicted = None
        if device is not None:
            predicted = predict(self.shape(), device, PRECISIONS["bf16" if self.cuda else "fp32"])
        self.save(predicted=predicted, ceilings=measure_ceilings() if self.cuda else None)

    def known_device(self) -> Device | None:
        """By the name that CUDA gives it."""
        if self.gpu is None:
            return measure_this_cpu()
        return next((DEVICES[known] for name, known in NAMES.items() if name in self.gpu), None)

    def shape(self) -> Shape:
        """The model's, for the cost model."""
        c = self.config
        shape = wan_shape(
            "here", layers=c.depth, heads=c.heads, head_dim=c.head_dim, mlp_width=c.mlp_width, chunk=c.chunk,
            height=c.latent_height, width=c.latent_width, window=c.window, text_tokens=c.text_tokens,
            text_width=c.text_width,
        )  # fmt: skip
        if not self.options.tiny:
            return shape
        place = (c.chunk, c.latent_height, c.latent_width)
        decoders = (wan_decoder(*place, base=TINY_BASE), small_decoder(*place, widths=TINY_WIDTHS))
        return dataclasses.replace(shape, decoders=decoders)

    def candidates(self) -> list[Any]:
        """Those that run here and agree with the model."""
        import torch

        from tests.bench import wan_candidates as ways

        c = self.config
        generator = ways.make_generator(c, self.device, self.dtype)
        context = ways.random_context(c, self.device, self.dtype)
        text = torch.randn(1, c.text_tokens, c.text_width, device=self.device, dtype=self.dtype)
        noisy, level = torch.randn(1, *c.latent_shape, device=self.device), torch.ones(1, device=self.device)
        with torch.no_grad():
            prompted = ways.WanContext(context.keys, context.values, generator.transformer.prompt(text))
            truth, _, _ = generator.denoise(noisy, level, noisy.new_empty(1, 0), prompted)
        made = ways.candidates(generator, context, text, compiled=not self.options.eager)
        kept, differences, left_out = ways.agreeing(list(made), noisy, level, truth, 5e-2 if self.cuda else 1e-4)
        print(table(("candidate", "difference"), [(name, f"{each:.1e}") for name, each in differences.items()]), "\n")
        self.save(differences=differences, left_out=left_out)
        return kept

    def stages(self, candidates: list[Any], decoders: list[Any]) -> None:
        """Median milliseconds of a step, a commit and a decode, with the host waiting for each."""
        import torch

        noisy = torch.randn(1, *self.config.latent_shape, device=self.device)
        level = torch.full((1,), LEVELS[1], device=self.device)
        timed: dict[tuple[str, str], Callable[[], object]] = {}
        for each in candidates:
            timed[each.name, "denoising step"] = lambda each=each: float(each.denoise(noisy, level)[1])
            timed[each.name, "commit"] = lambda each=each: each.commit(noisy)
        for decoder in decoders:
            timed[decoder.name, f"decode, {decoder.name.split()[0]}"] = lambda decoder=decoder: decoder.run(noisy)
        times = self.alternate(timed, 3 * self.options.rounds)
        predicted = {row["stage"]: row for row in (self.line["predicted"] or {"stages": []})["stages"]}
        rows = [
            {
                "candidate": name,
                "stage": stage,
                "median_ms": statistics.median(taken),
                **{key: predicted[stage][key] for key in ("ms", "roofline_ms") if stage in predicted},
            }
            for (name, stage), taken in times.items()
        ]
        header = ("candidate", "stage", "median ms", "predicted ms", "roofline ms")
        print(table(header, [(*row.values(), *[None] * (5 - len(row))) for row in rows]), "\n")
        memory = torch.cuda.max_memory_allocated() if self.cuda else None
        self.save(stages=rows, most_memory_bytes=memory)

    def kernels(self, candidates: list[Any]) -> None:
        """Where the time of a denoising step goes: what took longest, by name, in ms of the device."""
        import torch
        from torch.profiler import ProfilerActivity, profile

        noisy = torch.randn(1, *self.config.latent_shape, device=self.device)
        level = torch.full((1,), LEVELS[1], device=self.device)
        kind = [ProfilerActivity.CUDA if self.cuda else ProfilerActivity.CPU]
        longest = {}
        for each in candidates:
            with profile(activities=kind) as profiler:
                float(each.denoise(noisy, level)[1])
            spent = [
                (
                    event.key,
                    (event.self_device_time_total if self.cuda else event.self_cpu_time_total) / 1e3,
                    event.count,
                )
                for event in profiler.key_averages()
            ]
            longest[each.name] = sorted(spent, key=lambda row: -row[1])[:KERNELS]
            rows = [(name[:72], ms, count) for name, ms, count in longest[each.name]]
            print(table((f"{each.name}: kernel", "ms", "times"), rows), "\n")
        self.save(kernels=longest)

    def ticks(self, candidates: list[Any], decoders: list[Any]) -> None:
        """Pictures a second, from tick to tick: every number of steps without a decoder, the paper's mean with each."""
        plans = [(None, (steps,)) for steps in range(1, len(LEVELS) + 1)]
        plans += [(decoder, PAPER) for decoder in (None, *decoders)]
        rows = []
        for decoder, steps in plans:
            films = {each.name: functools.partial(self.film, each, decoder, steps) for each in candidates}
            times = self.alternate(films, self.options.rounds)
            rows += [self.row(name, decoder, steps, statistics.median(ms) / len(steps)) for name, ms in times.items()]
        header = ("candidate", "decoder", "steps", "ms a chunk", "pictures/s", "predicted")
        print(table(header, [tuple(row.values()) for row in rows]))
        self.save(ticks=rows)

    def row(self, name: str, decoder: Any, steps: tuple[int, ...], ms: float) -> dict[str, Any]:
        """One line of the table of ticks."""
        kind, mean = "none" if decoder is None else decoder.name, sum(steps) / len(steps)
        predicted = next(
            (row["fps"] for row in (self.line["predicted"] or {"ticks": []})["ticks"]
             if row["decoder"] == kind.split()[0] and abs(row["steps"] - mean) < 1e-9),
            None,
        )  # fmt: skip
        fps = 1e3 * 4 * self.config.chunk / ms
        return {
            "candidate": name,
            "decoder": kind,
            "steps": mean,
            "chunk_ms": ms,
            "fps": fps,
            "predicted_fps": predicted,
        }

    def film(self, candidate: Any, decoder: Any, plan: tuple[int, ...]) -> None:
        """Chunks with these steps; the host reads every confidence, as it has to where it decides."""
        import torch

        from exporters.model.flow import add_noise

        shape = (1, *self.config.latent_shape)
        for steps in plan:
            clean, x = None, torch.randn(shape, device=self.device)
            for k in range(steps):
                level = torch.full((1,), LEVELS[k], device=self.device)
                if clean is not None:
                    x = add_noise(clean, torch.randn(shape, device=self.device), level)
                clean, logit = candidate.denoise(x, level)
                float(logit)
            if decoder is not None:
                decoder.run(clean)
            candidate.commit(clean)

    def alternate(self, runs: Mapping[K, Callable[[], object]], rounds: int) -> dict[K, list[float]]:
        """Wall time of every turn in ms, until the device has done it."""
        import torch

        wait = torch.cuda.synchronize if self.cuda else lambda: None
        times: dict[K, list[float]] = {key: [] for key in runs}
        for _ in range(rounds):
            for key, run in runs.items():
                wait()
                began = time.perf_counter()
                run()
                wait()
                times[key].append(1e3 * (time.perf_counter() - began))
        return times


if __name__ == "__main__":
    sys.exit(main())
