"""Frame attention against ONNX Runtime's own operators: one call, and a whole denoising step.

    python -m tests.bench.bench_attention [--sizes S M world] [--threads 1 2] [--rounds N] [--profile] [--json FILE]

Forms (see attention_forms.py): `op`, the custom operator over paged frames; `gather`, the plain form that packages
carry as well; `ring`, ONNX Runtime's fastest, an in-place ring per session with built-in attention, without the
rotary position in time that the others have. All of them with a full window and with half of one, batch 1, float32.
Before anything is timed the forms must agree (`ring` with `op` without rotation in time).

The forms take turns, in another order every round, so that a noisy neighbour hits all of them. A round times some calls
of each after one that is not counted. Every few rounds all sessions are loaded anew, for where a session's weights
happen to lie in memory alone makes a few per cent. `ratio` is a form's median over the operator's, `paired` the median
of the rounds' own ratios: above 1, the operator is faster. GFLOP/s count the two products of the attention over the
filled frames only, 4 T^2 (F + 1) H D; the ceiling below the table is ONNX Runtime's float32 product of two 512 x 512
matrices.

`--profile` adds how much of a step is attention, by ONNX Runtime's profile.

Prints tables, and as its last line one JSON document with the machine, its load before the run, the commit and the
command. With anything else running, figures of as many threads as the machine has cores mean little.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
from tqdm import tqdm

from dsa_runtime.commands.machine import describe_machine
from dsa_runtime.ops import library
from dsa_runtime.report.table import table
from tests.bench.attention_forms import (
    SHAPES,
    Call,
    Form,
    Shape,
    Subject,
    bind_forms,
    check_forms,
    export_forms,
    matmul_call,
    paged_feeds,
    ring_feeds,
)
from tests.bench.attention_profile import profile
from tests.bench.provenance import commit

ROUND_MS = 20.0
"""A form is called in one round until it has taken this long."""
ROUNDS_PER_LOAD = 4
MATMUL_SIZE = 512
PARTS = ("attention", "rest")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. `arguments` without the program's name."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.bench_attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sizes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=16, help="rounds per row (default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="where a step's time goes, too")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the JSON document there as well")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    tqdm.monitor_interval = 0  # no thread of its own while we measure
    shapes = [SHAPES[name] for name in options.sizes]
    load = os.getloadavg()[0]
    figures = run(shapes, options.threads, options.rounds, options.profile)
    print(text(figures))
    line = {
        "bench": "attention",
        "command": shlex.join(["python", "-m", "tests.bench.bench_attention", *given]),
        "commit": commit(),
        "machine": {**describe_machine(), "operators": library.find().instruction_set, "load_before": load},
        "rounds": options.rounds,
        **figures,
    }
    document = json.dumps(line, allow_nan=False)
    if options.json:
        options.json.write_text(document + "\n")
    print(document)
    return 0


def run(shapes: Sequence[Shape], threads: Sequence[int], rounds: int, profiled: bool) -> dict[str, Any]:
    """All figures, in a temporary folder."""
    ceilings = {str(count): matmul_gflops(count) for count in threads}
    rows, profiles = [], []
    bar = tqdm(total=len(shapes) * 4 * len(threads), unit="row", disable=None, leave=False)
    for shape in shapes:
        with TemporaryDirectory() as name:
            for subject in get_args(Subject):
                paths = export_forms(shape, subject, Path(name))
                for filled in (shape.config.window, shape.config.window // 2):
                    feeds = paged_feeds(shape, subject, filled)
                    for count in threads:
                        where = {"subject": subject, "size": shape.name, "filled": filled, "threads": count}
                        check_forms(paths, feeds, count)
                        times = measure(partial(bind_forms, paths, feeds, count), rounds)
                        rows += [where | row for row in summary(times, attention_flops(shape, filled, subject))]
                        bar.update()
                        if profiled and subject == "step":
                            profiles += [where | row for row in profile_forms(paths, feeds, count)]
    bar.close()
    return {
        "matmul_gflops": ceilings,
        "rows": rows,
        **({"profiles": profiles} if profiled else {}),
    }


def measure(load: Callable[[int], Mapping[Form, Call]], rounds: int) -> dict[Form, list[list[float]]]:
    """Milliseconds of every call of every round, by form. `load` gives fresh sessions; its argument counts them."""
    times: dict[Form, list[list[float]]] = {form: [] for form in get_args(Form)}
    for turn in range(rounds):
        if turn % ROUNDS_PER_LOAD == 0:
            calls = load(turn // ROUNDS_PER_LOAD)
            for call in calls.values():
                call()
        for form in rotated(get_args(Form), turn):
            calls[form]()  # not counted: it finds the caches full of another form's data
            times[form].append([one_ms(calls[form])])
            while sum(times[form][-1]) < ROUND_MS:
                times[form][-1].append(one_ms(calls[form]))
    return times


def one_ms(call: Call) -> float:
    """The time of one call in milliseconds."""
    started = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - started) / 1e6


def rotated(forms: tuple[Form, ...], turn: int) -> Iterator[Form]:
    """All forms, beginning with another one each turn."""
    return (forms[(turn + i) % len(forms)] for i in range(len(forms)))


def summary(times: Mapping[Form, Sequence[Sequence[float]]], flops: int | None) -> list[dict[str, Any]]:
    """One row per form. `flops` of one call, where they are all that the call is about."""
    own = [float(np.median(calls)) for calls in times["op"]]
    middle = float(np.median(np.concatenate(times["op"])))
    rows = []
    for form, rounds in times.items():
        p10, p50, p90 = np.quantile(np.concatenate(rounds), [0.1, 0.5, 0.9]).tolist()
        pairs = [float(np.median(calls)) / other for calls, other in zip(rounds, own, strict=True)]
        rows.append(
            {
                "form": form,
                "calls": sum(map(len, rounds)),
                "p50_ms": p50,
                "p10_ms": p10,
                "p90_ms": p90,
                "ratio": p50 / middle,
                "paired_ratio": float(np.median(pairs)),
                "gflops": flops / p50 / 1e6 if flops else None,
            }
        )
    return rows


def attention_flops(shape: Shape, filled: int, subject: Subject) -> int | None:
    """Of one attention call: a multiplication and an addition per score and per weighted value. Not of a step."""
    c = shape.config
    return 4 * c.tokens * (filled + 1) * c.tokens * c.heads * c.head_dim if subject == "attention" else None


def matmul_gflops(threads: int) -> float:
    """What the machine reaches on a product of two matrices of `MATMUL_SIZE` in its best tenth of 100 calls."""
    call = matmul_call(MATMUL_SIZE, threads)
    return 2 * MATMUL_SIZE**3 / float(np.quantile([one_ms(call) for _ in range(100)], 0.1)) / 1e6


def profile_forms(
    paths: Mapping[Form, Path], feeds: Mapping[str, np.ndarray], threads: int
) -> Iterator[dict[str, Any]]:
    """One profile per form."""
    for form, path in paths.items():
        yield {"form": form, **profile(path, ring_feeds(feeds) if form == "ring" else feeds, threads, runs=10)}


def text(figures: Mapping[str, Any]) -> str:
    """All rows for reading."""
    where = ("subject", "size", "filled", "threads", "form")
    measured = ("p50_ms", "p10_ms", "p90_ms", "ratio", "paired_ratio", "gflops")
    titles: tuple[str, ...] = ("p50 ms", "p10 ms", "p90 ms", "ratio", "paired", "GFLOP/s")
    parts = [table((*where, *titles), [[row[key] for key in (*where, *measured)] for row in figures["rows"]])]
    if "profiles" in figures:
        shares = ("total_ms", "attention_ms", "attention_share")
        rows = [
            [row[key] for key in (*where[1:], *shares)] + [busiest(row[f"{part}_by_operator_ms"]) for part in PARTS]
            for row in figures["profiles"]
        ]
        titles = ("kernels ms", "attention ms", "share", "attention mostly", "rest mostly")
        parts.append(table((*where[1:], *titles), rows))
    parts += [
        f"product of {MATMUL_SIZE} x {MATMUL_SIZE} matrices, {count} thread(s): {gflops:.0f} GFLOP/s"
        for count, gflops in figures["matmul_gflops"].items()
    ]
    return "\n\n".join(parts)


def busiest(operators_ms: Mapping[str, float]) -> str:
    """The three operators that take longest, of a dictionary that begins with them."""
    return ", ".join(f"{name} {ms:.2f}" for name, ms in list(operators_ms.items())[:3])


if __name__ == "__main__":
    sys.exit(main())
