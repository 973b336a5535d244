"""The commands, on a world whose tick is a chunk of pictures and that takes a prompt."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dsa_runtime.decoder import Decoder
from tests.chunk_world import PROMPTS, write_chunk_world
from tests.command_line import Run, fails, run_dsa


@pytest.fixture
def dsa(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `dsa` with these arguments: exit status, stdout, stderr."""

    return partial(run_dsa, capsys)


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that tests only read."""
    return write_chunk_world(tmp_path_factory.mktemp("worlds") / "chunks")


def test_info_of_a_world_whose_tick_is_a_chunk_with_a_prompt(dsa: Run, chunks: Path, tiny_package: Path) -> None:
    world = json.loads(dsa("info", chunks, "--json")[1])
    assert (world["frame"]["frames_per_tick"], world["native_budget_ms"]) == (4, 250.0)
    assert (world["prompts"], world["batchable"]) == (list(PROMPTS), False)
    text = dsa("info", chunks)[1]
    assert "8 x 8 at 16 frames/s" in text and "4 pictures, every 250 ms" in text and "cannot be batched" in text
    assert all(f" {prompt}\n" in text for prompt in PROMPTS)
    plain = dsa("info", tiny_package)[1]
    assert not any(word in plain for word in ("pictures", "prompts", "batched"))


def test_record_begins_with_the_prompt_that_is_named(dsa: Run, chunks: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.dsarec"
    arguments = ("record", chunks, "--out", file, "--ticks", 3, "--threads", 1)
    assert json.loads(dsa(*arguments, "--prompt", PROMPTS[1], "--json")[1])["prompt"] == PROMPTS[1]
    assert dsa("replay", file, "--world", chunks, "--verify", "--film", tmp_path / "a.gif", "--threads", 1)[0] == 0
    fails(dsa(*arguments, "--prompt", "a calm see"), "--prompt: expected one of 'a calm sea', 'a storm'")


def test_demo_of_a_world_whose_tick_is_a_chunk(dsa: Run, chunks: Path, tmp_path: Path) -> None:
    assert dsa("demo", "--world", chunks, "--ticks", 3, "--out", tmp_path, "--threads", 1)[0] == 0
    with Image.open(tmp_path / "demo.gif") as film:
        assert film.n_frames == 3  # type: ignore[attr-defined]


def test_verify_looks_at_every_picture_of_a_tick(dsa: Run, chunks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dsa("verify", chunks)[0] == 0
    real, drawn = Decoder.run, itertools.count()

    def changed(decoder: Decoder, *arguments: Any) -> Any:
        frames, *more = real(decoder, *arguments)
        frames[0, 0, 0] = next(drawn) % 256  # never in the last one
        return frames, *more

    monkeypatch.setattr(Decoder, "run", changed)
    fails(dsa("verify", chunks), "two different frames")
