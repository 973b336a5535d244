"""Compiling the operator library: what is built, and what is said when it cannot be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dsa_runtime.ops import build, library
from dsa_runtime.ops.build import LIBRARY, REPORT, BuildError, Unit


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The same compiler makes the same object only once for this file: all of them take seconds. What else a build
    does is done every time."""
    folder, compile_anew = tmp_path_factory.mktemp("objects"), build._compile
    objects: dict[tuple[object, ...], Path] = {}

    def compile_once(compiler: str, unit: Unit, scratch: Path, defines: Sequence[str] = ()) -> Path:
        wanted = (compiler, unit, *defines)
        if wanted not in objects:
            objects[wanted] = compile_anew(compiler, unit, Path(tempfile.mkdtemp(dir=folder)), defines)
        return Path(shutil.copy(objects[wanted], scratch / f"{unit.name}.o"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_compile", compile_once)
        yield


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with neither compilers nor CUDA."""
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)


def report(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / REPORT).read_text())
    return content


def compiler_or_skip() -> None:
    try:
        build.find_compiler()
    except BuildError as problem:
        pytest.skip(str(problem))


def test_build_makes_a_library_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler_or_skip()
    line = build.build(tmp_path, cuda=False)
    assert LIBRARY in line and report(tmp_path)["built"] is True
    monkeypatch.setenv(library.VARIABLE, str(tmp_path / LIBRARY))
    found = library.find()
    assert found.version == 1 and found.cuda == ""


def test_only_the_door_is_exported(tmp_path: Path) -> None:
    """And nothing of one instruction set can be taken for another's: its object defines one symbol."""
    compiler_or_skip()
    build.build(tmp_path, cuda=False)
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", str(tmp_path / LIBRARY)], capture_output=True, text=True, check=True
    ).stdout
    exported = {line.split()[-1].partition("@")[0] for line in symbols.splitlines()}
    assert exported == {
        "RegisterCustomOps",
        *(f"dsa_ops_{n}" for n in ("version", "instruction_set", "cuda", "source")),
    }
    for unit in build.units():
        if unit.source != "cpu/attention.cpp":
            continue
        compiled = build._compile(build.find_compiler(), unit, tmp_path)
        lines = subprocess.run(["nm", "-C", str(compiled)], capture_output=True, text=True, check=True).stdout
        visible = [line.split(maxsplit=2)[2] for line in lines.splitlines() if line.split()[-2] in "TDBRWVu"]
        assert visible == [f"dsa::cpu::{unit.name.removeprefix('attention_')}"]


def test_without_a_compiler_the_report_says_what_to_do(tmp_path: Path, no_tools: None) -> None:
    with pytest.raises(BuildError, match=r"no C\+\+ compiler was found; install one"):
        build.build(tmp_path)
    assert report(tmp_path) == {"built": False, "problem": str(report(tmp_path)["problem"])}
    assert "no C++ compiler" in str(report(tmp_path)["problem"]) and not (tmp_path / LIBRARY).exists()
    assert library._why_not_built(tmp_path).startswith("not built: no C++ compiler was found")


def test_a_failed_build_keeps_the_old_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / LIBRARY).write_text("old")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'kernel.cpp:1: error: out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(BuildError, match="out of order"):
        build.build(tmp_path, cuda=False)
    assert (tmp_path / LIBRARY).read_text() == "old" and report(tmp_path)["built"] is False


def test_without_nvcc_insisting_on_cuda_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler_or_skip()
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    with pytest.raises(BuildError, match="nvcc was not found"):
        build.build(tmp_path, cuda=True)


def test_a_broken_nvcc_leaves_the_cpu_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler_or_skip()
    monkeypatch.setattr(build, "find_nvcc", lambda: "/bin/false")
    assert "CUDA kernels: /bin/false failed: exit status 1" in build.build(tmp_path)
    assert report(tmp_path)["built"] is True and "failed" in str(report(tmp_path)["cuda"])


def test_an_nvcc_that_cannot_link_leaves_the_cpu_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler_or_skip()
    nvcc = tmp_path / "nvcc"
    script = """#!/bin/sh
    case " $* " in
      *" --version "*) echo "an nvcc of another kind" ;;
      *" -c "*) for last; do :; done; echo > "$last" ;;
      *) echo "error: cannot find -lcudart_static" >&2; exit 1 ;;
    esac
    """
    nvcc.write_text(script)
    nvcc.chmod(0o755)
    monkeypatch.setenv("NVCC", str(nvcc))
    assert "cannot find -lcudart_static" in build.build(tmp_path)
    monkeypatch.setenv(library.VARIABLE, str(tmp_path / LIBRARY))
    assert library.find().cuda == ""
    with pytest.raises(BuildError, match="cannot find -lcudart_static"):
        build.build(tmp_path, cuda=True)


def test_a_compiler_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "g++-nowhere")
    with pytest.raises(BuildError, match=r"CXX names 'g\+\+-nowhere', which was not found"):
        build.build(tmp_path, cuda=False)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="not a folder that can be written to"):
        build.build(tmp_path / "nowhere", cuda=False)


def test_builds_that_meet_leave_a_whole_library(tmp_path: Path) -> None:
    content, target = os.urandom(1 << 20), tmp_path / LIBRARY
    (tmp_path / "source").write_bytes(content)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: build._place(tmp_path / "source", target), range(40)))
    assert target.read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"source", LIBRARY}


def test_other_processors_get_the_generic_kernel_only() -> None:
    assert [unit.name for unit in build.units("aarch64")] == ["attention_generic", "dispatch", "operators", "library"]
    assert {"attention_avx2", "attention_avx512"} <= {unit.name for unit in build.units("x86_64")}


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compiler_or_skip()
    arguments = ["--no-cuda", "--out", str(tmp_path)]
    assert build.main(arguments) == 0 and LIBRARY in capsys.readouterr().out
    failed = subprocess.run(
        [sys.executable, "-m", "dsa_runtime.ops.build", *arguments],
        env=os.environ | {"CXX": "", "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert failed.returncode == 1 and "not built: no C++ compiler" in failed.stderr
