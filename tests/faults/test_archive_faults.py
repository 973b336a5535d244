"""Hostile or damaged `.dsaworld` archives: each is a WorldError, and nothing is left on disk."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.helpers import refuses, rewrite_model
from tests.tiny_world import FILES, pack


@pytest.fixture
def archive(tiny_package: Path, tmp_path: Path) -> Path:
    return pack(tiny_package, tmp_path / "tiny.dsaworld")


def repack(archive: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    with zipfile.ZipFile(archive) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    change(members)
    with zipfile.ZipFile(archive, "w") as target:
        for name, content in members.items():
            target.writestr(name, content)


@pytest.mark.parametrize("name", ["../escape.txt", "/tmp/escape.txt", "sub/escape.txt", "..", "a\\..\\b", "sub/"])
def test_an_archive_member_that_leads_out(archive: Path, tmp_path: Path, name: str) -> None:
    repack(archive, lambda members: members.update({name: b"!"}))
    refuses(archive, "tiny.dsaworld", "leads out of the package")
    assert not list(tmp_path.rglob("escape*"))


def test_an_unlisted_archive_member(archive: Path) -> None:
    repack(archive, lambda members: members.update({"extra.bin": b"!"}))
    refuses(archive, "extra.bin", "not listed in world.json")


@pytest.mark.parametrize("file", [*FILES, "world.json"])
def test_a_missing_archive_member(archive: Path, file: str) -> None:
    repack(archive, lambda members: members.pop(file))
    refuses(archive, file, "missing file")


def test_a_changed_archive_member(archive: Path) -> None:
    def flip(members: dict[str, bytes]) -> None:
        content = bytearray(members["weights.bin"])
        content[10] ^= 1
        members["weights.bin"] = bytes(content)

    repack(archive, flip)
    refuses(archive, "weights.bin", "sha256")


def test_a_shorter_archive_member(archive: Path) -> None:
    repack(archive, lambda members: members.update({"weights.bin": members["weights.bin"][:-1]}))
    refuses(archive, "weights.bin", "bytes, found")


def test_a_compressed_archive(tiny_package: Path, tmp_path: Path) -> None:
    refuses(pack(tiny_package, tmp_path / "w.dsaworld", zipfile.ZIP_DEFLATED), "compressed")


def test_a_name_that_occurs_twice(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as target, pytest.warns(UserWarning, match="Duplicate"):
        target.writestr("card.md", b"another")
    refuses(archive, "card.md", "occurs twice")


def test_a_link_in_an_archive(archive: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as target:
        target.writestr(info, b"/etc/hostname")
    refuses(archive, "link", "not a regular file")


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_truncated_archive(archive: Path, keep: float) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * keep)])
    refuses(archive, "tiny.dsaworld", "not a sound zip archive")


def test_a_damaged_archive_leaves_no_files_behind(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    repack(archive, lambda members: members.update({"weights.bin": b"\x00" * len(members["weights.bin"])}))
    refuses(archive, "weights.bin")
    assert not list((tmp_path / "tmp").iterdir())


def test_a_world_that_fails_to_load_leaves_no_files_behind(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite_model(package, "decode.onnx", lambda m: setattr(m.graph.node[0], "op_type", "Teleport"))
    archive = pack(package, tmp_path / "bad.dsaworld")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    refuses(archive, "Teleport")
    assert not list((tmp_path / "tmp").iterdir())
