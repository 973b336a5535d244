"""Damaged packages of worlds with a streaming decoder and text: each is a WorldError that names file and field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_runtime import SnapshotError, load_world
from tests.chunk_world import LATENT, PROMPTS, TEXT_TOKENS, TEXT_WIDTH, WINDOW, write_chunk_world
from tests.faults.helpers import refuses
from tests.tiny_world import edit_spec, seal


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_chunk_world(tmp_path / "chunks")


def test_the_whole_one_loads_and_says_itself_again(package: Path) -> None:
    with load_world(package, threads=1) as world:
        assert type(world.spec).from_json(world.spec.to_json()) == world.spec


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    *groups, last = path.split("/")

    def edit(document: dict[str, Any]) -> None:
        for group in groups:
            document = document[group]
        if value is None:
            del document[last]
        else:
            document[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "mention"),
    [
        (put("decoder", None), "graphs.decode_first: belongs to a decoder with a state"),
        (put("decoder/state", [[4, 0, 2, 2]]), "decoder.state[0]: not a shape"),
        (put("decoder/state", [[4, 1, 2, 3]]), "output state_out_0: expected shape [None, 4, 1, 2, 3]"),
        (put("graphs/decode_first", None), "graphs.decode_first: belongs to a decoder with a state"),
        (put("graphs/condition", None), "graphs.condition: belongs to a world that takes text"),
        (put("text", None), "graphs.condition: belongs to a world that takes text"),
        (put("text/prompts", []), "text.prompts: needs one at least"),
        (put("text/prompts", ["rain", "rain"]), "text.prompts: one of them occurs twice"),
        (put("text/prompts", ["rain"]), "prompts.npz: text: expected float32[1, 3, 5]"),
        (put("text/tokens", 0), "text.tokens: must lie in 1.."),
        (put("text/tokens", 4), "prompts.npz: text: expected float32[2, 4, 5]"),
        (put("files/prompts.npz", None), "files.prompts.npz: belongs to `text`"),
        (put("latent/frames", 3), "cache.tokens: must divide the 12 cells"),
        (put("latent/frames", 4), "seeds.npz: latents: expected float32[n, 3, 4, 4, 2, 2]"),
        (put("frame/frames_per_tick", 3), "output frame: expected shape [None, 3, 8, 8, 3]"),
    ],
)
def test_a_spec_that_does_not_fit(package: Path, edit: Callable[[dict[str, Any]], None], mention: str) -> None:
    edit_spec(package, edit)
    refuses(package, mention)


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        (np.zeros((len(PROMPTS), TEXT_TOKENS, TEXT_WIDTH)), "text: expected float32[2, 3, 5], got float64"),
        (np.full((len(PROMPTS), TEXT_TOKENS, TEXT_WIDTH), np.inf, np.float32), "text: must be finite"),
        (np.array([{}]), "holds Python objects"),
    ],
)
def test_prompts_that_are_none(package: Path, text: np.ndarray, mention: str) -> None:
    np.savez(package / "prompts.npz", text=text)
    seal(package)
    refuses(package, "prompts.npz", mention)


@pytest.mark.parametrize(
    ("latents", "mention"),
    [
        (np.zeros((1, WINDOW + 1, *LATENT), np.float32), f"latents: expected float32[n, {WINDOW}, 4, 2, 2, 2]"),
        (np.zeros((1, 2, *LATENT)), "latents: expected float32[n, 2, 4, 2, 2, 2], got float64"),
        (np.zeros((0, 2, *LATENT), np.float32), "latents: expected float32[n, 2, 4, 2, 2, 2]"),
        (np.zeros(3, np.float32), "latents: expected"),
        (np.full((1, 2, *LATENT), np.nan, np.float32), "latents: must be finite"),
    ],
)
def test_start_contexts_that_are_none(package: Path, latents: np.ndarray, mention: str) -> None:
    np.savez(package / "seeds.npz", latents=latents, actions=np.zeros(latents.shape[:2], np.int64))
    seal(package)
    refuses(package, "seeds.npz", mention)


def test_actions_of_another_length(package: Path) -> None:
    np.savez(package / "seeds.npz", latents=np.zeros((1, 2, *LATENT), np.float32), actions=np.zeros((1, 3), np.int64))
    seal(package)
    refuses(package, "seeds.npz", "actions: expected shape [1, 2]")


def test_a_snapshot_cut_anywhere_changes_nothing(package: Path) -> None:
    with load_world(package, threads=1) as world, world.session(7) as session, world.session(7) as other:
        kept = session.snapshot()
        for length in range(0, len(kept), 97):
            with pytest.raises(SnapshotError):
                session.restore(kept[:length])
        ours, theirs = (one.step(1, 1e4, steps=2).frames for one in (session, other))
        np.testing.assert_array_equal(ours, theirs)
