"""The page's side of worlds whose tick is a chunk of pictures, and that take a prompt."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dsa_runtime import PromptError, Recording, SessionError, World, load_world
from dsa_runtime.replay import verify_replay
from dsa_runtime.spec import DecoderSpec
from dsa_runtime.viewer.command import Fork, Here, Keep, Prompt, Reset, Rewind, Save
from dsa_runtime.viewer.hello import play_hello
from dsa_runtime.viewer.lane import history_of
from dsa_runtime.viewer.player import Player
from tests.chunk_world import PICTURES, PROMPTS, write_chunk_world
from tests.viewer.test_player import AMPLE, Table


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with load_world(write_chunk_world(tmp_path_factory.mktemp("worlds") / "chunks"), threads=1) as world:
        yield world


@pytest.fixture
def table(world: World) -> Iterator[Table]:
    table = Table(world)
    yield table
    table.player.close()


def drawn(world: World, prompts: list[str], steps: int | None = None) -> list[np.ndarray]:
    """All pictures of a tick for each prompt in turn."""
    with world.session(3, threshold=0.5, prompt=prompts[0]) as session:
        frames = []
        for prompt in prompts:
            if prompt != session.prompt:
                session.set_prompt(prompt)
            frames.append(session.step(0, math.inf, steps=steps).frames)
        return frames


def test_a_beat_shows_all_pictures_of_the_tick_and_a_jump_shows_one(table: Table, world: World) -> None:
    table.do(Here())
    assert table.player.period_ms == 250
    expected = drawn(world, [PROMPTS[0]] * 3)
    seen = [table.beat() for _ in range(3)]
    for one, frames in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(one.pictures, [frames])
    table.player.perform(Rewind(2))
    back = table.newest()
    assert back is not None and back.head == {"tick": 2}
    np.testing.assert_array_equal(back.pictures, [expected[1][-1]])
    np.testing.assert_array_equal(table.beat().pictures, [expected[2]])


def test_each_lane_has_its_prompt(table: Table, world: World, tmp_path: Path) -> None:
    calm, storm = PROMPTS
    table.beat()
    table.do(Fork())
    assert [lane["prompt"] for lane in table.state["lanes"]] == [calm, calm]
    table.do(Prompt(1, storm))
    assert [lane["prompt"] for lane in table.state["lanes"]] == [calm, storm]
    assert table.state["oldest"] == table.state["tick"] == 1
    with pytest.raises(SessionError, match=r"ticks 1\.\.1 are kept"):
        table.player.perform(Rewind(0))
    both = table.beat()
    assert both.pictures.shape == (2, PICTURES, 8, 8, 3)
    np.testing.assert_array_equal(both.pictures[0], drawn(world, [calm, calm])[1])
    with pytest.raises(PromptError, match="expected one of"):
        table.player.perform(Prompt(0, "a calm see"))
    table.do(Rewind(1))
    np.testing.assert_array_equal(table.beat().pictures, both.pictures)
    table.do(Keep(1))
    table.player.perform(Save(0))
    saved = table.newest()
    assert saved is not None
    (path := tmp_path / "saved").write_bytes(saved.rest)
    assert [change.prompt for change in Recording.load(path).prompts] == [calm, storm]
    assert verify_replay(world, Recording.load(path)) == 2
    table.do(Reset("3"))
    assert [lane["prompt"] for lane in table.state["lanes"]] == [storm], "it stays"
    np.testing.assert_array_equal(table.beat().pictures, [drawn(world, [storm], steps=4)[0]])


def test_a_new_tab_begins_with_the_prompt_that_was_asked_for(world: World, table: Table) -> None:
    player = Player(world, AMPLE, 3, lambda: None, table.out, PROMPTS[1])
    player.perform(Here())
    table.newest()
    assert table.state["lanes"][0]["prompt"] == PROMPTS[1]
    player.close()


def test_the_page_is_told_of_prompts_where_there_are_any(world: World, tiny_world: World) -> None:
    told = play_hello(world, "")
    assert (told["prompts"], told["world"]["fps"], told["world"]["period_ms"]) == (list(PROMPTS), 16, 250)
    assert "prompts" not in play_hello(tiny_world, "")


def test_what_a_decoder_remembers_counts_as_memory_of_the_history(world: World) -> None:
    assert history_of(world.spec) == 60, "15 s"
    large = dataclasses.replace(world.spec, decoder=DecoderSpec(((1 << 20, 4), (1 << 10,))))
    assert history_of(large) == 8, "the least there is"
