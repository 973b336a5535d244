"""Writing a package: what is in it, that the SDK plays it, and that a failure leaves the old one alone."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from dsa_runtime import WorldError, load_world  # noqa: E402
from dsa_runtime.form import choose_form  # noqa: E402
from dsa_runtime.package import open_package  # noqa: E402
from dsa_runtime.spec import Discrete, FrameSpec  # noqa: E402
from exporters.packaging import write  # noqa: E402
from exporters.packaging.describe import action_space, calibration_spec, frame_spec  # noqa: E402
from exporters.packaging.rounding import deployed_autoencoder, deployed_generator  # noqa: E402
from exporters.packaging.write import GRAPH_FILES, copy_with_contexts, write_package  # noqa: E402
from exporters.recording.dataset import DatasetSpec  # noqa: E402
from tests.small_world import (  # noqa: E402
    GENERATOR,
    PICTURE,
    small_autoencoder,
    small_clips,
    small_description,
    small_generator,
    small_package,
)


def test_the_sdk_plays_it() -> None:
    with load_world(small_package(), threads=1) as world, world.session(1) as session:
        np.testing.assert_array_equal(session.reset(1), small_clips().frames[1, -1])
        ticks = [session.step(action, math.inf) for action in (0, 1, 2, 2)]
    assert all(tick.pixels.shape == PICTURE for tick in ticks)
    assert (ticks[0].pixels != ticks[1].pixels).any()


def test_the_spec_says_what_the_modules_are() -> None:
    with open_package(small_package()) as package:
        spec = package.spec
    assert spec.latent.shape == (GENERATOR.latent_channels, GENERATOR.latent_height, GENERATOR.latent_width)
    assert (spec.cache.layers, spec.cache.heads, spec.cache.head_dim) == (3, 3, 16)
    assert (spec.cache.tokens, spec.cache.window, spec.cache.sink) == (8, 3, 0)
    assert (spec.cache.temporal_dims, spec.cache.theta) == (GENERATOR.temporal_dims, GENERATOR.theta)
    assert set(spec.files) == {
        "denoise.plain.onnx", "commit.plain.onnx", "denoise.onnx", "commit.onnx", "write.onnx",
        "decode.onnx", "encode.onnx", "weights.bin", "seeds.npz", "card.md",
    }  # fmt: skip
    of_large_models = {"decode_first", "condition", "denoise_half", "commit_half", "write_half"}
    assert spec.graphs == {name: file for name, file in GRAPH_FILES.items() if name not in of_large_models}
    assert (spec.ops.domain, spec.ops.version) == ("dsa", 1)


def test_custom_operators_are_in_their_own_form_only() -> None:
    files = {
        path.name
        for path in small_package().glob("*.onnx")
        if any(node.domain == "dsa" for node in onnx.load(path).graph.node)
    }
    assert files == {"denoise.onnx", "commit.onnx", "write.onnx"}


def test_both_forms_hold_the_same_weights() -> None:
    """The form with custom operators adds nothing to the weights file, and leaves out no weight."""
    for graph in ("denoise", "commit"):
        op, plain = (spans(small_package() / file) for file in (f"{graph}.onnx", f"{graph}.plain.onnx"))
        assert op == plain
    assert not spans(small_package() / "write.onnx")


def test_forms_that_differ_are_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_theta(folder: Path, graphs: object, weights: object) -> None:
        published(folder, graphs, weights)
        model = onnx.load(folder / "commit.onnx", load_external_data=False)
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.name == "theta":
                    attribute.f *= 1.5
        (folder / "commit.onnx").write_bytes(model.SerializeToString())

    with open_package(small_package()) as package:
        if choose_form(package.spec).form != "op":
            pytest.skip(choose_form(package.spec).reason)
    monkeypatch.setattr(write, "write_graphs", other_theta)
    with pytest.raises(ValueError, match="commit: the forms differ by"):
        rewrite(tmp_path / "world")
    assert not (tmp_path / "world").exists()


def spans(graph: Path) -> set[tuple[int, int]]:
    """Offset and length of the tensors that a graph has in the weights file."""
    found = set()
    for tensor in onnx.load(graph, load_external_data=False).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            where = {entry.key: entry.value for entry in tensor.external_data}
            assert where["location"] == "weights.bin" and int(where["offset"]) % 4096 == 0
            found.add((int(where["offset"]), int(where["length"])))
    return found


def test_weights_are_shared_and_half_size() -> None:
    """Denoise and commit hold the same weights: all graphs together take two bytes per parameter, and little else."""
    folder = small_package()
    modules = (deployed_generator(small_generator()), deployed_autoencoder(small_autoencoder()))
    parameters = sum(p.numel() for module in modules for p in module.parameters())
    used = set().union(*map(spans, folder.glob("*.onnx")))
    assert sum(length for _, length in used) < 2 * parameters * 1.1
    ends = sorted((offset, offset + length) for offset, length in used)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends)), "spans overlap"
    assert ends[-1][1] == (folder / "weights.bin").stat().st_size


def test_models_are_valid_onnx() -> None:
    for path in small_package().glob("*.onnx"):
        onnx.checker.check_model(str(path), full_check=True)


def test_copy_with_other_contexts(tmp_path: Path) -> None:
    contexts = small_clips(count=3, seed=5)
    with open_package(small_package()) as package:
        copy_with_contexts(package, tmp_path / "copy", contexts)
    with load_world(tmp_path / "copy", threads=1) as world, world.session(2) as session:
        assert world.contexts == 3
        np.testing.assert_array_equal(session.reset(2), contexts.frames[2, -1])


def rewrite(folder: Path, **changes: object) -> None:
    parts = {
        "generator": small_generator(),
        "autoencoder": small_autoencoder(),
        "description": small_description(),
        "contexts": small_clips(),
        "card": "another\n",
    }
    write_package(folder, **{**parts, **changes})  # type: ignore[arg-type]


@pytest.fixture
def existing(tmp_path: Path) -> Path:
    shutil.copytree(small_package(), tmp_path / "world")
    return tmp_path / "world"


def published(folder: Path, _graphs: object, _weights: object) -> None:
    """The graphs of the fixture package, instead of exporting them again."""
    for path in [*small_package().glob("*.onnx"), small_package() / "weights.bin"]:
        shutil.copy(path, folder)


@pytest.fixture
def without_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "write_graphs", published)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("without_export")
def test_a_package_is_replaced_as_a_whole(existing: Path) -> None:
    (existing / "left-over.bin").write_bytes(b"from another time")
    rewrite(existing, description=small_description(version="2"))
    with open_package(existing) as package:
        assert package.spec.version == "2" and package.path("card.md").read_text() == "another\n"
    assert not (existing / "left-over.bin").exists()
    assert [path.name for path in existing.parent.iterdir()] == ["world"], "scratch folders were left"


@pytest.mark.usefixtures("without_export")
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"contexts": small_clips(length=2)}, "frames of the contexts differ: 3 and 2"),
        ({"description": small_description(action_space=Discrete(2, ("a", "b")))}, "action space differ: 3 and 2"),
        ({"description": small_description(frame=FrameSpec(16, 16, 3, 20.0, 1, (1, 1)))}, r"\(32, 16\) and \(16, 16\)"),
        ({"description": small_description(name="Not A Name")}, "name"),
        (
            {"contexts": dataclasses.replace(small_clips(), actions=np.full((2, 3), 9))},
            "expected an integer in 0..2, got 9",
        ),
    ],
    ids=["window", "actions", "frame", "name", "action out of range"],
)
def test_a_failure_leaves_the_old_package(existing: Path, changes: dict[str, object], error: str) -> None:
    before = contents(existing)
    with pytest.raises(ValueError, match=error):
        rewrite(existing, **changes)
    assert contents(existing) == before
    assert [path.name for path in existing.parent.iterdir()] == ["world"]


@pytest.mark.usefixtures("without_export")
def test_graphs_that_do_not_fit_the_spec_are_not_published(tmp_path: Path) -> None:
    other = dataclasses.replace(GENERATOR, window=2)
    with pytest.raises(WorldError, match="slot_"):
        rewrite(tmp_path / "world", generator=small_generator(other), contexts=small_clips(length=2))
    assert not (tmp_path / "world").exists()


def test_a_folder_with_other_things_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="not a world package"):
        rewrite(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_spec_parts_from_a_dataset() -> None:
    frame = {"height": 64, "width": 48, "channels": 3, "fps": 17.5}
    space = {"type": "Discrete", "n": 2, "names": ["a", "b"]}
    spec = DatasetSpec("d", frame, space, (), "CC0", "test", {})
    assert frame_spec(spec) == FrameSpec(64, 48, 3, 17.5, 1, (48, 64))
    wide = dataclasses.replace(spec, frame={**frame, "display_aspect": [4, 3]})
    assert frame_spec(wide).display_aspect == (4, 3)
    assert action_space(spec) == Discrete(2, ("a", "b"))


def test_a_calibration_table_that_does_not_fit_names_its_field() -> None:
    with pytest.raises(WorldError, match=r"calibration\.delta_unit: missing"):
        calibration_spec({"delta": 1.0})
