"""Which form a world runs in: chosen at load, never silently, and bad wishes are refused."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from dsa_runtime import EngineError, load_world
from dsa_runtime.form import choose_form
from dsa_runtime.ops import library
from dsa_runtime.ops.library import LibraryMissing, OperatorLibrary
from dsa_runtime.package import open_package
from dsa_runtime.spec import OpsSpec, WorldSpec

STUB = """
extern "C" int dsa_ops_version() { return %d; }
extern "C" const char* dsa_ops_instruction_set() { return "none"; }
extern "C" const char* dsa_ops_cuda() { return ""; }
extern "C" const char* dsa_ops_source() { return ""; }
"""


@pytest.fixture
def with_op_form(tiny_package: Path) -> WorldSpec:
    """A spec that lists graphs of the op form. Only the spec: nothing of it is run."""
    with open_package(tiny_package) as package:
        spec = package.spec
    graphs = {**spec.graphs, "denoise_op": spec.graphs["denoise"], "commit_op": spec.graphs["commit"]}
    return dataclasses.replace(spec, graphs=graphs)


@pytest.fixture
def present(monkeypatch: pytest.MonkeyPatch) -> OperatorLibrary:
    """Pretends that a library of version 1 was found."""
    found = OperatorLibrary("/somewhere/libdsa_ops.so", 1, "avx2", "")
    monkeypatch.setattr("dsa_runtime.form.find", lambda: found)
    monkeypatch.setattr("dsa_runtime.form._try_to_register", lambda library: None)
    return found


def stub(folder: Path, source: str) -> Path:
    path = folder / "libstub.so"
    (folder / "stub.cpp").write_text(source)
    try:
        subprocess.run(["c++", "-shared", "-fPIC", str(folder / "stub.cpp"), "-o", str(path)], check=True)
    except FileNotFoundError:
        pytest.skip("no C++ compiler")
    return path


def test_operators_are_taken_where_both_sides_have_them(with_op_form: WorldSpec, present: OperatorLibrary) -> None:
    for wanted in ("auto", "op"):
        choice = choose_form(with_op_form, wanted)
        assert (choice.form, choice.library) == ("op", present)
        assert [choice.graph(name) for name in ("denoise", "commit", "decode")] == ["denoise_op", "commit_op", "decode"]


def test_plain_is_taken_when_asked_for(with_op_form: WorldSpec, present: OperatorLibrary) -> None:
    choice = choose_form(with_op_form, "plain")
    assert (choice.form, choice.library, choice.graph("denoise")) == ("plain", None, "denoise")


def test_a_world_of_the_plain_form_says_so(tiny_package: Path, present: OperatorLibrary) -> None:
    with open_package(tiny_package) as package:
        assert "plain form only" in choose_form(package.spec).reason
        with pytest.raises(EngineError, match="plain form only"):
            choose_form(package.spec, "op")


def test_a_world_that_needs_newer_operators_runs_in_the_plain_form(
    with_op_form: WorldSpec, present: OperatorLibrary
) -> None:
    newer = dataclasses.replace(with_op_form, ops=OpsSpec("dsa", 2))
    choice = choose_form(newer)
    assert choice.form == "plain" and "version 2" in choice.reason and "update" in choice.reason
    with pytest.raises(EngineError, match="needs version 2"):
        choose_form(newer, "op")


def test_without_a_library(with_op_form: WorldSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, "none")
    assert choose_form(with_op_form).form == "plain"
    with pytest.raises(EngineError, match=f"form: 'op' is not possible: {library.VARIABLE}"):
        choose_form(with_op_form, "op")


def test_an_unknown_form_is_refused_before_anything_is_loaded(tiny_package: Path) -> None:
    with pytest.raises(EngineError, match="form: expected one of auto, op, plain, half, got 'fast'"):
        load_world(tiny_package, form="fast")


def test_the_world_says_its_form(tiny_package: Path) -> None:
    with load_world(tiny_package) as world:
        assert world.form == "plain"


def test_a_library_of_another_version_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stub(tmp_path, STUB % 7)
    monkeypatch.setenv(library.VARIABLE, str(path))
    assert library.find() == OperatorLibrary(str(path), 7, "none", "")


@pytest.mark.parametrize("source", ["", 'extern "C" int dsa_ops_version() { return 1; }'])
def test_a_foreign_library_is_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, str(stub(tmp_path, source)))
    with pytest.raises(LibraryMissing, match="cannot be loaded"):
        library.find()


def test_a_relative_path_is_taken_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stub(tmp_path, STUB % 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(library.VARIABLE, path.name)
    assert library.find().path == str(path)


def test_a_library_that_onnxruntime_does_not_take(
    with_op_form: WorldSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(library.VARIABLE, str(stub(tmp_path, STUB % 1)))  # without RegisterCustomOps
    choice = choose_form(with_op_form)
    assert choice.form == "plain" and "ONNX Runtime does not take it" in choice.reason


def test_a_library_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        library.find()
    except LibraryMissing as problem:
        pytest.skip(f"no operator library: {problem}")
    monkeypatch.setattr(library, "source_digest", lambda: "another")
    library._open.cache_clear()
    try:
        with pytest.raises(LibraryMissing, match=r"of other sources than these; `python -m dsa_runtime.ops.build`"):
            library.find()
    finally:
        library._open.cache_clear()


def test_the_form_is_chosen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with load_world(threads=1) as world:
        form, reason = world.form, world.form_reason
        monkeypatch.setenv(library.VARIABLE, "none")
        with world.session(threads=2) as session:
            session.step(0)
        assert (world.form, world.form_reason) == (form, reason)


@pytest.mark.parametrize(("name", "problem"), [("nowhere.so", "no such file"), ("text.so", "cannot be loaded")])
def test_a_wrong_path_is_named(name: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.so").write_text("not a library")
    monkeypatch.setenv(library.VARIABLE, str(tmp_path / name))
    with pytest.raises(LibraryMissing, match=problem):
        library.find()
