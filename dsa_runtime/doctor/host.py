"""Host: what the operating system says about itself. What cannot be read is left out, never guessed."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from ..engine import available_cores

_CPU = Path("/sys/devices/system/cpu")
_KERNEL = Path("/proc/sys/kernel")
_CGROUP = Path("/sys/fs/cgroup")


def describe_host() -> dict[str, Any]:
    """Plain JSON values. Always there: `cores`; the others where the system has them.

    `cores`          usable by this process
    `cgroup_cores`   processor time that the container may use, in cores; absent without a limit
    `governors`      frequency governors of the usable cores
    `load_average`   runnable processes over the last minute
    `scheduling`     class of this process: `other`, `fifo`, `rr`, `batch`, `idle`, `unknown`
    `rt_share`       share of each second that real-time threads may take
    """
    facts: dict[str, Any] = {"cores": available_cores()}
    quota = _cgroup_cores()
    if quota is not None:
        facts["cgroup_cores"] = quota
    governors = sorted({text for core in usable_cores() if (text := _read(_governor(core)))})
    if governors:
        facts["governors"] = governors
    with contextlib.suppress(OSError, AttributeError):
        facts["load_average"] = round(os.getloadavg()[0], 2)
    own = scheduling()
    if own is not None:
        facts["scheduling"] = own
    share = _quota(
        f"{_read(Path('/proc/sys/kernel/sched_rt_runtime_us'))} {_read(Path('/proc/sys/kernel/sched_rt_period_us'))}"
    )
    if share is not None:
        facts["rt_share"] = share
    return facts


def scheduling() -> str | None:
    """The scheduling class of this process, as above; None where the system has none."""
    if not hasattr(os, "sched_getscheduler"):
        return None
    names = {getattr(os, f"SCHED_{name}"): name.lower() for name in ("OTHER", "FIFO", "RR", "BATCH", "IDLE")}
    return names.get(os.sched_getscheduler(0), "unknown")


class OtherLoad:
    """How many of the usable cores were kept busy by others since this was made."""

    def __init__(self) -> None:
        self._busy_s, self._own_s, self._started = _busy_s(), time.process_time(), time.perf_counter()

    def cores(self) -> float | None:
        """In cores; None where the system does not say."""
        busy_s, wall_s = _busy_s(), time.perf_counter() - self._started
        if busy_s is None or self._busy_s is None or wall_s <= 0:
            return None
        return round(max(busy_s - self._busy_s - (time.process_time() - self._own_s), 0.0) / wall_s, 2)


def usable_cores() -> list[int]:
    """Numbers of the cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _busy_s() -> float | None:
    """Processor seconds that the usable cores have worked since the system was started."""
    wanted = {f"cpu{core}" for core in usable_cores()}
    ticks = [
        sum(map(int, fields[1:4])) + sum(map(int, fields[6:9]))  # user, nice, system; irq, softirq, steal
        for fields in map(str.split, (_read(Path("/proc/stat")) or "").splitlines())
        if fields and fields[0] in wanted and len(fields) >= 9
    ]
    return sum(ticks) / os.sysconf("SC_CLK_TCK") if any(ticks) else None


def _cgroup_cores() -> float | None:
    """The tightest limit of the control groups that this process is in, in cores."""
    limits = []
    for line in (_read(Path("/proc/self/cgroup")) or "").splitlines():
        _, controllers, name = line.split(":", 2)
        inside = [Path(name.lstrip("/")), *Path(name.lstrip("/")).parents]
        for folder in inside:
            if not controllers:  # version 2
                limits.append(_quota(_read(_CGROUP / folder / "cpu.max")))
            elif "cpu" in controllers.split(","):
                home = _CGROUP / "cpu" / folder
                limits.append(_quota(f"{_read(home / 'cpu.cfs_quota_us')} {_read(home / 'cpu.cfs_period_us')}"))
    return min((limit for limit in limits if limit is not None), default=None)


def _quota(text: str | None) -> float | None:
    """`100000 50000` -> 2.0; None for no limit ("max ...", "-1 ...") and for anything else."""
    try:
        allowed, period = map(int, (text or "").split())
    except ValueError:
        return None
    return round(allowed / period, 3) if allowed > 0 and period > 0 else None


def _governor(core: int) -> Path:
    return _CPU / f"cpu{core}" / "cpufreq" / "scaling_governor"


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
