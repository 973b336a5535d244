"""`dsa doctor`: measure this machine with a world, alone and beside load, and say which rates hold."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from .arguments import add_json, add_positional_world, positive
from .result import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..doctor import Diagnosis
    from ..doctor.diagnosis import Spread, Verdict

HELP = "measure this machine and say which rates hold with how many steps"
_TICKS, _WAITS = 1000, 240
_QUICK_TICKS, _QUICK_WAITS = 100, 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_positional_world(parser)
    parser.add_argument(
        "--ticks",
        type=positive,
        metavar="N",
        help=f"full ticks to measure on the idle machine; a quarter beside load (default: {_TICKS})",
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"a first look in some ten seconds: {_QUICK_TICKS} ticks, fewer waits"
    )
    parser.add_argument("--no-load", action="store_true", help="do not measure beside busy processes")
    parser.add_argument("--out", metavar="FILE", help="also write the diagnosis, for World.session(diagnosis=...)")
    add_json(parser)


def run(options: argparse.Namespace) -> Result:
    from ..doctor import examine
    from ..world import load_world
    from .machine import describe_machine

    out = _writable(options.out)
    tqdm.monitor_interval = 0
    with load_world(options.world) as world, tqdm(disable=None, leave=False, bar_format=_BAR) as bar:

        def show(doing: str, done: int, total: int) -> None:
            bar.total = total
            bar.set_description(doing, refresh=False)
            bar.update(done - bar.n)

        diagnosis = examine(
            world,
            ticks=options.ticks or (_QUICK_TICKS if options.quick else _TICKS),
            waits=_QUICK_WAITS if options.quick else _WAITS,
            load=not options.no_load,
            machine=describe_machine(),
            progress=show,
        )
    if out is not None:
        diagnosis.save(out)
    return Result(diagnosis.to_dict(), doctor_text(diagnosis, options.out))


_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


def doctor_text(diagnosis: Diagnosis, out: str | None = None) -> str:
    """The diagnosis for reading. `out` is the file it was written to."""
    machine, world = diagnosis.machine, diagnosis.world
    idle = [verdict for verdict in diagnosis.verdicts if not verdict.loaded]
    loaded = [verdict for verdict in diagnosis.verdicts if verdict.loaded]
    lines = [
        f"{world.name} {world.version} on {machine.get('cpu', 'this machine')}, usable cores: {machine['cores']}, "
        f"onnxruntime {machine.get('onnxruntime', '?')}",
        f"{idle[0].ticks} full ticks idle"
        + (f", {loaded[0].ticks} beside {machine['cores']} busy processes" if loaded else "")
        + f"; threads per graph: {diagnosis.threads}; {diagnosis.rest_ms:g} ms of rest after each tick",
        "",
        _stage_table(diagnosis),
        "",
        f"Share of ticks (%) whose frame and commit fit the period, {diagnosis.guard_ms:g} ms kept free",
        "",
        _rate_table(idle, loaded),
        "",
        *_sentences(idle, loaded),
        "",
        *(f"- {sentence}" for sentence in diagnosis.advice),
        f"- more: {_tighter(idle[0].ticks)}",
        _use(out),
    ]
    return "\n".join(lines)


def _stage_table(diagnosis: Diagnosis) -> str:
    """Milliseconds per stage with the chosen number of threads, and how late waits ended."""
    from ..report.table import table

    rows: dict[str, dict[bool, Spread]] = {}
    for stage in diagnosis.stages:
        if stage.threads == diagnosis.threads:
            rows.setdefault(stage.stage, {})[stage.loaded] = stage.cost
    for late in diagnosis.lateness:
        kind = {"sleep": "sleep", "lock": "timed wait"}[late.wait]
        name = f"{kind} late" + (", SCHED_FIFO" if late.scheduling == "fifo" else "")
        rows.setdefault(name, {})[late.loaded] = late.late
    conditions = sorted({loaded for spreads in rows.values() for loaded in spreads})
    header = ["ms"]
    for loaded in conditions:
        header += [f"{_where(loaded)} p50", "p99", "max"]
    return table(
        header,
        [
            [name, *(value for loaded in conditions for value in _figures(spreads.get(loaded)))]
            for name, spreads in rows.items()
        ],
    )


def _rate_table(idle: Sequence[Verdict], loaded: Sequence[Verdict]) -> str:
    from ..report.table import table

    conditions = [verdicts for verdicts in (idle, loaded) if verdicts]
    header = ["Hz", "ms"]
    for verdicts in conditions:
        header += [f"{_where(verdicts[0].loaded)}: 1 step", *(str(fit.steps) for fit in verdicts[0].fits[1:]), "holds"]
    rows = [
        [
            f"{row[0].rate_hz:g}",
            f"{1000 / row[0].rate_hz:.1f}",
            *(
                cell
                for verdict in row
                for cell in (
                    *(_percent(fit.fitting, verdict.ticks) for fit in verdict.fits),
                    f"{verdict.holds}" if verdict.holds else "-",
                )
            ),
        ]
        for row in zip(*conditions, strict=True)
    ]
    return table(header, rows)


def _sentences(idle: Sequence[Verdict], loaded: Sequence[Verdict]) -> list[str]:
    """One per combination of steps that hold idle and beside load, for the fastest rate that has it."""
    nothing: Sequence[Verdict | None] = [None] * len(idle)
    pairs = zip(idle, loaded or nothing, strict=True)
    sentences = {}
    for verdict, beside in pairs:
        kind = (verdict.holds, beside and beside.holds)
        if not (verdict.holds == 0 and kind in sentences):  # of the rates that do not hold, the slowest
            sentences[kind] = _sentence(verdict, beside)
    return list(sentences.values())


def _sentence(idle: Verdict, loaded: Verdict | None) -> str:
    rate = f"{idle.rate_hz:g} Hz"
    if not idle.holds:
        return f"{rate} does not hold: a single step fits in {idle.fits[0].fitting} of {idle.ticks} ticks idle"
    fit = idle.fits[idle.holds - 1]
    sentence = (
        f"{rate} holds at {_steps(idle.holds)}: {fit.fitting} of {idle.ticks} ticks idle "
        f"(at least {_floor(fit.at_least)} % with 95 % confidence)"
    )
    if loaded is None:
        return sentence
    beside = loaded.fits[idle.holds - 1].fitting
    sentence += f", {beside} of {loaded.ticks} beside load"
    if beside < loaded.ticks:
        sentence += f" ({_floor(beside / loaded.ticks)} %)"
    if loaded.holds >= idle.holds:
        return sentence
    return f"{sentence}, where it {f'holds at {_steps(loaded.holds)}' if loaded.holds else 'does not hold'}"


def _tighter(ticks: int) -> str:
    from ..doctor.verdicts import HOLDS_AT, lower_bound, ticks_to_prove

    needed = ticks_to_prove()
    if ticks >= needed:
        return f"{ticks} ticks without a miss show at least {_floor(lower_bound(ticks, ticks))} % (95 % confidence)"
    return (
        f"{ticks} ticks without a miss show only that at least {_floor(lower_bound(ticks, ticks))} % fit (95 % "
        f"confidence); --ticks {needed} would show {100 * HOLDS_AT:g} %"
    )


def _use(out: str | None) -> str:
    if out is None:
        return "- use: --out FILE writes this diagnosis; a session can start from its threads, guard and costs"
    return f"- use: world.session(diagnosis=dsa_runtime.doctor.Diagnosis.load({out!r}))"


def _figures(spread: Spread | None) -> tuple[str, str, str]:
    if spread is None:
        return "", "", ""
    return f"{spread.p50_ms:.2f}", f"{spread.p99_ms:.2f}", f"{spread.max_ms:.2f}"


def _percent(part: int, whole: int) -> str:
    """100 only if it is all of them."""
    return "100" if part == whole else _floor(part / whole)


def _floor(share: float) -> str:
    digits = 2 if share > 0.99 else 1
    return f"{math.floor(100 * share * 10**digits + 1e-9) / 10**digits:.{digits}f}"


def _steps(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


def _where(loaded: bool) -> str:
    return "beside load" if loaded else "idle"


def _writable(out: str | None) -> Path | None:
    """Where to write. Fails now rather than after a minute of measuring."""
    if out is None:
        return None
    path = Path(out)
    existed = path.exists()
    with path.open("ab"):
        pass
    if not existed:
        path.unlink()
    return path
