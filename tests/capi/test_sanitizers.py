"""The C half and its programs under sanitizers and valgrind. What is suppressed, and why, stands in *.supp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.capi.conftest import PROGRAMS, attempt, compile_program, need_sanitizer, run_in_valgrind
from tests.capi.library import built

HERE = Path(__file__).parent
ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1")
THREAD = ("-fsanitize=thread", "-O1")
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1",
    "LSAN_OPTIONS": f"suppressions={HERE / 'lsan.supp'}:print_suppressions=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}
ACTIONS = np.arange(8, dtype=np.int32) % 4

pytestmark = pytest.mark.slow


def arguments(name: str, package: Path, folder: Path) -> list[object]:
    return [package, folder / "frames", 2] if name == "play" else [package]


def check_program(name: str, flags: tuple[str, ...], package: Path, folder: Path) -> None:
    need_sanitizer(folder, flags)
    prefix = built(flags)
    path = compile_program(PROGRAMS / f"{name}.c", folder / name, prefix, *flags)
    done = attempt(path, *arguments(name, package, folder), stdin=ACTIONS.tobytes(), **OPTIONS)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode(errors="replace")


@pytest.mark.parametrize("name", ["misuse", "play", "threads", "manners", "start"])
def test_addresses_leaks_and_undefined_behaviour(name: str, tiny_package: Path, tmp_path: Path) -> None:
    check_program(name, ADDRESS, tiny_package, tmp_path)


@pytest.mark.parametrize("name", ["play", "threads"])
def test_races(name: str, tiny_package: Path, tmp_path: Path) -> None:
    check_program(name, THREAD, tiny_package, tmp_path)


def test_a_sanitizer_would_notice(tiny_package: Path, tmp_path: Path) -> None:
    """The suppressions do not hide what is ours: a handle whose data is not freed."""
    leaking = tmp_path / "leaking.c"
    leaking.write_text(
        '#include "check.h"\n'
        "int main(void) { dsa_runtime *runtime; CHECK(dsa_runtime_open(NULL, &runtime) == DSA_OK);"
        " void *volatile lost = malloc(24); lost = NULL; return lost != NULL; }\n"
    )
    path = compile_program(leaking, tmp_path / "leaking", built(ADDRESS), *ADDRESS)
    done = attempt(path, **OPTIONS)
    assert done.returncode != 0 and b"24 byte(s) leaked" in done.stderr


@pytest.mark.parametrize("name", ["misuse", "play", "threads"])
def test_valgrind(program: Callable[[str], Path], tiny_package: Path, tmp_path: Path, name: str) -> None:
    given = arguments(name, tiny_package, tmp_path)
    run_in_valgrind(program(name), *given, stdin=ACTIONS.tobytes(), PYTHONMALLOC="malloc")
