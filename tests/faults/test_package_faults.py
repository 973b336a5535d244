"""Damaged, hostile or outdated packages: each is a WorldError that names the file, before anything runs."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dsa_runtime import Box, WorldError, load_world
from tests.faults.helpers import refuses, rewrite_model
from tests.tiny_world import FILES, edit_spec, seal, write_tiny_world


def test_nothing_there(tmp_path: Path) -> None:
    refuses(tmp_path / "nowhere", "nowhere", "no such world")


def test_an_unknown_name() -> None:
    with pytest.raises(WorldError, match="no-such-world: no such world"):
        load_world("no-such-world")


def test_an_empty_folder(tmp_path: Path) -> None:
    refuses(tmp_path, "world.json: missing file")


@pytest.mark.parametrize("file", [*FILES, "world.json", "card.md"])
def test_a_missing_file(package: Path, file: str) -> None:
    (package / file).unlink()
    refuses(package, file, "missing file")


@pytest.mark.parametrize("file", FILES)
def test_a_truncated_file(package: Path, file: str) -> None:
    content = (package / file).read_bytes()
    (package / file).write_bytes(content[:-7])
    refuses(package, file, f"expected {len(content)} bytes, found {len(content) - 7}")


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit(package: Path, file: str) -> None:
    content = bytearray((package / file).read_bytes())
    content[len(content) // 2] ^= 1
    (package / file).write_bytes(content)
    refuses(package, file, "sha256")


def test_a_folder_in_place_of_a_file(package: Path) -> None:
    (package / "weights.bin").unlink()
    (package / "weights.bin").mkdir()
    refuses(package, "weights.bin", "not a regular file")


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights")
def test_a_link_out_of_the_package(package: Path, tmp_path: Path) -> None:
    shutil.move(package / "weights.bin", tmp_path / "outside.bin")
    (package / "weights.bin").symlink_to(tmp_path / "outside.bin")
    refuses(package, "weights.bin", "leads out of the package")


def test_a_link_to_the_package_itself_is_fine(package: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(package, target_is_directory=True)
    load_world(tmp_path / "latest", threads=1).close()


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "sub/file"])
def test_a_path_out_of_the_package(package: Path, name: str) -> None:
    edit_spec(package, lambda d: d["files"].update({name: {"sha256": "0" * 64, "bytes": 0}}))
    refuses(package, "world.json", name, "inside the package")


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/hostname", "../../../../../../etc/hostname"])
def test_weights_out_of_the_package(package: Path, tmp_path: Path, location: str) -> None:
    """A graph that is well hashed, but whose tensors point at a file elsewhere."""
    shutil.copy(package / "weights.bin", tmp_path / "outside.bin")
    model = onnx.load(package / "denoise.plain.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (package / "denoise.plain.onnx").write_bytes(model.SerializeToString())
    seal(package)
    refuses(package, "denoise.plain.onnx")


def test_an_unknown_format_version(package: Path) -> None:
    edit_spec(package, lambda d: d.update(format_version=99))
    refuses(package, "world.json.format_version", "99")


def test_an_operator_version_that_cannot_be(package: Path) -> None:
    edit_spec(package, lambda d: d["ops"].update(version=0))
    refuses(package, "world.json.ops.version", "0")


def test_a_newer_operator_version_is_left_to_the_plain_form(package: Path) -> None:
    edit_spec(package, lambda d: d["ops"].update(version=7))
    with load_world(package) as world:
        assert world.form == "plain"


def test_something_that_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "game.dsaworld").write_bytes(b"not a zip archive at all")
    refuses(tmp_path / "game.dsaworld", "game.dsaworld", "not a sound zip archive")


def test_a_graph_that_is_no_graph(package: Path) -> None:
    (package / "decode.onnx").write_bytes(b"\x00" * 100)
    seal(package)
    refuses(package, "decode.onnx", "cannot load it")


def test_a_graph_with_an_unknown_operator(package: Path) -> None:
    rewrite_model(package, "decode.onnx", lambda m: setattr(m.graph.node[0], "op_type", "Teleport"))
    refuses(package, "decode.onnx", "Teleport")


def test_a_graph_without_an_output(package: Path) -> None:
    rewrite_model(package, "denoise.plain.onnx", lambda m: m.graph.output.pop())
    refuses(package, "denoise.plain.onnx", "output confidence_logit: missing")


def test_a_graph_of_another_shape(package: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["latent"]["channels"] = 5

    edit_spec(package, edit)
    refuses(package, "denoise.plain.onnx", "latent", "expected shape [None, 5, 2, 2]")


def test_graphs_in_each_others_places(package: Path) -> None:
    edit_spec(package, lambda d: d["graphs"].update(decode="encode.onnx", encode="decode.onnx"))
    refuses(package, "encode.onnx", "missing")


def write_seeds(package: Path, **arrays: Any) -> None:
    np.savez(package / "seeds.npz", **arrays)
    seal(package)


def seeds(package: Path) -> dict[str, np.ndarray]:
    with np.load(package / "seeds.npz") as stored:
        return dict(stored)


def test_nan_in_the_seeds(tmp_path: Path) -> None:
    space = Box((-1.0, -1.0), (1.0, 1.0), ("x", "y"), ("m", "m"))
    package = write_tiny_world(tmp_path / "box", space)
    arrays = seeds(package)
    arrays["actions"][1, 2, 0] = np.nan
    write_seeds(package, **arrays)
    refuses(package, "seeds.npz", "actions[1, 2]", "component 0 (x)", "nan")


@pytest.mark.parametrize(
    ("change", "mention"),
    [
        (lambda a: a.pop("frames"), "frames"),
        (lambda a: a.pop("actions"), "actions"),
        (lambda a: a.update(frames=a["frames"].astype(np.float32)), "frames: expected uint8"),
        (lambda a: a.update(frames=a["frames"][:, 1:]), "frames: expected uint8"),
        (lambda a: a.update(frames=a["frames"][:0], actions=a["actions"][:0]), "frames: expected uint8"),
        (lambda a: a.update(actions=a["actions"][:1]), "actions: expected shape"),
        (lambda a: a.update(actions=a["actions"] + 100), "actions[0, 0]: expected an integer in 0..3"),
        (lambda a: a.update(actions=a["actions"].astype(np.float32)), "actions[0, 0]: expected an integer"),
    ],
)
def test_wrong_seeds(package: Path, change: Callable[[dict[str, np.ndarray]], Any], mention: str) -> None:
    arrays = seeds(package)
    change(arrays)
    write_seeds(package, **arrays)
    refuses(package, "seeds.npz", mention)


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def test_nothing_is_unpickled(package: Path, tmp_path: Path) -> None:
    trap = np.empty(1, object)
    trap[0] = Trap(str(tmp_path / "sprung"))
    write_seeds(package, frames=trap, actions=seeds(package)["actions"])
    refuses(package, "seeds.npz", "Python objects")
    assert not (tmp_path / "sprung").exists()


def test_seeds_that_claim_to_be_huge(package: Path) -> None:
    """A header of a petabyte over a few bytes must not be believed."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 3, 8, 8, 3)}
    with zipfile.ZipFile(package / "seeds.npz", "w") as archive, archive.open("frames.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(b"\x00" * 100)
    seal(package)
    refuses(package, "seeds.npz", "frames: truncated")


def test_seeds_that_are_no_npz(package: Path) -> None:
    (package / "seeds.npz").write_bytes(b"junk" * 50)
    seal(package)
    refuses(package, "seeds.npz", "not a sound npz file")
