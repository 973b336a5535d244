"""Quality: which bound answers a promise, what a world loaded with one does, and what it says when it cannot."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsa_runtime import Controller, Quality, QualityError, RiskBound, WorldError, WorldSpec, cli, load_world
from dsa_runtime.commands.arguments import quality_document
from dsa_runtime.commands.bench import bench_text
from dsa_runtime.spec import CheckedRisk
from tests.tiny_world import edit_spec, write_tiny_world

DELTA = 0.05
NO_LIMIT = math.inf


def bound(alpha: float, threshold: float, mean_steps: float, delta: float = DELTA) -> dict[str, Any]:
    return {
        "alpha": alpha, "delta": delta, "threshold": threshold, "mean_steps": mean_steps, "violation": alpha / 2,
        "rollouts": 384, "recordings": 2, "p_value": 0.01,
        "checked": {
            "violation": alpha / 2, "interval": [0.0, alpha], "rollouts": 384, "recordings": 4, "mean_steps": mean_steps
        },
    }  # fmt: skip


BOUNDS = [
    bound(0.01, 1.0, 4.0), bound(0.05, 0.6, 3.0), bound(0.1, 0.4, 2.0),
    bound(0.01, 0.7, 3.2, 2 * DELTA), bound(0.1, 0.3, 1.5, 2 * DELTA),
]  # fmt: skip


def promising(document: dict[str, Any]) -> None:
    document["calibration"]["bounds"] = BOUNDS
    for curve in document["calibration"]["within_delta"]:
        curve["value"] = [0.0, 0.99]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny world whose calibration has bounds."""
    folder = write_tiny_world(tmp_path_factory.mktemp("quality") / "tiny")
    edit_spec(folder, promising)
    return folder


@pytest.fixture(scope="module")
def spec(package: Path) -> WorldSpec:
    return WorldSpec.from_json((package / "world.json").read_text())


@pytest.mark.parametrize(
    ("quality", "alpha", "delta", "threshold"),
    [
        (0.05, 0.05, DELTA, 0.6),
        (0.07, 0.05, DELTA, 0.6),  # implied by a stricter promise
        (0.01, 0.01, DELTA, 1.0),
        (Quality(0.5), 0.1, DELTA, 0.4),
        (Quality(), 0.05, DELTA, 0.6),
        (Quality(0.1, 2 * DELTA), 0.1, 2 * DELTA, 0.3),
        (Quality(0.05, 2 * DELTA), 0.05, DELTA, 0.6),  # cheaper than .01 at 2 delta, and implies it too
        (Quality(0.02, 1.5 * DELTA), 0.01, DELTA, 1.0),
    ],
)
def test_the_cheapest_bound_that_implies_the_promise(
    spec: WorldSpec, quality: Quality | float, alpha: float, delta: float, threshold: float
) -> None:
    found = Quality.of(quality).bound(spec)
    assert (found.alpha, found.delta, found.threshold) == (alpha, delta, threshold)


def test_what_is_not_promised_is_refused_with_what_is(spec: WorldSpec, package: Path) -> None:
    with pytest.raises(QualityError, match=r"tiny 0\.0\.1 promises nothing as strict as alpha = 0\.005 within delta"):
        load_world(package, quality=0.005)
    with pytest.raises(QualityError) as caught:
        Quality(0.1, DELTA / 2).bound(spec)
    assert "alpha = 0.01, 0.05, 0.1 within delta = 0.05; alpha = 0.01, 0.1 within delta = 0.1" in str(caught.value)


def test_a_world_without_bounds_says_so(tiny_package: Path) -> None:
    with pytest.raises(QualityError, match="comes without risk bounds; leave quality out"):
        load_world(tiny_package, quality=0.05)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, math.nan, True, "0.05", None])
def test_bad_alphas(alpha: Any) -> None:
    with pytest.raises(QualityError, match=r"^quality\.alpha: "):
        Quality(alpha)


@pytest.mark.parametrize("delta", [0, -1.0, math.inf, math.nan, True, "5"])
def test_bad_deltas(delta: Any) -> None:
    with pytest.raises(QualityError, match=r"^quality\.delta: "):
        Quality(0.05, delta)


def test_sessions_obey_the_threshold_of_the_promise(package: Path) -> None:
    with load_world(package, threads=1, quality=0.05) as world:
        assert world.quality == world.spec.calibration.bounds[1]
        with world.session(3) as session:
            ticks = [session.step(tick % 4, NO_LIMIT) for tick in range(12)]
            assert {tick.threshold for tick in ticks} == {0.6}
            assert all(tick.confidence >= 0.6 for tick in ticks)
            assert any(tick.stopped_by == "confidence" for tick in ticks)
            session.controller = Controller(min_steps=2)
            assert session.step(0, NO_LIMIT).threshold == 0.6


def test_what_is_said_outright_wins(package: Path) -> None:
    with load_world(package, threads=1, quality=0.05) as world:
        with world.session(3, threshold=0.2) as session:
            assert session.step(1, NO_LIMIT).threshold == 0.2
        with world.session(3, controller=Controller(threshold=0.3)) as session:
            assert session.step(1, NO_LIMIT).threshold == 0.3
        with world.session(3, controller=Controller(target_steps=2.0)) as session:
            assert session.controller.threshold is None
        with world.session(3, controller=Controller(policy="fixed")) as session:
            assert session.step(1, NO_LIMIT).steps == 4


def test_the_full_schedule_where_nothing_cheaper_passed(package: Path) -> None:
    with load_world(package, threads=1, quality=0.01) as world, world.session(3) as session:
        assert {session.step(tick % 4, NO_LIMIT).steps for tick in range(12)} == {4}


def test_a_snapshot_takes_the_promise_with_it(package: Path) -> None:
    """Also to where the world was loaded without one: the restored session draws the same frames."""
    with load_world(package, threads=1, quality=0.1) as world, world.session(3) as session:
        session.step(1, NO_LIMIT)
        snapshot = session.snapshot()
        frames = [session.step(tick % 4, NO_LIMIT) for tick in range(8)]
    with load_world(package, threads=1) as world, world.session(0) as session:
        assert world.quality is None
        session.restore(snapshot)
        for tick, frame in enumerate(frames):
            again = session.step(tick % 4, NO_LIMIT)
            assert (again.threshold, again.steps) == (0.4, frame.steps)
            assert (again.pixels == frame.pixels).all()


def test_a_tick_that_its_budget_cut_short_says_so(package: Path) -> None:
    with load_world(package, threads=1, quality=0.01) as world, world.session(3) as session:
        tick = session.step(1, 1e-3)
    assert tick.stopped_by in ("budget", "deadline") and tick.confidence < 1.0 == tick.threshold


def test_the_spec_keeps_bounds(spec: WorldSpec) -> None:
    assert WorldSpec.from_json(spec.to_json()) == spec
    first = spec.calibration.bounds[0]
    assert first == RiskBound(0.01, DELTA, 1.0, 4.0, 0.005, 384, 2, 0.01, CheckedRisk(0.005, (0.0, 0.01), 384, 4, 4.0))


def test_a_world_of_before_bounds_still_loads(package: Path, spec: WorldSpec) -> None:
    document = json.loads((package / "world.json").read_text())
    del document["calibration"]["bounds"]
    read = WorldSpec.from_json(json.dumps(document))
    assert read.calibration == replace(spec.calibration, bounds=())


def test_a_threshold_by_hand_leaves_no_promise_to_report(package: Path) -> None:
    with load_world(package, threads=1, quality=0.1) as world:
        assert quality_document(world, None) is not None
        assert quality_document(world, 0.2) is None


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(calibration: dict[str, Any]) -> None:
        target: Any = calibration
        for name in path[:-1]:
            target = target[name]
        target[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (put("bounds", value={}), "bounds: expected an array"),
        (put("bounds", 0, "alpha", value=1.0), "bounds[0].alpha:"),
        (put("bounds", 0, "alpha", value="5 %"), "bounds[0].alpha: expected a number"),
        (put("bounds", 1, "delta", value=0), "bounds[1].delta:"),
        (put("bounds", 1, "threshold", value=1.01), "bounds[1].threshold:"),
        (put("bounds", 1, "mean_steps", value=0.5), "bounds[1].mean_steps:"),
        (put("bounds", 1, "violation", value=0.06), "bounds[1].violation:"),  # it broke its own test
        (put("bounds", 1, "p_value", value=-1), "bounds[1].p_value:"),
        (put("bounds", 1, "p_value", value=0.06), "bounds[1].p_value: must lie in [0, 0.05]"),  # it never passed
        (put("bounds", 1, "recordings", value=-1), "bounds[1].recordings:"),
        (put("bounds", 1, "checked", "recordings", value=-1), "bounds[1].checked.recordings:"),
        (put("bounds", 1, "rollouts", value=1.5), "bounds[1].rollouts: expected an integer"),
        (put("bounds", 1, "surprise", value=1), "bounds[1].surprise: unknown"),
        (put("bounds", 1, "checked", "violation", value=2), "bounds[1].checked.violation:"),
        (put("bounds", 1, "checked", "interval", value=[0.2, 0.3]), "bounds[1].checked.interval:"),
        (put("bounds", 1, "checked", "interval", value=[0.0]), "bounds[1].checked.interval: expected 2 items"),
        (put("bounds", 1, "checked", "rollouts", value=-1), "bounds[1].checked.rollouts:"),
        (put("bounds", 1, value=bound(0.01, 0.5, 2.0)), "bounds: alpha and delta"),
        (put("within_delta", 2, "value", value=[0.0, 1.0]), "within_delta: with bounds"),
    ],
)  # fmt: skip
def test_errors_in_bounds_name_the_field(package: Path, edit: Callable[[dict[str, Any]], None], field: str) -> None:
    document = json.loads((package / "world.json").read_text())
    edit(document["calibration"])
    with pytest.raises(WorldError) as caught:
        WorldSpec.from_json(json.dumps(document))
    assert str(caught.value).startswith(f"world.json.calibration.{field}")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_info_lists_the_bounds(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(run(capsys, "info", package, "--json"))["bounds"] == BOUNDS
    text = run(capsys, "info", package)
    assert "alpha 0.05, delta 0.05: threshold 0.60, 3.00 steps, found 2.50% (0.00% to 5.00%)" in text


def test_demo_and_bench_keep_a_quality(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--world", package, "--ticks", 5, "--threads", 1, "--json")
    demo = json.loads(run(capsys, "demo", *common, "--quality", 0.05, "--out", tmp_path / "out"))
    assert demo["quality"]["alpha"] == 0.05 and set(demo["per_tick"]["threshold"]) == {0.6}
    bench = json.loads(run(capsys, "bench", *common, "--quality", 0.1))
    assert (bench["threshold"], bench["quality"]["threshold"]) == (0.4, 0.4)
    promise = "at most 0.1 of the frames further than 0.05 from the full schedule's (threshold 0.40; found 5.00%"
    assert promise in bench_text(bench)
    assert cli.main(["bench", "--world", str(package), "--quality", "0.001"]) == 2
    assert "it offers alpha = 0.01, 0.05, 0.1" in capsys.readouterr().err
