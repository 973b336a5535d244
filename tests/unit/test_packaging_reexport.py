"""Bringing a package up to date: from its own weights, to the graphs of today, or not at all."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("dacite")
pytest.importorskip("sklearn")

from dsa_runtime.package import open_package  # noqa: E402
from exporters.__main__ import main  # noqa: E402
from exporters.model.generator import Generator, GeneratorConfig  # noqa: E402
from exporters.packaging import recover, reexport  # noqa: E402
from exporters.packaging.recover import recover_generator  # noqa: E402
from exporters.packaging.reexport import reexport_package  # noqa: E402
from exporters.packaging.rounding import deployed_generator  # noqa: E402
from tests.small_world import GENERATOR, small_generator, small_package  # noqa: E402
from tests.tiny_world import edit_spec, seal  # noqa: E402

RECIPE = Path(__file__).parents[2] / "exporters" / "configs" / "defend_the_line.toml"
OPERATOR_FILES = ("denoise.onnx", "commit.onnx", "write.onnx")
NOTE = {"command": "reexport it", "commit": "abc"}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The small package as exporters wrote it before there were custom operators."""
    folder = shutil.copytree(small_package(), tmp_path / "world")

    def forget(document: dict[str, dict[str, object]]) -> None:
        document["graphs"] = {name: file for name, file in document["graphs"].items() if file not in OPERATOR_FILES}
        document["files"] = {name: entry for name, entry in document["files"].items() if name not in OPERATOR_FILES}

    edit_spec(folder, forget)
    for file in OPERATOR_FILES:
        (folder / file).unlink()
    return folder


@pytest.fixture(scope="module")
def exported() -> dict[GeneratorConfig, Any]:
    return {}


@pytest.fixture(autouse=True)
def marked_once(exported: dict[GeneratorConfig, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Export every marked generator once for all tests."""
    export = recover._exported_constants

    def kept(generator: Generator) -> Any:
        if generator.config not in exported:
            exported[generator.config] = export(generator)
        return exported[generator.config]

    monkeypatch.setattr(recover, "_exported_constants", kept)


@pytest.fixture
def without_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the new graphs from the fixture package instead of exporting them."""
    monkeypatch.setattr(reexport, "write_graphs", copy_graphs)


def copy_graphs(folder: Path, graphs: object, weights: object) -> None:
    for file in (*OPERATOR_FILES, "denoise.plain.onnx", "commit.plain.onnx", "weights.bin"):
        shutil.copy(small_package() / file, folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit_graph(path: Path, edit: Callable[[Any], None]) -> None:
    model = onnx.load(path, load_external_data=False)
    edit(model.graph)
    path.write_bytes(model.SerializeToString())


def rename_constants(graph: Any) -> None:
    """As if it was traced by another version of torch."""
    names = {tensor.name: f"renamed_{i}" for i, tensor in enumerate(graph.initializer)}
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def another_operator(graph: Any) -> None:
    next(node for node in graph.node if node.op_type == "Relu").op_type = "Elu"


def another_epsilon(graph: Any) -> None:
    """The same operators, and yet not the same function."""
    norm = next(node for node in graph.node if node.op_type == "LayerNormalization")
    next(attribute for attribute in norm.attribute if attribute.name == "epsilon").f = 0.1


def test_a_plain_package_becomes_what_is_written_today(old: Path) -> None:
    result = reexport_package(old, GENERATOR, NOTE)
    after, expected = contents(old), contents(small_package())
    documents = [json.loads(content.pop("world.json")) for content in (after, expected)]
    assert after == expected, "files differ from a fresh export's"
    assert documents[0].pop("provenance") == {**documents[1].pop("provenance"), "reexported": NOTE}
    assert documents[0] == documents[1]
    assert result.files == {**dict.fromkeys(after, "kept"), **dict.fromkeys(OPERATOR_FILES, "new")}
    assert {name: difference.largest for name, difference in result.plain.items()} == {"denoise": 0.0, "commit": 0.0}
    assert [path.name for path in old.parent.iterdir()] == ["world"], "scratch folders were left"


@pytest.mark.parametrize("edit", [lambda graph: None, rename_constants], ids=["as written", "constants renamed"])
def test_every_parameter_is_recovered_to_the_bit(old: Path, edit: Callable[[Any], None]) -> None:
    edit_graph(old / "denoise.plain.onnx", edit)
    seal(old)
    with open_package(old) as package:
        found = recover_generator(package, GENERATOR).state_dict()
    expected = deployed_generator(small_generator()).state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"depth": 2}, "cache of the package and of the recipe differ: CacheSpec"),
        ({"theta": 21.0}, "cache of the package and of the recipe differ: CacheSpec"),
        ({"latent_channels": 8}, "latent of the package and of the recipe differ: LatentSpec"),
        ({"action_width": 4}, "action width of the package and of the recipe differ: 3 and 4"),
        ({"mlp_ratio": 2.0}, r"shape of blocks.0.rise.weight is \[144, 48\], in the recipe \[96, 48\]"),
    ],
    ids=["depth", "theta", "latent", "actions", "mlp"],
)
def test_another_recipe_is_refused(old: Path, change: dict[str, Any], error: str) -> None:
    refuse(old, dataclasses.replace(GENERATOR, **change), error)


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "weights.bin").read_bytes())
    content[100] ^= 1
    (folder / "weights.bin").write_bytes(content)


def change_operators(folder: Path) -> None:
    edit_graph(folder / "denoise.plain.onnx", another_operator)
    seal(folder)


def change_the_function(folder: Path) -> None:
    edit_graph(folder / "commit.plain.onnx", another_epsilon)
    seal(folder)


@pytest.mark.usefixtures("without_export")
@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (flip_a_bit, "weights.bin: sha256 does not match"),
        (lambda folder: (folder / "seeds.npz").unlink(), "seeds.npz: missing file"),
        (change_operators, "not the operators that a generator of this recipe is exported to"),
        (change_the_function, "commit would change by"),
    ],
    ids=["flipped bit", "missing file", "other operators", "other function"],
)
def test_a_damaged_or_foreign_package_is_refused(old: Path, damage: Callable[[Path], None], error: str) -> None:
    damage(old)
    refuse(old, GENERATOR, error)


def test_new_graphs_that_compute_something_else_are_not_published(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(folder: Path, graphs: object, weights: object) -> None:
        copy_graphs(folder, graphs, weights)
        # Both forms, so that it is the comparison with the old package that notices.
        for file in ("denoise.plain.onnx", "denoise.onnx"):
            edit_graph(folder / file, another_epsilon)

    monkeypatch.setattr(reexport, "write_graphs", wrong)
    refuse(old, GENERATOR, "denoise would change by")


@pytest.mark.usefixtures("without_export")
def test_a_second_time_changes_nothing_but_the_note(old: Path) -> None:
    reexport_package(old, GENERATOR, NOTE)
    once = contents(old)
    result = reexport_package(old, GENERATOR, {"commit": "later"})
    again = contents(old)
    assert set(result.files.values()) == {"kept"}
    documents = [json.loads(content.pop("world.json")) for content in (once, again)]
    assert again == once
    assert [document["provenance"].pop("reexported") for document in documents] == [NOTE, {"commit": "later"}]
    assert documents[0] == documents[1]


def test_on_the_command_line_a_wrong_recipe_is_one_line(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(old)
    assert main(["reexport", str(RECIPE), str(old)]) == 2
    error = capsys.readouterr().err
    assert "latent of the package and of the recipe differ" in error and error.count("\n") == 1
    assert contents(old) == before


def test_an_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a folder"):
        reexport_package(tmp_path / "small.dsaworld", GENERATOR, NOTE)


def refuse(folder: Path, config: GeneratorConfig, error: str) -> None:
    before = contents(folder)
    with pytest.raises(ValueError, match=error):
        reexport_package(folder, config, NOTE)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "scratch folders were left"
