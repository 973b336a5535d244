"""Advice: from what was measured or read to what to do about it, one sentence each. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .diagnosis import Lateness, Spread, StageCost
from .timers import FIFO_PRIORITY

_BUSY_CORES = 0.15
"""Others' load, as a share of the usable cores, from which the figures are not those of an idle machine."""
_WORTH_IT, _WORTH_IT_MS = 0.75, 0.25
"""What falls to this share, or by so much, is worth a change."""


def advise(
    machine: Mapping[str, Any],
    threads: int,
    stages: Sequence[StageCost],
    lateness: Sequence[Lateness],
    collect_ms: float,
) -> tuple[str, ...]:
    """What to do, in the order of how much the figures above it depend on it."""
    ticks = {(row.threads, row.loaded): row.cost for row in stages if row.stage == "tick"}
    return (
        *_busy(machine),
        *_threads(ticks, threads),
        *_cores(machine, ticks, threads),
        *_scheduling(machine, lateness),
        *_governor(machine),
        *_collection(collect_ms),
    )


def _busy(machine: Mapping[str, Any]) -> Iterator[str]:
    cores, busy, average = machine["cores"], machine.get("busy_cores"), machine.get("load_average")
    found = []
    if busy is not None and busy > _BUSY_CORES * cores:
        found.append(f"other processes used {busy:.2f} of {cores} cores during the measurement")
    if average is not None and average > 0.5 * cores:
        found.append(f"the load average before it was {average:.2f}")
    if found:
        yield f"load: the machine was not idle ({'; '.join(found)}): measure again with nothing else running"


def _threads(ticks: Mapping[tuple[int, bool], Spread], threads: int) -> Iterator[str]:
    counts = sorted({count for count, _ in ticks})
    if len(counts) == 1:
        return
    compared = []
    for loaded in sorted({loaded for _, loaded in ticks}):
        costs = [ticks[count, loaded] for count in counts]
        figures = ", ".join(
            f"{cost.p50_ms:.1f} / {cost.p90_ms:.1f} ms with {count}" for count, cost in zip(counts, costs, strict=True)
        )
        compared.append(f"{figures} {'beside load' if loaded else 'idle'}")
    advice = f"threads: {threads} per graph. A full tick took, p50 / p90, {'; '.join(compared)}"
    if (threads, True) in ticks:
        best = min(counts, key=lambda count: ticks[count, True].p90_ms)
        if ticks[best, True].p90_ms < 0.95 * ticks[threads, True].p90_ms:
            advice += f". If the machine will be shared, pass threads={best}"
    yield advice


def _cores(machine: Mapping[str, Any], ticks: Mapping[tuple[int, bool], Spread], threads: int) -> Iterator[str]:
    cores, quota = machine["cores"], machine.get("cgroup_cores")
    if quota is not None and quota < cores:
        yield (
            f"cores: the container may use {quota:g} of {cores} cores on average and is stopped for the rest of each "
            "period when it uses more; raise the quota, or give it whole cores instead (a cpuset)"
        )
    idle, loaded = ticks[threads, False], ticks.get((threads, True))
    if loaded is not None and idle.p99_ms <= _WORTH_IT * loaded.p99_ms:
        change = f"cores: a full tick took {idle.p99_ms:.1f} ms idle and {loaded.p99_ms:.1f} ms beside load (p99)"
        if cores == 1:
            yield f"{change}, and there is one usable core: give the program one of its own"
        else:
            yield f"{change}: pin the program (`taskset -c`) to cores that other work is kept off (a cpuset, isolcpus)"


def _scheduling(machine: Mapping[str, Any], lateness: Sequence[Lateness]) -> Iterator[str]:
    own = machine.get("scheduling")
    if own in ("fifo", "rr"):
        yield f"scheduling: measured under SCHED_{own.upper()}; start the program in the same way{_throttling(machine)}"
        return
    worst = max((row for row in lateness if row.scheduling == "own"), key=lambda row: row.late.p99_ms)
    where = "beside load" if worst.loaded else "idle"
    late = (
        f"scheduling: a timed wait ended {worst.late.p99_ms:.2f} ms late (p99, {where}; worst {worst.late.max_ms:.2f})"
    )
    same = [row.late for row in lateness if row.scheduling == "fifo" and _where(row) == _where(worst)]
    chrt = f"`chrt -f {FIFO_PRIORITY}`"
    if not same:
        if own is not None:  # a system that has scheduling classes
            yield (
                f"{late}. Real-time scheduling is not permitted here: grant CAP_SYS_NICE, or `rtprio "
                f"{FIFO_PRIORITY}` in /etc/security/limits.conf, and measure again with {chrt} before this command"
            )
        return
    (fifo,) = same
    figures = f"{fifo.p99_ms:.2f} ms under SCHED_FIFO (worst {fifo.max_ms:.2f}), which is permitted here"
    if fifo.p99_ms <= worst.late.p99_ms - _WORTH_IT_MS:
        yield (
            f"{late}, {figures}: start the program with {chrt}, and this command too, to see what it does for the "
            f"ticks{_throttling(machine)}"
        )
    else:
        yield f"{late}, {figures} but gains little"


def _where(row: Lateness) -> tuple[str, bool]:
    return row.wait, row.loaded


def _throttling(machine: Mapping[str, Any]) -> str:
    share = machine.get("rt_share")
    if share is None or share >= 1:
        return ""
    return (
        f". It must sleep between ticks: real-time threads that take more than {share:.0%} of a core "
        f"are stopped for the rest of the second ({1000 * (1 - share):.0f} ms)"
    )


def _governor(machine: Mapping[str, Any]) -> Iterator[str]:
    slow = [name for name in machine.get("governors", ()) if name != "performance"]
    if slow:
        yield (
            f"frequency: the governor is {', '.join(slow)}: after each pause a core starts slow; "
            "try `cpupower frequency-set -g performance` and measure again"
        )


def _collection(collect_ms: float) -> Iterator[str]:
    if collect_ms >= 1.0:
        yield (
            f"garbage: a full collection took {collect_ms:.0f} ms in this process. A session never collects inside "
            "a tick, but between ticks your program may: gc.freeze() after loading makes it cheap"
        )
