"""Worlds whose tick is a chunk of pictures, with a streaming decoder and a prompt: sessions of them are as others."""

from __future__ import annotations

import dataclasses
import gc
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dsa_runtime import (
    EngineError,
    PromptError,
    Recording,
    RecordingError,
    Session,
    SessionError,
    Tick,
    World,
    WorldError,
    load_world,
)
from dsa_runtime.arrays_file import ArraysFile
from dsa_runtime.engine import Engine
from dsa_runtime.recording import PromptChange
from dsa_runtime.replay import replay, verify_replay
from tests.chunk_world import LATENT, PICTURES, PROMPTS, STATE, TEXT_TOKENS, TEXT_WIDTH, WINDOW, write_chunk_world
from tests.stages import Gate, settle

ACTIONS = [0, 1, 3, 2, 2, 0, 1]


@pytest.fixture(scope="module", params=[0, 2, WINDOW], ids=["from-nothing", "from-two", "from-a-full-window"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = write_chunk_world(tmp_path_factory.mktemp("worlds") / "chunks", begins_with=request.param)
    with load_world(folder, threads=1) as loaded:
        yield loaded


def play(session: Session, actions: list[int] = ACTIONS) -> list[np.ndarray]:
    """All pictures of these ticks, two denoising steps each."""
    return [session.step(action, math.inf, steps=2).frames for action in actions]


@pytest.fixture(scope="module")
def expected(world: World) -> list[np.ndarray]:
    with world.session(7) as session:
        return play(session)


class TestPictures:
    def test_a_tick_has_all_its_pictures_and_the_last_is_its_pixels(self, world: World) -> None:
        with world.session(7) as session:
            tick = session.step(1, math.inf)
        assert tick.frames.shape == (PICTURES, 8, 8, 3) == world.spec.frame.tick_shape
        assert tick.pixels.shape == (8, 8, 3)
        np.testing.assert_array_equal(tick.pixels, tick.frames[-1])
        tick.pixels[0, 0] = 1
        assert (tick.frames[-1, 0, 0] == 1).all()

    def test_the_budget_of_a_tick_is_the_time_of_its_pictures(self, world: World) -> None:
        with world.session(7) as session:
            assert session.step(1).budget_ms == 1000.0 * PICTURES / world.spec.frame.fps == 250.0

    def test_a_tick_that_was_missed_shows_the_newest_picture_throughout(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with world.session(7, on_miss="repeat") as session:
            before = session.step(1, math.inf)
            settle(session)
            with monkeypatch.context() as patch:
                gate = Gate(patch, "denoise")
                missed = session.step(1, budget_ms=5)
                gate.open.set()
            assert missed.status == "repeated"
            np.testing.assert_array_equal(missed.frames, np.stack([before.pixels] * PICTURES))

    def test_worlds_of_one_picture_have_it_as_their_frames(self, tiny_world: World) -> None:
        with tiny_world.session(7) as session:
            tick = session.step(1, math.inf)
        np.testing.assert_array_equal(tick.frames, tick.pixels[np.newaxis])
        bare = Tick(**{name: value for name, value in vars(tick).items() if name != "frames"})
        assert bare.frames.base is bare.pixels or np.shares_memory(bare.frames, bare.pixels)


class TestStream:
    def test_the_decoder_goes_on_where_it_stood(self, world: World) -> None:
        """Against the decoder's graphs alone, over the latents of a session."""
        engine: Engine = world._runtime(1).engine
        with world.session(7) as session:
            assert world._seeds.latents is not None
            latents = list(world._seeds.latents[7 % world.contexts])
            skipped, shown = len(latents), []
            for action in ACTIONS:
                shown.append(session.step(action, math.inf).frames)
                latents.append(session._state.latent)
        state, drawn = None, []
        for latent in latents:
            inputs = {"latent": latent[np.newaxis]} | ({} if state is None else {"state_0": state})
            frames, state = engine.graphs["decode_first" if state is None else "decode"].run(None, inputs)
            drawn.append(frames[0])
        np.testing.assert_array_equal(np.stack(shown), np.stack(drawn[skipped:]))

    def test_it_is_part_of_what_rewind_fork_and_restore_bring_back(
        self, world: World, expected: list[np.ndarray]
    ) -> None:
        with world.session(7, history=8) as session:
            play(session, ACTIONS[:4])
            kept = session.snapshot()
            branch = session.fork()[0]
            play(session, [2, 2])
            np.testing.assert_array_equal(session.rewind(2), expected[3][-1])
            np.testing.assert_array_equal(play(session, ACTIONS[4:]), expected[4:])
            np.testing.assert_array_equal(play(branch, ACTIONS[4:]), expected[4:])
            np.testing.assert_array_equal(session.restore(kept), expected[3][-1])
            np.testing.assert_array_equal(play(session, ACTIONS[4:]), expected[4:])
            branch.close()

    def test_rewind_goes_back_to_the_very_beginning(self, world: World, expected: list[np.ndarray]) -> None:
        """Where the window holds nothing yet, also what it would keep for ever is undone."""
        with world.session(7, history=8) as session:
            for ticks in (1, 2, 5):
                play(session, [2] * ticks)
                session.rewind(ticks)
            np.testing.assert_array_equal(play(session), expected)

    def test_a_snapshot_before_the_first_tick(self, world: World, expected: list[np.ndarray]) -> None:
        with world.session(7) as session, world.session(3) as other:
            np.testing.assert_array_equal(other.restore(session.snapshot()), session.reset(7))
            np.testing.assert_array_equal(play(other), expected)

    def test_reset_begins_a_new_one(self, world: World, expected: list[np.ndarray]) -> None:
        with world.session(3) as session:
            play(session, ACTIONS[:3])
            session.reset(7)
            np.testing.assert_array_equal(play(session), expected)

    def test_what_the_caller_does_to_a_picture_does_not_reach_the_session(self, world: World) -> None:
        with world.session(7, history=2) as session:
            tick = session.step(1, math.inf)
            copy = tick.pixels.copy()
            tick.frames[:] = 0
            session.step(1, math.inf)
            back = session.rewind(1)
            np.testing.assert_array_equal(back, copy)
            back[:] = 0
            session.step(1, math.inf)
            np.testing.assert_array_equal(session.rewind(1), copy)

    def test_the_first_picture(self, world: World) -> None:
        with world.session(7) as session:
            first = session.reset(8)
        begins_with = world._seeds.actions.shape[1]
        assert first.any() == bool(begins_with)  # black where there is nothing yet

    def test_such_sessions_are_not_batched(self, world: World, tiny_world: World) -> None:
        assert tiny_world.batchable and not world.batchable
        with pytest.raises(SessionError, match=r"^batched: .*leave it out"):
            world.session(7, batched=True)


class TestPrompt:
    def test_a_session_begins_with_the_first_of_the_world(self, world: World, expected: list[np.ndarray]) -> None:
        with world.session(7) as session:
            assert session.prompt == PROMPTS[0]
        with world.session(7, prompt=PROMPTS[1]) as session:
            assert session.prompt == PROMPTS[1]
            assert not np.array_equal(play(session), expected)

    def test_a_swap_draws_what_a_session_with_that_prompt_draws(self, world: World) -> None:
        """At tick 0 the window holds the start context alone, so that a swap has to make all of it anew."""
        with world.session(7, prompt=PROMPTS[1]) as asked, world.session(7) as swapped:
            swapped.set_prompt(PROMPTS[1])
            np.testing.assert_array_equal(play(asked), play(swapped))

    def test_a_swap_commits_the_window_again_oldest_first(self, world: World) -> None:
        """Against the same with the engine alone, where each tick sees those before it."""
        with world.session(7) as session:
            play(session)
            settle(session)
            slots = session._window.slots
            latents, actions = session._runtime.cache.read_sources(slots)
            np.testing.assert_array_equal(latents[-1], session._state.latent)
            session.set_prompt(PROMPTS[1])
            found = session._runtime.cache.read(session._window.slots)
            prompt = session._state.prompt
            assert prompt is not None
            spec, graph = world.spec, session._runtime.engine.graphs["commit"]
            pools = [np.zeros((WINDOW, *spec.cache.slot_shape), np.float32) for _ in range(2 * spec.cache.layers)]
            names = [f"{kind}_pool_{layer}" for layer in range(spec.cache.layers) for kind in ("key", "value")]
            for index in range(len(slots)):
                table, age = np.full((1, WINDOW), -1, np.int32), np.ones((1, WINDOW), np.int32)
                table[0, :index], age[0, :index] = range(index), range(index, 0, -1)
                inputs = {
                    "latent": latents[index : index + 1], "level": np.zeros(1, np.float32),
                    "action": actions[index : index + 1], "slot_table": table, "slot_age": age,
                    "prompt": prompt.projected, **dict(zip(names, pools, strict=True)),
                }  # fmt: skip
                for pool, made in zip(pools, graph.run(None, inputs), strict=True):
                    pool[index] = made[0]
            for ours, reference in zip(found, pools, strict=True):
                np.testing.assert_allclose(ours, reference[: len(slots)], atol=1e-6)

    def test_embeddings_are_as_good_as_a_name_and_filled_up(self, world: World) -> None:
        text = world._prompts[PROMPTS[1]]
        with world.session(7, prompt=text) as by_text, world.session(7, prompt=PROMPTS[1]) as by_name:
            np.testing.assert_array_equal(play(by_text), play(by_name))
            np.testing.assert_array_equal(by_text.prompt, text)
        short = text[:1]
        with world.session(7, prompt=short) as session:
            assert isinstance(session.prompt, np.ndarray)
            np.testing.assert_array_equal(session.prompt, np.vstack([short, np.zeros_like(text[1:])]))

    def test_it_stays_over_a_reset_and_comes_with_a_snapshot(self, world: World) -> None:
        with world.session(7, prompt=PROMPTS[1]) as session, world.session(7) as other:
            first = play(session)
            session.reset(7)
            np.testing.assert_array_equal(play(session), first)
            other.restore(session.snapshot())
            assert other.prompt == PROMPTS[1]
            np.testing.assert_array_equal(play(other), play(session))
            branch = session.fork()[0]
            assert branch.prompt == PROMPTS[1]
            branch.set_prompt(PROMPTS[0])
            assert session.prompt == PROMPTS[1]
            branch.close()

    def test_what_was_made_with_another_prompt_cannot_be_rewound_to(self, world: World) -> None:
        with world.session(7, history=4) as session:
            play(session, ACTIONS[:3])
            session.set_prompt(PROMPTS[1])
            with pytest.raises(SessionError, match="can undo 0 ticks"):
                session.rewind(1)
            play(session, ACTIONS[:2])
            session.rewind(2)

    @pytest.mark.parametrize(
        ("prompt", "problem"),
        [
            ("a calm see", "expected one of 'a calm sea', 'a storm'"),
            (np.zeros((TEXT_TOKENS + 1, TEXT_WIDTH)), r"expected embeddings \[at most 3, 5\]"),
            (np.zeros((1, TEXT_WIDTH - 1)), r"expected embeddings \[at most 3, 5\]"),
            (np.zeros(TEXT_WIDTH), r"expected embeddings \[at most 3, 5\]"),
            (np.full((1, TEXT_WIDTH), np.nan), "the embeddings must be finite"),
            (object(), "expected a name"),
        ],
    )
    def test_a_wrong_one_changes_nothing(
        self, world: World, expected: list[np.ndarray], prompt: object, problem: str
    ) -> None:
        with world.session(7) as session:
            play(session, ACTIONS[:2])
            with pytest.raises(PromptError, match=f"^prompt: .*{problem}"):
                session.set_prompt(prompt)  # type: ignore[arg-type]
            with pytest.raises(PromptError, match=r"^prompt: "):
                world.session(7, prompt=prompt)  # type: ignore[arg-type]
            np.testing.assert_array_equal(play(session, ACTIONS[2:]), expected[2:])

    def test_a_swap_that_fails_changes_nothing(
        self, world: World, expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with world.session(7, history=8, record=True) as session:
            play(session, ACTIONS[:3])
            settle(session)
            used = world.slots

            def broken(*_: object) -> int:
                raise EngineError("broken")

            with monkeypatch.context() as patch:
                patch.setattr("dsa_runtime.workspace.Workspace.commit", broken)
                with pytest.raises(EngineError):
                    session.set_prompt(PROMPTS[1])
            assert (session.prompt, world.slots) == (PROMPTS[0], used)
            session.rewind(1)
            np.testing.assert_array_equal(play(session, ACTIONS[2:]), expected[2:])

    def test_a_world_without_text_says_so(self, tiny_world: World) -> None:
        with tiny_world.session(7) as session:
            assert session.prompt is None
            with pytest.raises(PromptError, match="takes no text"):
                session.set_prompt("a storm")
        with pytest.raises(PromptError, match="takes no text"):
            tiny_world.session(7, prompt="a storm")


def test_a_recording_holds_the_prompts_too(world: World, tmp_path: Path) -> None:
    text = np.random.default_rng(3).normal(size=(2, TEXT_WIDTH)).astype(np.float32)
    with world.session(7, prompt=PROMPTS[1], record=True) as session:
        play(session, ACTIONS[:2])
        session.set_prompt(text)
        play(session, ACTIONS[2:4])
        session.set_prompt(PROMPTS[0])
        branch = session.fork()[0]
        play(session, ACTIONS[4:])
        for recorded in (session.recording, branch.recording):
            assert recorded is not None
            recorded.save(tmp_path / "recording.json")
            read = Recording.load(tmp_path / "recording.json")
            assert [change.tick for change in read.prompts] == [0, 2, 4]
            assert verify_replay(world, read) == len(recorded.decisions) > 3
        first_digest = read.decisions[0].digest
        branch.close()
        session.restore(session.snapshot())
        play(session, ACTIONS[:2])
        assert session.recording is not None
        assert session.recording.prompts == []
        assert verify_replay(world, session.recording) == 2
    read.prompts[0] = type(read.prompts[0])(0, PROMPTS[0])
    assert first_digest == read.decisions[0].digest
    with pytest.raises(Exception, match="tick 0: drew another frame"):
        verify_replay(world, read)


def test_a_recording_with_prompts_that_the_world_does_not_know(world: World) -> None:
    with world.session(7, record=True) as session:
        play(session, ACTIONS[:1])
        recording = session.recording
    assert recording is not None
    for wrong in ("a calm see", np.zeros((1, TEXT_WIDTH + 1), np.float32)):
        recording.prompts.append(PromptChange(1, wrong))
        with pytest.raises(RecordingError, match=r"^prompts\[1\]\.prompt: expected "):
            replay(world, recording)  # nothing has been asked of it yet
        recording.prompts.pop()


def test_a_recording_in_float16_can_be_read_again(world: World, tmp_path: Path) -> None:
    Recording.of(world.spec, "half", 7).save(tmp_path / "recording.json")
    assert Recording.load(tmp_path / "recording.json").form == "half"


def test_what_prompts_are_called_is_part_of_the_fingerprint(world: World) -> None:
    swapped = dataclasses.replace(world.spec.text, prompts=PROMPTS[::-1])
    assert dataclasses.replace(world.spec, text=swapped).fingerprint != world.spec.fingerprint
    with pytest.raises(WorldError, match="prompts: one of them is empty"):
        dataclasses.replace(world.spec.text, prompts=("", "a storm"))


def test_a_prompt_that_no_session_has_is_not_kept(tmp_path: Path) -> None:
    """But for the last, on which the buffers that it was used with are bound."""
    with load_world(write_chunk_world(tmp_path / "chunks"), threads=1) as fresh, fresh.session(7) as session:
        for prompt in (*PROMPTS, PROMPTS[0]):
            session.set_prompt(prompt)
            play(session, ACTIONS[:1])
            settle(session)
            gc.collect()
            assert list(session._runtime._prompts) == [prompt]


@pytest.mark.parametrize("damage", ["deflate", "encrypted"])
def test_arrays_that_cannot_be_unpacked(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "prompts.npz"
    np.savez_compressed(path, text=np.random.default_rng(0).normal(size=1000))
    data = bytearray(path.read_bytes())
    if damage == "deflate":
        data[60:90] = b"\xff" * 30
    else:
        data[data.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(WorldError, match=r"prompts\.npz: not a sound npz file: "), ArraysFile.open(path) as file:
        file.read("text")


def test_the_fixture_is_what_it_says(world: World) -> None:
    assert world.spec.latent.shape == LATENT and world.spec.decoder.state == (STATE,)
