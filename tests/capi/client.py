"""libdsa_client for tests: built once per run, called from this process through its header."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from dsa_runtime import Controller, WorldSpec
from tests.capi.conftest import PROGRAMS, WARNINGS
from tests.capi.library import CSession, CWorld, Library

SOURCES = Path(__file__).resolve().parents[2] / "bindings" / "c"
NAME = "libdsa_client.so"
NEEDED = {
    "make": "make",
    "cc": "gcc",
    "pkg-config": "pkg-config",
}
HEADERS = {"libzmq": "libzmq3-dev", "msgpack|msgpack-c": "libmsgpack-dev"}
_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def missing(headers: dict[str, str] = HEADERS) -> str | None:
    """Why nothing can be built here; None if it can. `headers` says which of Debian's packages has what pkg-config
    knows by the names (any of them, between bars)."""
    for program, package in NEEDED.items():
        if not shutil.which(program):
            return f"no {program} (Debian: {package})"
    for names, package in headers.items():
        found = [subprocess.run(["pkg-config", "--exists", name]).returncode == 0 for name in names.split("|")]
        if not any(found):
            return f"no {names} (Debian: {package})"
    return None


@functools.cache
def built(flags: str = "-O1 -g") -> Path:
    """The folder of a library compiled with these flags; kept until the tests end. Skips where that is not possible."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    scratch = tempfile.TemporaryDirectory(prefix="dsa-client-test-")
    _KEPT.append(scratch)
    make(Path(scratch.name), "all", flags)
    return Path(scratch.name)


def make(folder: Path, target: str, flags: str = "-O1 -g", **variables: object) -> None:
    """Run the Makefile, with warnings as errors."""
    settings = {"OUT": folder, "CFLAGS": f"{flags} -Werror", "CXXFLAGS": f"{flags} -Werror", **variables}
    command = [
        "make",
        "-s",
        "-j2",
        "-C",
        str(SOURCES),
        target,
        *(f"{name}={value}" for name, value in settings.items()),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@functools.cache
def library() -> Library:
    """The library, loaded."""
    return Library(built() / NAME)


class ClientWorld(CWorld):
    """A server's world behind the header."""

    def __init__(self, spec: WorldSpec, address: str, world: str | None = None, **config: Any) -> None:
        """config   fields of dsa_runtime_config"""
        self._library, self.spec = library(), spec
        ffi = self._library.ffi
        self._runtime, self._world = ffi.new("dsa_runtime **"), ffi.new("dsa_world **")
        given = {"server": address, **config}
        kept = {name: ffi.new("char[]", value.encode()) for name, value in given.items() if isinstance(value, str)}
        self._library.call("runtime_open", self._library.struct("runtime_config", **{**given, **kept}), self._runtime)
        try:
            name = ffi.NULL if world is None else ffi.new("char[]", world.encode())
            self._library.call(
                "world_open", self._runtime[0], self._library.struct("world_config", world=name), self._world
            )
        except BaseException:
            self.close()
            raise

    def open(self, seed: int = 0, *, controller: Controller | None = None, **config: Any) -> CSession:
        """A session.

        config   fields of dsa_session_config
        """
        session = self._library.ffi.new("dsa_session **")
        given = self._library.controller(controller or Controller())
        settings = self._library.struct("session_config", seed=seed, controller=given, **config)
        self._library.call("session_open", self._world[0], settings, session)
        return CSession(self._library, self.spec, session[0])

    def __enter__(self) -> ClientWorld:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def compile_program(source: Path, path: Path, flags: str = "-O1 -g") -> Path:
    """A C program that is linked with the library of the same flags."""
    folder = built(flags)
    command = ["cc", "-std=c11", *flags.split(), *WARNINGS, "-I", str(SOURCES), "-I", str(PROGRAMS), str(source)]
    link = ["-o", str(path), str(folder / NAME), f"-Wl,-rpath,{folder}", "-lpthread", "-ldl"]
    done = subprocess.run([*command, *link], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path
