"""`python -m dsa_runtime.capi`, and how programs find what it has built."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from dsa_runtime.capi import __main__ as command
from dsa_runtime.capi import build as building
from dsa_runtime.capi import sources
from dsa_runtime.capi.build import BuildError, build, find_compiler, soname
from tests.capi.conftest import PROGRAMS, attempt, run

ROOT = Path(__file__).parents[2]
CMAKE = """
cmake_minimum_required(VERSION 3.16)
project(program C)
find_package(dsa_runtime 1.0 REQUIRED)
add_executable(program "{source}")
target_link_libraries(program PRIVATE dsa::runtime)
"""


def test_the_flags_that_it_prints_link_a_program(
    prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--cflags", "--libs", "--out", str(prefix)]) == 0
    flags = shlex.split(capsys.readouterr().out)
    compile_with(flags, tmp_path / "start")
    assert run(tmp_path / "start") == "DSA_OK \n"


def test_pkg_config_finds_it_wherever_it_was_moved(
    prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("pkg-config"):
        pytest.skip("no pkg-config")
    moved = shutil.copytree(prefix, tmp_path / "moved", symlinks=True)
    monkeypatch.setenv("PKG_CONFIG_PATH", str(moved / "lib" / "pkgconfig"))
    asked = ["pkg-config", "--cflags", "--libs", "dsa_runtime >= 1.0"]
    compile_with(shlex.split(subprocess.check_output(asked, text=True)), tmp_path / "start")
    assert run(tmp_path / "start", LD_LIBRARY_PATH=str(moved / "lib")) == "DSA_OK \n"


def test_cmake_finds_it(prefix: Path, tmp_path: Path) -> None:
    if not shutil.which("cmake"):
        pytest.skip("no cmake")
    (tmp_path / "CMakeLists.txt").write_text(CMAKE.format(source=PROGRAMS / "start.c"))
    configure = ["cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}"]
    for step in (configure, ["cmake", "--build", tmp_path / "build"]):
        done = subprocess.run(step, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert run(tmp_path / "build" / "program") == "DSA_OK \n"


def test_only_the_functions_of_the_header_are_exported_and_it_has_a_soname(prefix: Path) -> None:
    if not shutil.which("nm"):
        pytest.skip("no nm")
    library = prefix / "lib" / soname()
    exported = subprocess.check_output(["nm", "-D", "--defined-only", library], text=True).split()[2::3]
    header = (prefix / "include" / "dsa_runtime.h").read_text()
    assert len(exported) == header.count("\nDSA_API ")
    assert all(f" {name}(" in header or f"*{name}(" in header for name in exported)
    assert soname().encode() + b"\0" in library.read_bytes()


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [("Py_ENABLE_SHARED", 0, "no shared library to embed"), ("include", "/nowhere", "no Python.h")],
)
def test_a_python_that_cannot_be_embedded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    value: object,
    words: str,
) -> None:
    if setting == "include":
        monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": value})
    else:
        monkeypatch.setattr(sysconfig, "get_config_var", {setting: value}.get)
    assert command.main(["build", "--out", str(tmp_path / "out")]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(BuildError, match="CC names 'no-such-compiler'"):
        build(tmp_path / "out")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="no C compiler was found"):
        build(tmp_path / "out")


def test_a_failed_build_leaves_the_library_that_was_there(prefix: Path, tmp_path: Path) -> None:
    there = tmp_path / "lib" / soname()
    there.parent.mkdir()
    there.write_text("older")
    with pytest.raises(BuildError, match="no-such-option"):
        build(tmp_path, flags=("-fno-such-option",))
    assert there.read_text() == "older"


def test_where_it_may_not_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="file"):
        build(tmp_path / "file")


def test_comments_are_no_other_version_and_declarations_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = shutil.copytree(sources.sources_folder(), tmp_path / "c")
    before = sources.source_digest()
    monkeypatch.setattr(sources, "_CHECKOUT", copied)
    monkeypatch.setattr(sources, "_INSTALLED", copied)
    header = copied / sources.HEADER
    header.write_text("/* a\n * comment */\n" + header.read_text().replace("\n\n", "\n\n\n"))
    assert sources.source_digest() == before
    header.write_text(header.read_text().replace("uint64_t tick;", "uint32_t tick;"))
    assert sources.source_digest() != before


def test_nothing_to_do_is_said() -> None:
    with pytest.raises(SystemExit):
        command.main([])


@pytest.mark.slow
def test_an_installed_package_brings_its_sources(tmp_path: Path, tiny_package: Path) -> None:
    """From a source distribution, in an environment of its own that sees this one's requirements."""
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(
        ".git", "runs", "data", "worlds", "exporters", "tests", "*.egg-info", "build", ".*"
    )
    shutil.copytree(ROOT, checkout, ignore=ignored)
    python = [sys.executable, "-c", "import setuptools.build_meta as b, sys; getattr(b, sys.argv[1])(sys.argv[2])"]
    subprocess.run([*python, "build_sdist", str(tmp_path)], cwd=checkout, check=True, capture_output=True)
    [archive] = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "sdist")
    [unpacked] = (tmp_path / "sdist").iterdir()
    subprocess.run([*python, "build_wheel", str(tmp_path)], cwd=unpacked, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "installed", "zip")

    environment = {"PYTHONPATH": str(tmp_path / "installed")}
    asked = [sys.executable, "-m", "dsa_runtime.capi", "build", "--out", str(tmp_path / "out")]
    built = attempt(Path(asked[0]), *asked[1:], **environment)
    assert built.returncode == 0, built.stderr.decode()
    compile_with(shlex.split(building.cflags(tmp_path / "out") + " " + building.libs(tmp_path / "out")), tmp_path / "p")
    assert run(tmp_path / "p", **environment) == "DSA_OK \n"


def compile_with(flags: list[str], path: Path) -> None:
    """One of the programs, with nothing but these flags."""
    command = [*shlex.split(find_compiler()), str(PROGRAMS / "start.c"), "-o", str(path), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
