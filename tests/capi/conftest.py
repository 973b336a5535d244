"""Fixtures of the tests of bindings/c/."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsa_runtime.capi.build import ToolsMissing, find_compiler
from tests.capi.library import built

PROGRAMS = Path(__file__).parent / "programs"
VALGRIND = (
    "--quiet",
    "--error-exitcode=9",
    "--leak-check=full",
    "--show-leak-kinds=definite",
    "--errors-for-leak-kinds=definite",
    "--num-callers=40",
    f"--suppressions={PROGRAMS.parent / 'valgrind.supp'}",
)
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
PATIENCE_S = 1800.0  # valgrind, on a machine that is busy

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def prefix() -> Path:
    """The folder of libdsa_runtime, built once."""
    try:
        return built()
    except ToolsMissing as error:
        pytest.skip(str(error).splitlines()[0])


@pytest.fixture(scope="session")
def program(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compiles one of the programs, once."""
    folder = tmp_path_factory.mktemp("programs")

    def compiled(name: str) -> Path:
        path = folder / name
        if not path.exists():
            compile_program(PROGRAMS / f"{name}.c", path, prefix)
        return path

    return compiled


def need_sanitizer(folder: Path, flags: tuple[str, ...]) -> None:
    """Skip where the compiler cannot link even an empty program with these flags."""
    probe = folder / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    command = [*shlex.split(find_compiler()), *flags, str(probe), "-o", str(folder / "probe")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the compiler has no such sanitizer: {done.stderr.strip().splitlines()[-1]}")


def compile_program(source: Path, path: Path, prefix: Path, *flags: str, standard: str = "c11") -> Path:
    """A program that is linked with the library in `prefix`; warnings are errors."""
    compiler = shlex.split(find_compiler()) if source.suffix == ".c" else [shutil.which("c++") or "g++"]
    library = ["-L", str(prefix / "lib"), "-ldsa_runtime", f"-Wl,-rpath,{prefix / 'lib'}", "-lpthread", "-ldl"]
    include = ["-I", str(prefix / "include"), "-I", str(PROGRAMS)]
    command = [*compiler, f"-std={standard}", "-g", *WARNINGS, *flags, *include, str(source), "-o", str(path)]
    done = subprocess.run([*command, *library], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


def run(path: Path, *arguments: object, stdin: bytes = b"", **environment: str | None) -> str:
    """What a program printed. It must succeed, and say nothing on stderr: the library prints nothing."""
    done = attempt(path, *arguments, stdin=stdin, **environment)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode(errors="replace")
    return done.stdout.decode()


def attempt(
    path: Path, *arguments: object, stdin: bytes = b"", **environment: str | None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program with this Python's environment; None takes a variable away."""
    variables = {**os.environ, "DSA_PYTHON": sys.executable, "PYTHONPATH": None, "PYTHONHOME": None, **environment}
    return subprocess.run(
        [str(path), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=PATIENCE_S,
        env={name: value for name, value in variables.items() if value is not None},
    )


def run_in_valgrind(path: Path, *arguments: object, stdin: bytes = b"", **environment: str | None) -> None:
    """As `run`, with nothing found; skips where there is no valgrind. What is suppressed, and why, stands in
    valgrind.supp."""
    valgrind = shutil.which("valgrind")
    if not valgrind:
        pytest.skip("no valgrind (Debian: valgrind)")
    run(Path(valgrind), *VALGRIND, path, *arguments, stdin=stdin, **environment)
