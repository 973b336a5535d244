"""Package: a world on disk, opened and verified. Nothing in it has been run.

A package is a folder, or the same folder as an uncompressed zip archive (`*.dsaworld`). Opening checks that
the spec is valid and that every file it lists is present, inside the package, and of the stated size and
SHA-256. Files that are not listed are ignored in a folder and refused in an archive. An archive is unpacked
into a private temporary folder that lives as long as the package, because the graphs refer to their weights
by path.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import shutil
import stat
import tempfile
import weakref
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from .errors import WorldError
from .spec import SPEC_FILE, FileEntry, WorldSpec

DEFAULT_WORLD = "defend-the-line"
_MAX_SPEC_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Package:
    """A verified package. `spec` is trusted from here on, and so are the files in `folder` that it lists."""

    spec: WorldSpec
    folder: Path
    source: Path
    """What was opened: the folder, or the archive that was unpacked to `folder`."""
    _unpacked: _PrivateFolder | None = None

    def path(self, file: str) -> Path:
        """Where a listed file lies."""
        return self.folder / file

    def close(self) -> None:
        """Remove the unpacked copy of an archive. Idempotent; also happens when the package is collected."""
        if self._unpacked is not None:
            self._unpacked.remove()

    def __enter__(self) -> Package:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_package(path_or_name: str | os.PathLike[str] | None = None) -> Package:
    """Open and verify a package.

    A folder, a `.dsaworld` archive, or the name of a bundled world (None: the default one).
    """
    source = _locate(path_or_name)
    if source.is_dir():
        return _open_folder(source)
    if source.is_file():
        return _open_archive(source)
    raise WorldError(f"{source}: no such world (bundled: {', '.join(bundled_worlds()) or 'none'})")


def bundled_worlds() -> tuple[str, ...]:
    """Names of the worlds that come with the SDK."""
    folder = bundled_folder()
    return tuple(sorted(entry.parent.name for entry in folder.glob(f"*/{SPEC_FILE}")))


def bundled_folder() -> Path:
    """Where the worlds lie that come with the SDK."""
    return Path(str(importlib.resources.files(__package__))) / "worlds"


def _locate(path_or_name: str | os.PathLike[str] | None) -> Path:
    name = DEFAULT_WORLD if path_or_name is None else path_or_name
    if isinstance(name, str) and name in bundled_worlds():
        return bundled_folder() / name
    return Path(name)


def _open_folder(folder: Path) -> Package:
    root = folder.resolve()
    spec = WorldSpec.from_json(_read_spec(root / SPEC_FILE), str(folder / SPEC_FILE))
    for file, entry in spec.files.items():
        shown = folder / file
        try:
            real = (root / file).resolve(strict=True)
            if real.parent != root and root not in real.parents:
                raise WorldError(f"{shown}: leads out of the package")
            if not stat.S_ISREG(real.stat().st_mode):
                raise WorldError(f"{shown}: not a regular file")
            if real.stat().st_size != entry.bytes:
                raise WorldError(f"{shown}: expected {entry.bytes} bytes, found {real.stat().st_size}")
            with real.open("rb") as stream:
                _check_digest(stream, entry, str(shown))
        except FileNotFoundError:
            raise WorldError(f"{shown}: missing file") from None
        except OSError as error:
            raise WorldError(f"{shown}: cannot be read: {error.strerror}") from None
    return Package(spec, root, folder)


def _read_spec(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_SPEC_BYTES + 1)
    except FileNotFoundError:
        raise WorldError(f"{path}: missing file") from None
    except OSError as error:
        raise WorldError(f"{path}: cannot be read: {error.strerror}") from None
    if len(text) > _MAX_SPEC_BYTES:
        raise WorldError(f"{path}: larger than {_MAX_SPEC_BYTES} bytes")
    return text


def _open_archive(source: Path) -> Package:
    try:
        with zipfile.ZipFile(source) as archive:
            members = _members(archive, source)
            info = members.pop(SPEC_FILE, None)
            if info is None:
                raise WorldError(f"{source}: {SPEC_FILE}: missing file")
            if info.file_size > _MAX_SPEC_BYTES:
                raise WorldError(f"{source}: {SPEC_FILE}: larger than {_MAX_SPEC_BYTES} bytes")
            spec = WorldSpec.from_json(archive.read(info), f"{source}: {SPEC_FILE}")
            return _unpack(archive, members, spec, source)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise WorldError(f"{source}: not a sound zip archive: {error}") from None
    except OSError as error:
        raise WorldError(f"{source}: cannot be read: {error.strerror or error}") from None


def _members(archive: zipfile.ZipFile, source: Path) -> dict[str, zipfile.ZipInfo]:
    if min((info.header_offset for info in archive.infolist()), default=1) != 0:
        # A truncated archive may still end like one, because the npz file in it is an archive too.
        raise zipfile.BadZipFile("it does not begin with its first member")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        where = f"{source}: {info.filename}"
        if info.filename in members:
            raise WorldError(f"{where}: occurs twice")
        if Path(info.filename).name != info.filename or "\\" in info.filename or info.filename in ("", ".", ".."):
            raise WorldError(f"{where}: leads out of the package")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise WorldError(f"{where}: not a regular file")
        if info.flag_bits & 1:
            raise WorldError(f"{where}: encrypted")
        if info.compress_type != zipfile.ZIP_STORED:
            # Stored members cannot be larger unpacked than packed, so an archive is no bomb.
            raise WorldError(f"{where}: compressed; a world archive stores its files as they are")
        members[info.filename] = info
    return members


def _unpack(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], spec: WorldSpec, source: Path) -> Package:
    for file in members:
        if file not in spec.files:
            raise WorldError(f"{source}: {file}: not listed in {SPEC_FILE}")
    for file, entry in spec.files.items():
        if file not in members:
            raise WorldError(f"{source}: {file}: missing file")
        if members[file].file_size != entry.bytes:
            raise WorldError(f"{source}: {file}: expected {entry.bytes} bytes, found {members[file].file_size}")
    unpacked = _PrivateFolder()
    folder = unpacked.path
    try:
        for file, entry in spec.files.items():
            with archive.open(members[file]) as packed, (folder / file).open("xb") as plain:
                shutil.copyfileobj(packed, plain, _CHUNK_BYTES)
            with (folder / file).open("rb") as stream:  # what lies on disk is what will be loaded
                _check_digest(stream, entry, f"{source}: {file}")
    except BaseException:
        unpacked.remove()
        raise
    return Package(spec, folder, source, unpacked)


class _PrivateFolder:
    """A temporary folder of mode 0700 that goes when it is removed, collected, or the process ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="dsa-world-"))
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _check_digest(stream: IO[bytes], entry: FileEntry, where: str) -> None:
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK_BYTES):
        digest.update(chunk)
    if digest.hexdigest() != entry.sha256:
        raise WorldError(f"{where}: sha256 does not match: the file is damaged or was changed")
