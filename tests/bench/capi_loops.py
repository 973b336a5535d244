"""The programs that bench_capi measures with: processes that loop when they are told to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np

from dsa_runtime.capi.build import build, cflags, libs
from tests.capi import client
from tests.capi.conftest import PROGRAMS

HERE = Path(__file__).parent


class Loop:
    """A process of `capi_loop.c` or `capi_python.py`. Use it in a `with` statement."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._command = command
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parents[1]
        )
        self.start_us = np.array(self._line()[1:], float)
        """How long the parts of starting took; empty for Python."""

    def ask(self, *words: object) -> dict[str, np.ndarray]:
        """The series that it prints, by name: microseconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        found = {}
        while (line := self._line())[0] != "done":
            found[line[0]] = np.array(line[1:], float)
        return found

    def _line(self) -> list[str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().split()
        if not line:
            raise RuntimeError(f"{self._command} has ended with status {self._process.wait()}")
        return line

    def __enter__(self) -> Loop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        if error is not None:
            self._process.kill()
        self._process.wait()
        self._process.stdout.close()


class Ways:
    """How a world is reached: from Python (`python`), and from C with either library (`runtime`, `client`)."""

    def __init__(self, folder: Path, libraries: list[str], world: str, threads: int) -> None:
        """Compiles into `folder`. world   path of a package, or name of a bundled one; empty for the default one"""
        self._folder, self._world, self._threads = folder, world, str(threads)
        self.libraries = libraries
        for library in libraries:
            if library == "runtime":
                build(folder / library)
            else:
                (folder / library).mkdir()
                client.make(folder / library, "all", "-O2")
        self._programs = {library: self.compile(HERE / "capi_loop.c", library) for library in libraries}

    def compile(self, source: Path, library: str) -> Path:
        """A program, linked with a library."""
        prefix, program = self._folder / library, self._folder / f"{source.stem}_{library}"
        if library == "runtime":
            flags = [*cflags(prefix).split(), *libs(prefix).split()]
        else:
            flags = ["-I", str(client.SOURCES), str(prefix / client.NAME), f"-Wl,-rpath,{prefix}"]
        command = ["cc", "-std=c11", "-O2", "-I", str(PROGRAMS), str(source), "-o", str(program), *flags]
        subprocess.run(command, check=True)
        return program

    @contextmanager
    def loop(self, way: str) -> Iterator[Loop]:
        """A loop that has made its first step."""
        if way == "python":
            with Loop(
                [sys.executable, "-m", "tests.bench.capi_python", self._world, self._threads], {**os.environ}
            ) as it:
                yield it
            return
        with reachable(way, self._folder, self._world, self._threads) as environment:
            named = (
                "" if way == "client" else self._world
            )  # a server knows its worlds by their names; the first is meant
            with Loop([str(self._programs[way]), named, self._threads], environment) as it:
                yield it


@contextmanager
def reachable(library: str, folder: Path, world: str, threads: str) -> Iterator[dict[str, str]]:
    """The environment of a program; for libdsa_client with a server beside it, in the same scheduling class."""
    environment = {**os.environ, "DSA_PYTHON": sys.executable}
    if library == "runtime":
        yield environment
        return
    address = f"ipc://{folder}/socket"
    command = [sys.executable, "-m", "dsa_runtime.cli", "serve", *([world] if world else []), "--json"]
    server = subprocess.Popen(
        [*command, "--bind", address, "--threads", threads],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    try:
        if not server.stdout.readline():
            raise RuntimeError(f"{command}: the server did not start")
        yield {**environment, "DSA_SERVER": address}
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
