"""The doctor: arithmetic of its verdicts, its document, its advice, and a short examination of the tiny world."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsa_runtime import Controller, DiagnosisError, DsaError, World, load_world
from dsa_runtime.doctor import Diagnosis, examine, host, timers
from dsa_runtime.doctor.advice import advise
from dsa_runtime.doctor.diagnosis import Lateness, Spread, StageCost
from dsa_runtime.doctor.load import busy_processes
from dsa_runtime.doctor.verdicts import (
    TickCost,
    choose_threads,
    guard_ms,
    judge,
    lower_bound,
    rates,
    ticks_to_prove,
)
from dsa_runtime.engine import available_cores
from tests.tiny_world import write_tiny_world

TICK = TickCost(denoise=(4.0, 4.0, 4.0), decode=2.0, sdk=1.0, commit=3.0)  # 10, 14 or 18 ms
HUGE = dataclasses.replace(TICK, decode=500.0)


@pytest.fixture(scope="module")
def diagnosis(tiny_world: World) -> Diagnosis:
    """A very short examination of the tiny world, idle and beside load."""
    return examine(tiny_world, ticks=12, waits=3)


# Verdicts


@pytest.mark.parametrize(
    ("rate_hz", "guard", "holds"),
    [(50, 2.0, 3), (50, 2.1, 2), (60, 0.0, 2), (60, 3.0, 1), (120, 0.0, 0), (1000 / 14, 0.0, 2)],
)
def test_the_commit_and_the_guard_count_against_the_period(rate_hz: float, guard: float, holds: int) -> None:
    verdict = judge([TICK] * 5, rate_hz, guard, loaded=False)
    assert verdict.holds == holds
    assert [fit.fitting for fit in verdict.fits] == [5 if steps <= holds else 0 for steps in (1, 2, 3)]


@pytest.mark.parametrize(("misses", "holds"), [(0, 3), (1, 3), (2, 0)])
def test_a_rate_holds_with_at_most_one_miss_in_a_thousand(misses: int, holds: int) -> None:
    verdict = judge([HUGE] * misses + [TICK] * (1000 - misses), 50, 0.0, loaded=True)
    assert (verdict.ticks, verdict.loaded, verdict.holds) == (1000, True, holds)
    assert verdict.fits[2].share == 1 - misses / 1000


def test_a_single_late_step_costs_only_the_counts_that_include_it() -> None:
    slow_third = TickCost((4.0, 4.0, 40.0), 2.0, 1.0, 3.0)
    verdict = judge([TICK, slow_third], 50, 0.0, loaded=False)
    assert [fit.fitting for fit in verdict.fits] == [2, 2, 1]
    assert verdict.holds == 2


@pytest.mark.parametrize("ticks", [1, 60, 1000])
def test_without_a_miss_the_bound_is_the_exact_one(ticks: int) -> None:
    assert lower_bound(ticks, ticks) == pytest.approx(0.05 ** (1 / ticks), abs=1e-9)


@pytest.mark.parametrize(
    ("fitting", "ticks", "expected"),  # scipy.stats.beta.ppf(0.05, fitting, ticks - fitting + 1)
    [(9, 10, 0.6058367), (99, 100, 0.9534402), (999, 1000, 0.9952650), (141, 250, 0.5100481), (5, 250, 0.0079129)],
)
def test_with_misses_it_is_that_of_clopper_and_pearson(fitting: int, ticks: int, expected: float) -> None:
    assert lower_bound(fitting, ticks) == pytest.approx(expected, abs=1e-6)


def test_nothing_seen_bounds_nothing() -> None:
    assert lower_bound(0, 100) == 0.0


def test_ticks_to_prove_is_the_smallest_number() -> None:
    needed = ticks_to_prove(0.999)
    assert lower_bound(needed, needed) >= 0.999 > lower_bound(needed - 1, needed - 1)


def test_rates_hold_the_native_one_once() -> None:
    assert rates(17.5)[0] == 17.5
    assert rates(30.0) == (20.0, 24.0, 30.0, 50.0, 60.0, 120.0)
    assert rates(30.0001).count(30.0) == 0 and len(rates(30.0001)) == 6


@pytest.mark.parametrize(
    ("costs", "threads"), [({1: 10.0, 2: 9.8, 4: 20.0}, 1), ({1: 10.0, 2: 7.0, 4: 6.9}, 2), ({3: 1.0}, 3)]
)
def test_more_threads_have_to_earn_it(costs: dict[int, float], threads: int) -> None:
    assert choose_threads(costs) == threads


@pytest.mark.parametrize(
    ("late", "period", "guard"), [(0.1, 50.0, 0.5), (1.23, 50.0, 1.3), (1.3, 50.0, 1.3), (9.0, 50.0, 5.0), (9, 2, 0.5)]
)
def test_the_guard_covers_the_lateness_within_reason(late: float, period: float, guard: float) -> None:
    assert guard_ms(late, period) == pytest.approx(guard)


def test_a_spread_is_by_nearest_rank() -> None:
    spread = Spread.of([float(value) for value in range(1000, 0, -1)])
    assert spread == Spread(1000, 500.0, 900.0, 990.0, 999.0, 1000.0)
    assert Spread.of([2.0]) == Spread(1, 2.0, 2.0, 2.0, 2.0, 2.0)


# The examination


def test_an_examination_measures_every_thread_count_in_both_conditions(diagnosis: Diagnosis) -> None:
    cores = available_cores()
    counts = {1, max(cores - 1, 1), cores}
    rows = {(row.threads, row.loaded, row.stage): row.cost for row in diagnosis.stages}
    stages = ("denoise 1", "denoise 2", "denoise 3", "denoise 4", "decode", "sdk", "commit", "tick")
    assert set(rows) == {(count, loaded, stage) for count in counts for loaded in (False, True) for stage in stages}
    assert {cost.samples for cost in rows.values()} == {12}
    assert all(cost.p50_ms > 0 for cost in rows.values())
    tick, parts = rows[1, False, "tick"], [rows[1, False, stage] for stage in stages[:-1]]
    assert max(part.max_ms for part in parts) < tick.max_ms <= sum(part.max_ms for part in parts) + 1e-3


def test_an_examination_judges_every_rate_in_both_conditions(diagnosis: Diagnosis, tiny_world: World) -> None:
    judged = [(verdict.loaded, verdict.rate_hz) for verdict in diagnosis.verdicts]
    assert judged == [(loaded, rate) for loaded in (False, True) for rate in rates(tiny_world.spec.frame.fps)]
    assert {verdict.ticks for verdict in diagnosis.verdicts} == {12}
    assert diagnosis.threads in {row.threads for row in diagnosis.stages}
    assert {(row.wait, row.loaded) for row in diagnosis.lateness if row.scheduling == "own"} == {
        (wait, loaded) for wait in ("sleep", "lock") for loaded in (False, True)
    }
    assert {row.late.samples for row in diagnosis.lateness} == {3}


def test_without_load_nothing_is_said_about_it(tiny_world: World) -> None:
    diagnosis = examine(tiny_world, ticks=2, waits=1, load=False, machine={"cpu": "a test"})
    assert not any(row.loaded for row in (*diagnosis.stages, *diagnosis.lateness, *diagnosis.verdicts))
    assert diagnosis.machine["cpu"] == "a test"


def test_progress_rises_to_its_total(tiny_world: World) -> None:
    seen: list[tuple[str, int, int]] = []
    examine(tiny_world, ticks=130, waits=2, load=False, progress=lambda *step: seen.append(step))
    done = [step[1] for step in seen]
    assert done == sorted(done) and done[-1] == seen[-1][2]
    assert len({step[2] for step in seen}) == 1


def test_a_session_starts_from_a_diagnosis(tiny_package: Path, diagnosis: Diagnosis) -> None:
    diagnosis = dataclasses.replace(
        diagnosis, threads=1, guard_ms=2.5, costs={"denoise 1": (50.0,) * 100, "decode": (30.0,) * 100}
    )
    with load_world(tiny_package) as world, world.session(0, diagnosis=diagnosis, threshold=1.0) as session:
        assert session.controller == Controller(guard_ms=2.5, threshold=1.0)
        assert session._runtime.engine.threads == 1
        assert session.step(0, 60.0).stopped_by == "budget"  # 50 + 30 would not fit, it was told
        with world.session(0, threshold=1.0) as unprepared:
            assert unprepared.step(0, 60.0).steps == world.spec.schedule.steps


def test_what_the_caller_says_comes_before_the_diagnosis(tiny_world: World, diagnosis: Diagnosis) -> None:
    controller = Controller(guard_ms=0.25)
    with tiny_world.session(0, diagnosis=diagnosis, controller=controller, threads=1) as session:
        assert session.controller == controller
        assert session._runtime.engine.threads == 1


# The document


def test_the_document_survives_a_round_trip(diagnosis: Diagnosis, tmp_path: Path) -> None:
    assert Diagnosis.from_json(diagnosis.to_json()) == diagnosis
    diagnosis.save(tmp_path / "found.json")
    assert Diagnosis.load(tmp_path / "found.json") == diagnosis


def _cut(document: dict[str, Any]) -> None:
    del document["verdicts"][0]["fits"][1]["share"]


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        (lambda d: d.update(format="other"), "format"),
        (lambda d: d.update(format_version=2), "format_version"),
        (lambda d: d.pop("threads"), "threads: missing"),
        (lambda d: d.update(threads=0), "threads: must be at least 1"),
        (lambda d: d.update(threads="2"), "threads: expected an integer"),
        (lambda d: d.update(guard_ms=-1), "guard_ms"),
        (lambda d: d.update(mood="good"), "mood: unknown field"),
        (lambda d: d["costs"].update(decode=[1.0, -1.0]), "costs.decode"),
        (lambda d: d["machine"].pop("cores"), "machine.cores"),
        (_cut, r"verdicts\[0\]\.fits\[1\]\.share: missing"),
    ],
)
def test_a_damaged_document_is_refused_by_field(
    diagnosis: Diagnosis, damage: Callable[[dict[str, Any]], object], field: str
) -> None:
    document = json.loads(diagnosis.to_json())
    damage(document)
    with pytest.raises(DiagnosisError, match=f"robot.json.*{field}"):
        Diagnosis.from_json(json.dumps(document), "robot.json")


@pytest.mark.parametrize("text", ["", "[]", '{"threads": NaN}', "{"])
def test_what_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(DsaError, match=r"robot\.json"):
        Diagnosis.from_json(text, "robot.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiagnosisError, match=r"nowhere\.json"):
        Diagnosis.load(tmp_path / "nowhere.json")


def test_a_diagnosis_of_another_world_is_refused(diagnosis: Diagnosis, tiny_world: World, tmp_path: Path) -> None:
    diagnosis.check(tiny_world.spec, "plain")
    with load_world(write_tiny_world(tmp_path / "other", window=4, name="other"), threads=1) as other:
        with pytest.raises(DiagnosisError, match=r"world\.fingerprint: made with tiny .* this is other"):
            diagnosis.check(other.spec, "plain")
        with pytest.raises(DiagnosisError, match=r"world\.fingerprint"):
            other.session(diagnosis=diagnosis)


def test_a_diagnosis_of_a_machine_with_other_cores_is_refused(diagnosis: Diagnosis, tiny_world: World) -> None:
    cores = available_cores()
    elsewhere = dataclasses.replace(diagnosis, machine={**diagnosis.machine, "cores": cores + 1})
    with pytest.raises(DiagnosisError, match=rf"machine\.cores: made with {cores + 1} usable cores, here are {cores}"):
        elsewhere.check(tiny_world.spec, "plain")


def test_a_diagnosis_of_the_other_form_is_refused(diagnosis: Diagnosis, tiny_world: World) -> None:
    with pytest.raises(DiagnosisError, match=r"world\.form: made in the plain form, this world runs in the op form"):
        diagnosis.check(tiny_world.spec, "op")


# Busy processes


def _runs(pid: int) -> bool:
    """Whether a process exists and has not ended (a zombie whose new parent is slow to look has)."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:
        return not Path("/proc/self").exists()


def test_busy_processes_run_inside_the_block_and_are_reaped_after_it() -> None:
    with busy_processes(2) as pids:
        assert len(set(pids)) == 2
        assert all(map(_runs, pids))
    for pid in pids:
        with pytest.raises(ProcessLookupError):  # reaped, not even a zombie
            os.kill(pid, 0)


def test_busy_processes_end_when_the_block_raises() -> None:
    with pytest.raises(KeyboardInterrupt), busy_processes(1) as pids:
        raise KeyboardInterrupt
    assert not any(map(_runs, pids))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_busy_processes_end_with_a_parent_that_is_killed() -> None:
    script = (
        "import sys, time; from dsa_runtime.doctor.load import busy_processes\n"
        "with busy_processes(2) as pids: print(*pids, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(map(_runs, pids))
        parent.kill()
    patience = time.monotonic() + 60
    while any(map(_runs, pids)) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not any(map(_runs, pids))


def test_an_examination_that_fails_leaves_no_process(tiny_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    def stop(doing: str, done: int, total: int) -> None:
        if doing.startswith("threads=1 beside"):
            raise RuntimeError("stop")

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    with pytest.raises(RuntimeError, match="stop"):
        examine(tiny_world, ticks=2, waits=1, progress=stop)
    assert len(started) >= available_cores()
    assert all(process.returncode is not None for process in started)


# Timers and host


def test_waits_are_never_early_and_counted() -> None:
    late_ms = timers.measure(4)
    assert {kind: len(values) for kind, values in late_ms.items()} == {"sleep": 4, "lock": 4}
    assert all(value >= 0 for values in late_ms.values() for value in values)


def test_real_time_scheduling_is_measured_elsewhere_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None
    late_ms = timers.measure_fifo(2)
    assert late_ms is None or {kind: len(values) for kind, values in late_ms.items()} == {"sleep": 2, "lock": 2}
    if before is not None:
        assert os.sched_getscheduler(0) == before
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert timers.measure_fifo(2) is None


@pytest.mark.parametrize(
    ("text", "cores"),
    [("150000 100000", 1.5), ("max 100000", None), ("-1 100000", None), ("", None), (None, None), ("x", None)],
)
def test_a_quota_is_read_or_left_out(text: str | None, cores: float | None) -> None:
    assert host._quota(text) == cores


@pytest.mark.parametrize(
    "files",
    [
        {"/proc/self/cgroup": "0::/pod/robot", "/sys/fs/cgroup/pod/cpu.max": "50000 100000",
         "/sys/fs/cgroup/pod/robot/cpu.max": "max 100000"},
        {"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "50000 100000"},
        {"/proc/self/cgroup": "4:memory:/m\n1:cpu,cpuacct:/", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
         "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
    ],
)  # fmt: skip
def test_the_tightest_quota_of_all_groups_counts(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_read", lambda path: files.get(path.as_posix()))
    assert host.describe_host()["cgroup_cores"] == 0.5


def test_what_cannot_be_read_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_read", lambda path: None)
    facts = host.describe_host()
    assert facts["cores"] == available_cores()
    assert not {"cgroup_cores", "governors", "rt_share"} & set(facts)
    assert host.OtherLoad().cores() is None


# Advice


def _spread(p99_ms: float) -> Spread:
    return Spread(100, p99_ms / 2, p99_ms * 0.9, p99_ms, p99_ms, p99_ms)


def _advice(
    machine: dict[str, Any] | None = None,
    ticks: dict[tuple[int, bool], float] | None = None,
    waits: dict[tuple[str, bool], float] | None = None,
    collect_ms: float = 0.0,
) -> str:
    """The advice on 1 thread, from p99 of full ticks by (threads, loaded) and of waits by (scheduling, loaded)."""
    stages = [
        StageCost(threads, loaded, "tick", _spread(cost))
        for (threads, loaded), cost in (ticks or {(1, False): 10.0}).items()
    ]
    lateness = [
        Lateness("lock", scheduling, loaded, _spread(late))
        for (scheduling, loaded), late in (waits or {("own", False): 0.1}).items()
    ]
    facts = {"cores": 2, "scheduling": "other", **(machine or {})}
    return "\n".join(advise(facts, 1, stages, lateness, collect_ms))


CALM = _advice(waits={("own", False): 0.12, ("fifo", False): 0.12})


def test_a_calm_machine_gets_no_orders() -> None:
    assert "gains little" in CALM
    for word in ("load:", "threads:", "cores:", "chrt", "frequency", "garbage"):
        assert word not in CALM


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"machine": {"load_average": 1.9}}, ("load:", "1.90", "measure again")),
        ({"machine": {"busy_cores": 0.8}}, ("load:", "0.80 of 2 cores")),
        ({"machine": {"cgroup_cores": 1.5}}, ("cores:", "1.5 of 2 cores")),
        ({"machine": {"governors": ["powersave"]}}, ("frequency:", "powersave")),
        ({"machine": {"scheduling": "fifo"}}, ("measured under SCHED_FIFO",)),
        ({"collect_ms": 40.0}, ("garbage:", "40 ms", "gc.freeze()")),
        ({"waits": {("own", True): 8.0}}, ("8.00 ms", "not permitted", "rtprio 50", "CAP_SYS_NICE")),
        ({"waits": {("own", True): 8.0, ("fifo", True): 0.1}}, ("8.00 ms", "0.10 ms under SCHED_FIFO", "chrt -f 50")),
        (
            {"waits": {("own", True): 8.0, ("fifo", True): 0.1}, "machine": {"rt_share": 0.95}},
            ("must sleep between ticks", "95%", "50 ms"),
        ),
        ({"ticks": {(1, False): 10.0, (1, True): 30.0}}, ("cores:", "10.0 ms idle and 30.0 ms", "taskset")),
        ({"ticks": {(1, False): 10.0, (1, True): 30.0}, "machine": {"cores": 1}}, ("one usable core",)),
        ({"ticks": {(1, False): 10.0, (2, False): 14.0}}, ("threads: 1", "9.0 ms with 1", "12.6 ms with 2")),
        (
            {"ticks": {(1, False): 10.0, (2, False): 14.0, (1, True): 30.0, (2, True): 20.0}},
            ("If the machine will be shared, pass threads=2",),
        ),
    ],
)
def test_advice_names_what_was_found(found: dict[str, Any], words: tuple[str, ...]) -> None:
    advice = _advice(**found)
    for word in words:
        assert word in advice
        assert word not in CALM
