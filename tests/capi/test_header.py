"""dsa_runtime.h: compiles alone, in every language it is for, and says what the library says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from dsa_runtime import errors
from dsa_runtime.capi.build import NAME, version
from dsa_runtime.capi.embedded import STATUS_OF
from dsa_runtime.capi.sources import HEADER, sources_folder
from dsa_runtime.capi.structs import FORMS
from dsa_runtime.controller import POLICIES
from dsa_runtime.tick import Status, StoppedBy
from dsa_runtime.watchdog import ON_MISS
from tests.capi.conftest import WARNINGS, compile_program, run
from tests.capi.library import E_BUSY, E_HANDLE, NO_BUDGET_US, STATUSES, STOPPED_BY, Library

STANDARDS = {"c99": "c", "c11": "c", "c17": "c", "c++17": "c++", "c++20": "c++"}
SIZES = """
#include <dsa_runtime.h>
#include <stdio.h>
int main(void)
{
#define SHOW(type) printf(#type " %u\\n", (unsigned)sizeof(type));
    SHOW(dsa_runtime_config) SHOW(dsa_world_config) SHOW(dsa_session_config) SHOW(dsa_controller)
    SHOW(dsa_spec) SHOW(dsa_tick) SHOW(dsa_session_state)
    return 0;
}
"""


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("standard", STANDARDS)
def test_it_compiles_alone(compiler: str, standard: str, tmp_path: Path) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    source = tmp_path / "alone"
    source.write_text(f'#include "{HEADER}"\n')
    flags = [f"-std={standard}", *WARNINGS, "-Wshadow", "-Wconversion", "-fsyntax-only", "-x", STANDARDS[standard]]
    done = subprocess.run([compiler, *flags, "-I", sources_folder(), source], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_program_at_its_top_plays_the_bundled_world(prefix: Path, tmp_path: Path) -> None:
    printed = run(compile_program(example(tmp_path), tmp_path / "example", prefix, standard="c99")).splitlines()
    assert len(printed) >= 10 and printed[0].startswith("tick 0: ")


def example(folder: Path) -> Path:
    """The program in the comment, as a file."""
    text = (sources_folder() / HEADER).read_text()
    begin, end = text.index("     #include <dsa_runtime.h>"), text.index("   Statuses    Every call")
    lines = [re.sub(r" {3,}\([^()]+\)$", "", line[5:]) for line in text[begin:end].splitlines()]
    source = folder / "example.c"
    source.write_text("\n".join(lines) + "\n")
    return source


@pytest.mark.parametrize(("suffix", "standard"), [("c", "c99"), ("c", "c11"), ("cpp", "c++17")])
def test_structs_have_the_size_that_the_library_expects(
    prefix: Path, tmp_path: Path, suffix: str, standard: str
) -> None:
    source = tmp_path / f"sizes.{suffix}"
    source.write_text(SIZES)
    library = Library(prefix / "lib" / NAME)
    sizes = dict(line.split() for line in run(compile_program(source, tmp_path / "sizes", prefix, standard=standard))
                 .splitlines())  # fmt: skip
    assert len(sizes) == 7
    for name, size in sizes.items():
        init, memory = getattr(library.lib, f"{name}_init"), library.ffi.new("char[]", int(size))
        given = library.ffi.cast(f"{name} *", memory)
        assert init(given, int(size) - 1) == -2, name
        assert init(given, int(size)) == 0, name


def test_versions_and_names(prefix: Path) -> None:
    library = Library(prefix / "lib" / NAME)
    numbers = [int(part) for part in version().split(".")]
    assert library.lib.dsa_version() == numbers[0] * 1000000 + numbers[1] * 1000 + numbers[2]
    assert library.ffi.string(library.lib.dsa_library_name()) == b"libdsa_runtime"
    for name, value in constants().items():
        if re.match(r"DSA_(E_\w+|OK|LATE|REPEATED|SKIPPED)$", name):
            assert library.ffi.string(library.lib.dsa_status_name(value)).decode() == name
    assert library.ffi.string(library.lib.dsa_status_name(99)) == b"unknown status"


def constants() -> dict[str, int]:
    """Numbers that the header gives names to."""
    text = (sources_folder() / HEADER).read_text()
    return {name: int(value) for name, value in re.findall(r"\b(DSA_[A-Z_]+) = (-?\d+)", text)}


def test_both_halves_mean_the_same_by_a_number() -> None:
    named = constants()
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DsaError)}
    for kind in kinds & set(STATUS_OF):
        assert STATUS_OF[kind] == named[f"DSA_E_{kind.__name__.removesuffix('Error').upper()}"]
    assert (named["DSA_E_HANDLE"], named["DSA_E_BUSY"]) == (E_HANDLE, E_BUSY)
    assert {named[f"DSA_STOPPED_{name.upper()}"]: name for name in get_args(StoppedBy)} == STOPPED_BY
    assert [named[f"DSA_{name.upper()}"] for name in get_args(Status)] == [STATUSES.index(name) for name in STATUSES]
    assert [named[f"DSA_POLICY_{name.upper()}"] for name in POLICIES] == [0, 1, 2]
    assert [named[f"DSA_FORM_{name.upper()}"] for name in FORMS] == [0, 1, 2, 3]
    assert [named[f"DSA_ON_MISS_{name.replace('raise', 'error').upper()}"] for name in ON_MISS] == [0, 1, 2]
    assert f"UINT64_C({NO_BUDGET_US:#x})" in (sources_folder() / HEADER).read_text()
