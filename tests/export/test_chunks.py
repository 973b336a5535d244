"""Worlds whose tick is a chunk of pictures: films and logs have all of them, tables a row per tick."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsa_runtime import Recording, World, load_world
from dsa_runtime.export import export
from dsa_runtime.report.palette import step_colour
from tests.chunk_world import PICTURES, PROMPTS, write_chunk_world
from tests.export.test_films import frames_of, near

STEPS = [1, 4, 2, 3, 4]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with load_world(write_chunk_world(tmp_path_factory.mktemp("worlds") / "chunks"), threads=1) as world:
        yield world


@pytest.fixture(scope="module")
def played(world: World) -> tuple[Recording, np.ndarray]:
    """A recording that begins with the second prompt and goes on with the first, and its pictures."""
    with world.session(5, record=True, prompt=PROMPTS[1]) as session:
        frames = []
        for index, steps in enumerate(STEPS):
            if index == 3:
                session.set_prompt(PROMPTS[0])
            frames.append(session.step(index % 4, math.inf, steps=steps).frames)
        assert session.recording is not None
        return session.recording, np.concatenate(frames)


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_film_shows_every_picture_for_its_time(
    world: World, played: tuple[Recording, np.ndarray], tmp_path: Path, suffix: str
) -> None:
    recording, pictures = played
    exported = export(world, recording, tmp_path / f"film{suffix}")
    assert (exported.ticks, exported.same_frames) == (len(STEPS), len(STEPS))
    frames = frames_of(tmp_path / f"film{suffix}")
    assert len(frames) == len(pictures) == len(STEPS) * PICTURES
    for index, (frame, picture) in enumerate(zip(frames, pictures, strict=True)):
        blocks = frame[:384].reshape(8, 48, 8, 64, 3)[:, 12:36, :, 16:48].mean(axis=(1, 3))
        np.testing.assert_allclose(blocks, picture, atol=10)
        assert near(frame[384:], step_colour(STEPS[index // PICTURES], 4)) > 20, "the read-out of its tick"
    if suffix == ".gif":
        with Image.open(tmp_path / "film.gif") as film:
            total = 0
            for index in range(len(frames)):
                film.seek(index)
                total += film.info["duration"]
        assert total == pytest.approx(len(STEPS) * world.spec.frame.period_ms, abs=5)
    else:
        av = pytest.importorskip("av")
        with av.open(str(tmp_path / "film.mp4")) as container:
            assert container.streams.video[0].average_rate == 16


def test_a_table_has_a_row_per_tick(world: World, played: tuple[Recording, np.ndarray], tmp_path: Path) -> None:
    export(world, played[0], tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["time_s"]) for row in rows] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [int(row["steps"]) for row in rows] == STEPS
    assert {row["same_frame"] for row in rows} == {"true"}, "of all its pictures, with the prompt of its time"


def test_a_log_has_every_picture_at_its_time(
    world: World, played: tuple[Recording, np.ndarray], tmp_path: Path
) -> None:
    chunk = pytest.importorskip("rerun.chunk", reason="rerun-sdk is not installed")
    export(world, played[0], tmp_path / "t.rrd")
    rows: dict[str, int] = {}
    ticks: list[int] = []
    times: list[float] = []
    for part in chunk.RrdReader(tmp_path / "t.rrd").stream():
        if not part.is_static:
            rows[part.entity_path] = rows.get(part.entity_path, 0) + part.num_rows
        if part.entity_path == "/frame":
            batch = part.to_record_batch()
            ticks += batch.column("tick").to_pylist()
            times += [time.total_seconds() for time in batch.column("time").to_pylist()]
    assert (rows["/frame"], rows["/decision/steps"]) == (len(STEPS) * PICTURES, len(STEPS))
    assert ticks == [place // PICTURES for place in range(len(STEPS) * PICTURES)]
    np.testing.assert_allclose(times, np.arange(len(STEPS) * PICTURES) / 16, atol=1e-6)
