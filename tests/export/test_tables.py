"""Tables of ticks: every column says what was played, or what drawing it again found out."""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest

from dsa_runtime import Box, MultiBinary, Recording, World, load_world
from dsa_runtime.export import export
from dsa_runtime.export.columns import columns
from tests.export.conftest import ACTIONS, play
from tests.tiny_world import write_tiny_world

DOCUMENT = Path(__file__).parents[2] / "docs" / "recordings.md"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_holds_what_was_played(tiny_world: World, recording: Recording, tmp_path: Path) -> None:
    calls: list[None] = []
    exported = export(tiny_world, recording, tmp_path / "t.csv", progress=lambda: calls.append(None))
    assert (exported.ticks, exported.same_frames, exported.size, len(calls)) == (10, 10, None, 10)
    rows = read(tmp_path / "t.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    assert list(rows[0]) == [column.name for column in columns(tiny_world.spec)]
    for index, (row, decision) in enumerate(zip(rows, recording.decisions, strict=True)):
        played = decision.played
        assert played is not None
        assert (int(row["tick"]), int(row["action"]), int(row["steps"])) == (index, ACTIONS[index], decision.steps)
        assert row["action_name"] == ("noop", "left", "right", "fire")[ACTIONS[index]]
        assert float(row["time_s"]) == index / 20
        assert (row["status"], row["stopped_by"], row["same_frame"]) == (played.status, "request", "true")
        assert float(row["confidence"]) == played.confidence == float(row[f"confidence_{decision.steps}"])
        assert float(row["total_ms"]) == played.total_ms
        assert float(row["slack_ms"]) == pytest.approx(1000 - played.total_ms)
        spent = [row[f"denoise_{k}_ms"] for k in range(1, 5)]
        assert [float(cost) for cost in spent if cost] == list(played.denoise_ms)
        assert [bool(cost) for cost in spent] == [k <= decision.steps for k in range(1, 5)]


def test_confidence_after_every_step_is_that_of_stopping_there(
    tiny_world: World, recording: Recording, tmp_path: Path
) -> None:
    export(tiny_world, recording, tmp_path / "t.csv")
    row = read(tmp_path / "t.csv")[3]  # the first with all four steps
    for steps in range(1, 5):
        with tiny_world.session(5) as session:
            for decision in recording.decisions[:3]:
                session.step(decision.action, math.inf, steps=decision.steps)
            tick = session.step(recording.decisions[3].action, math.inf, steps=steps)
        assert float(row[f"confidence_{steps}"]) == tick.confidence


def test_what_nobody_measured_is_empty(tiny_world: World, bare: Recording, tmp_path: Path) -> None:
    bare = dataclasses.replace(bare, decisions=[*bare.decisions[:4]])
    bare.decisions[2] = dataclasses.replace(bare.decisions[2], digest="0" * 32, threshold=None)
    exported = export(tiny_world, bare, tmp_path / "t.csv")
    assert (exported.ticks, exported.same_frames) == (4, 3)
    rows = read(tmp_path / "t.csv")
    assert [row["same_frame"] for row in rows] == ["true", "true", "false", "true"]
    assert rows[2]["threshold"] == "" and float(rows[1]["threshold"]) == 0.5
    for name in ("status", "stopped_by", "budget_ms", "wait_ms", "denoise_1_ms", "decode_ms", "total_ms"):
        assert {row[name] for row in rows} == {""}, name
    assert all(row["confidence"] for row in rows)


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (MultiBinary(2, ("left", "fire")), [1, 0], {"action.left": "1", "action.fire": "0"}),
        (Box((-1.0, 0.0), (1.0, 5.0), ("turn", "pull"), ("rad/s", "N")), [-0.5, 2.5],
         {"action.turn": "-0.5", "action.pull": "2.5"}),
    ],
)  # fmt: skip
def test_actions_by_name(space: Any, action: Any, expected: dict[str, str], tmp_path: Path) -> None:
    with load_world(write_tiny_world(tmp_path / "world", space), threads=1) as world:
        export(world, play(world, [action]), tmp_path / "t.csv")
        (row,) = read(tmp_path / "t.csv")
        assert {name: row[name] for name in expected} == expected
        units = {column.name: column.unit for column in columns(world.spec)}
    if isinstance(space, Box):
        assert (units["action.turn"], units["action.pull"]) == ("rad/s", "N")


def test_parquet_says_the_same_with_types_and_units(tiny_world: World, recording: Recording, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export(tiny_world, recording, tmp_path / "t.parquet")
    export(tiny_world, recording, tmp_path / "t.csv")
    table = parquet.read_table(tmp_path / "t.parquet")
    for column in columns(tiny_world.spec):
        field = table.schema.field(column.name)
        assert field.metadata[b"unit"].decode() == column.unit
        kind = {"int64": "int", "double": "float", "string": "text", "bool": "bool"}[str(field.type)]
        assert kind == column.kind
    assert table.schema.metadata[b"dsa.fingerprint"].decode() == tiny_world.spec.fingerprint
    for row, text in zip(table.to_pylist(), read(tmp_path / "t.csv"), strict=True):
        shown = {name: "" if value is None else str(value) for name, value in row.items()}
        assert shown == text | {"same_frame": text["same_frame"].capitalize()}


def test_every_column_is_documented(tiny_world: World) -> None:
    documented = set(re.findall(r"^\| `([^`]+)`", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE))
    known = {re.sub(r"_\d", "_k", column.name) for column in columns(tiny_world.spec)}
    assert known | {"action.NAME"} == documented
