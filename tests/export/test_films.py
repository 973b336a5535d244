"""Films: every tick's own picture at the world's rate, the read-out under it, and no half file."""

from __future__ import annotations

import dataclasses
import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dsa_runtime import Box, DsaError, Recording, World, load_world
from dsa_runtime.errors import RecordingError
from dsa_runtime.export import check, export, write
from dsa_runtime.replay import replay
from dsa_runtime.report.palette import ALARM, TEXT, step_colour
from dsa_runtime.report.pictures import Pictures
from dsa_runtime.report.play import Play
from tests.export.conftest import play
from tests.tiny_world import write_tiny_world


def frames_of(path: Path) -> list[np.ndarray]:
    """`uint8[H, W, 3]` each."""
    if path.suffix == ".gif":
        with Image.open(path) as film:
            frames = []
            for index in range(film.n_frames):  # type: ignore[attr-defined]
                film.seek(index)
                frames.append(np.asarray(film.convert("RGB")))
            return frames
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def near(frame: np.ndarray, colour: tuple[int, int, int], tolerance: int = 24) -> int:
    """How many pixels have about this colour."""
    return int((np.abs(frame.astype(int) - colour).max(axis=-1) <= tolerance).sum())


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
@pytest.mark.parametrize("known", [True, False])
def test_a_film_shows_every_tick(
    tiny_world: World, recording: Recording, bare: Recording, tmp_path: Path, suffix: str, known: bool
) -> None:
    path = tmp_path / f"film{suffix}"
    exported = export(tiny_world, recording if known else bare, path)
    assert (exported.ticks, exported.same_frames, exported.size) == (10, 10, (512, 488))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    frames = frames_of(path)
    assert [frame.shape for frame in frames] == [(488, 512, 3)] * 10
    for frame, tick in zip(frames, replay(tiny_world, recording), strict=True):
        blocks = frame[:384].reshape(8, 48, 8, 64, 3)[:, 12:36, :, 16:48].mean(axis=(1, 3))
        # MP4 has half the resolution in colour, GIF a palette.
        np.testing.assert_allclose(blocks, tick.pixels, atol=10)
        assert near(frame[384:], step_colour(tick.steps, 4)) > 20


def test_it_runs_at_the_rate_of_the_world(tiny_world: World, recording: Recording, tmp_path: Path) -> None:
    export(tiny_world, recording, tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.info["loop"] == 0
        total = 0
        for index in range(10):
            film.seek(index)
            total += film.info["duration"]
    assert total == pytest.approx(10 * tiny_world.spec.frame.period_ms, abs=5)
    av = pytest.importorskip("av")
    export(tiny_world, recording, tmp_path / "film.mp4")
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert container.streams.video[0].average_rate == 20
        assert container.streams.video[0].codec_context.name == "h264"


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_plain_and_scaled(tiny_world: World, recording: Recording, tmp_path: Path, suffix: str) -> None:
    if suffix == ".mp4":
        pytest.importorskip("av")
    plain = export(tiny_world, recording, tmp_path / f"plain{suffix}", plain=True, scale=3)
    assert plain.size == (32, 24)
    small = export(tiny_world, recording, tmp_path / f"small{suffix}", scale=3)
    assert small.size == (448, 128), "the read-out needs its width; the picture stands in the middle"
    pixels = next(iter(replay(tiny_world, recording))).pixels
    for name, left in (("plain", 0), ("small", 208)):
        frame = frames_of(tmp_path / f"{name}{suffix}")[0]
        assert frame.shape[:2] == (24, 32) if name == "plain" else (128, 448)
        middle = frame[:24, left : left + 32].astype(int).mean(axis=(0, 1))
        np.testing.assert_allclose(middle, pixels.mean(axis=(0, 1)), atol=12)


def test_a_late_tick_is_marked(tiny_world: World, recording: Recording, tmp_path: Path) -> None:
    decisions = list(recording.decisions)
    assert decisions[4].played is not None
    decisions[4] = dataclasses.replace(
        decisions[4], played=dataclasses.replace(decisions[4].played, status="late", total_ms=2000.0)
    )
    export(tiny_world, dataclasses.replace(recording, decisions=decisions), tmp_path / "film.gif")
    marked = [near(frame[384:], ALARM) for frame in frames_of(tmp_path / "film.gif")]
    assert marked[4] > 500 > max(marked[3], marked[5]) + 400


def test_an_odd_size_is_made_even(tiny_world: World) -> None:
    pictures = Pictures(tiny_world.spec.frame, None, 1)
    assert (pictures.picture_size, pictures.size) == ((11, 8), (12, 8))
    assert pictures.draw(0, np.zeros((8, 8, 3), np.uint8)).size == (12, 8)


@pytest.mark.parametrize("suffix", [".gif", ".mp4", ".csv"])
def test_memory_does_not_grow_with_the_recording(
    tiny_world: World, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if suffix == ".mp4":
        pytest.importorskip("av")
    alive: set[int] = set()
    most = 0
    real = write.redraw

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal most
        for index, redrawn in enumerate(real(*arguments, **options)):
            alive.add(index)
            weakref.finalize(redrawn, alive.discard, index)
            most = max(most, len(alive))
            yield redrawn

    monkeypatch.setattr(write, "redraw", counted)
    export(tiny_world, play(tiny_world, [0, 1, 2, 3] * 10), tmp_path / f"film{suffix}", plain=suffix != ".csv")
    assert 1 <= most <= 3


@pytest.mark.parametrize("suffix", [".gif", ".mp4", ".csv"])
def test_what_fails_half_way_leaves_the_file_that_was_there(
    tiny_world: World, recording: Recording, tmp_path: Path, suffix: str
) -> None:
    if suffix == ".mp4":
        pytest.importorskip("av")
    path = tmp_path / f"file{suffix}"
    path.write_text("before")
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(tiny_world, recording, path, progress=stop)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "before"


def test_two_exports_to_one_name_do_not_meet(tiny_world: World, tmp_path: Path) -> None:
    path, lines = tmp_path / "t.csv", []

    def export_another() -> None:
        if not lines:
            export(tiny_world, play(tiny_world, [1, 2]), path)
            lines.append(len(path.read_text().splitlines()))

    export(tiny_world, play(tiny_world, [0, 1, 2, 3]), path, progress=export_another)
    assert [*lines, len(path.read_text().splitlines())] == [3, 5]
    assert list(tmp_path.iterdir()) == [path]


def test_a_recording_that_does_not_fit(tiny_world: World, recording: Recording, tmp_path: Path) -> None:
    for wrong, words in (({"fingerprint": "0" * 32}, "another build"), ({"decisions": []}, "holds no tick")):
        with pytest.raises(RecordingError, match=words):
            export(tiny_world, dataclasses.replace(recording, **wrong), tmp_path / "film.gif")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written(
    tiny_world: World, recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, options, words in (
        ("film.avi", {}, r"unknown suffix '.avi'.*\.mp4, \.gif"),
        ("film", {}, "unknown suffix ''"),
        ("t.csv", {"plain": True}, "plain"),
        ("t.csv", {"scale": 2}, "scale"),
        ("film.gif", {"scale": 0}, "at least 1"),
        ("film.gif", {"scale": 600}, "pixels are too many"),
    ):
        with pytest.raises(DsaError, match=words):
            export(tiny_world, recording, tmp_path / path, **options)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for suffix, package in ((".mp4", "export"), (".parquet", "export"), (".rrd", "rerun")):
        with pytest.raises(DsaError, match=rf"pip install 'dsa-runtime\[{package}\]'"):
            export(tiny_world, recording, tmp_path / f"t{suffix}")
    assert check(Path("T.GIF")) == ".gif"
    assert list(tmp_path.iterdir()) == []


def test_rerun_has_every_tick_on_both_timelines(tiny_world: World, recording: Recording, tmp_path: Path) -> None:
    chunk = pytest.importorskip("rerun.chunk", reason="rerun-sdk is not installed")
    export(tiny_world, recording, tmp_path / "t.rrd")
    rows: dict[str, int] = {}
    for part in chunk.RrdReader(tmp_path / "t.rrd").stream():
        if not part.is_static:
            assert set(part.timeline_names) == {"tick", "time"}
            rows[part.entity_path] = rows.get(part.entity_path, 0) + part.num_rows
    all_four = sum(decision.steps == 4 for decision in recording.decisions)
    assert rows["/frame"] == rows["/decision/steps"] == rows["/decision/status"] == rows["/latency/total_ms"] == 10
    assert rows["/action/action"] == 10
    assert rows["/decision/confidence_4"] == rows["/latency/denoise_4_ms"] == all_four < 10


def test_rerun_takes_any_name_of_an_action(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    chunk = pytest.importorskip("rerun.chunk", reason="rerun-sdk is not installed")
    space = Box((-1.0, -2.0), (1.0, 2.0), ("turn left/right", "action 0"), ("", "ms"))
    with load_world(write_tiny_world(tmp_path / "world", space), threads=1) as world:
        export(world, play(world, [[0.5, 1.0]]), tmp_path / "t.rrd")
    paths = {part.entity_path for part in chunk.RrdReader(tmp_path / "t.rrd").stream()}
    assert {r"/action/turn\ left\/right", r"/action/action\ 0"} <= paths
    assert "WARN" not in capfd.readouterr().err


def test_every_tick_has_its_own_budgets_line(tiny_world: World) -> None:
    recording = play(tiny_world, [0, 1, 2])
    ticks = list(replay(tiny_world, recording))
    budgets = (30.0, math.inf, 60.0)
    mixed = [dataclasses.replace(tick, budget_ms=budget_ms) for tick, budget_ms in zip(ticks, budgets, strict=True)]
    played = Play(tiny_world.spec, 5, math.inf, ("noop",) * 3, tuple(mixed), math.nan, None)
    pictures = Pictures(tiny_world.spec.frame, played)
    lines = []
    for index in range(3):
        strip = pictures.strip(index)
        assert strip is not None and strip.size == (512, 104)
        above = np.asarray(strip)[35, 360:]  # the bars: a line stands out
        lines.append(np.flatnonzero((above == TEXT).all(axis=-1)).tolist())
    assert lines[1] == [] and len(lines[0]) == len(lines[2]) == 2
    assert lines[0][0] < lines[2][0]
