"""Every block of code in the documentation runs, compiles or parses.

The Python blocks of a page share a namespace and run in their order, in an empty folder. A block that cannot run here
carries a comment that says why, and is reported as skipped with that reason.
"""

from __future__ import annotations

import linecache
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import dsa_runtime
from dsa_runtime import cli
from tests.docs.pages import PAGES, ROOT, Block, blocks
from tests.serving.serve import serve

ADDRESS = "tcp://127.0.0.1:5577"
"""Where `dsa serve` listens. Blocks that use it are given a server of the bundled world, at a free port."""
ALL = [block for page in PAGES for block in blocks(page)]
_SHELL = ("sh", "bash", "console")
_COMPILERS = {
    "c": ("gcc", "-std=c11 -Wall -Werror -fsyntax-only -x c -I {root}/bindings/c {file}"),
    "cpp": ("g++", "-std=c++17 -Wall -Werror -fsyntax-only -x c++ -I {root}/bindings/c {file}"),
    "csharp": ("mcs", "-target:library -out:{folder}/out.dll {file} {root}/bindings/wire/csharp/DsaClient.cs"),
    "javascript": ("node", "--check {file}"),
    "rust": ("rustfmt", "--emit stdout --edition 2021 {file}"),
}
_SUFFIXES = {"c": ".c", "cpp": ".cpp", "csharp": ".cs", "javascript": ".js", "rust": ".rs"}


def label(block: Block) -> str:
    return f"{block.page}:{block.line}"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with (
        dsa_runtime.load_world(threads=1) as world,
        serve(world, tmp_path_factory.mktemp("served"), bind="tcp://127.0.0.1:*") as server,
    ):
        yield server.address


RUN = ("python", "hidden")


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.language in RUN for b in blocks(page))], ids=str)
def test_python_blocks_run(
    page: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": f"page {page}"}
    for block in blocks(page):
        if block.language not in RUN or block.not_run is not None:
            continue
        code = block.code
        if ADDRESS in code:
            code = code.replace(ADDRESS, request.getfixturevalue("address"))
        name = label(block)
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)  # for the traceback
        exec(compile(code, name, "exec"), namespace)


@pytest.mark.parametrize("block", [b for b in ALL if b.language in _COMPILERS], ids=label)
def test_blocks_of_other_languages_compile(block: Block, tmp_path: Path) -> None:
    program, arguments = _COMPILERS[block.language]
    if block.not_run is not None:
        pytest.skip(block.not_run)
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    file = tmp_path / f"block{_SUFFIXES[block.language]}"
    file.write_text(block.code)
    (tmp_path / "dsa.rs").touch()  # the module that the reader copies; only the block is looked at
    command = [program, *arguments.format(root=ROOT, file=file, folder=tmp_path).split()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, f"{label(block)}\n{result.stdout}{result.stderr}"


@pytest.mark.parametrize("block", [b for b in ALL if b.language in _SHELL], ids=label)
def test_shell_blocks_are_right(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands of this project parse, their modules and targets exist, and so do the files of it that they name."""
    for line in block.code.replace("\\\n", " ").splitlines():
        for words in commands(line):
            where = f"{label(block)}: {' '.join(words)}"
            if words[0] == "dsa" and words[1] != "record-env":  # whose arguments the training side reads
                parser, _ = cli.build_parser()
                try:
                    parser.parse_args(words[1:])
                except SystemExit as stop:
                    assert stop.code == 0, f"{where}\n{capsys.readouterr().err}"
            elif words[0] == "make":
                targets = re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M)
                assert {word for word in words[1:] if re.fullmatch(r"[a-z][\w-]*", word)} <= set(targets), where
            elif words[0].startswith("python") and words[1:2] == ["-m"]:
                module = ROOT / words[2].replace(".", "/")
                ours = (ROOT / words[2].partition(".")[0]).is_dir()
                assert not ours or (module / "__main__.py").is_file() or module.with_suffix(".py").is_file(), where
            for word in words[1:]:
                if re.fullmatch(r"(?:exporters|examples|tests|docs|bindings|dsa_runtime)/[\w./-]+", word):
                    assert (ROOT / word).exists(), where


def commands(line: str) -> Iterator[list[str]]:
    """The commands of a line of shell, without comments, redirections and settings of variables."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for word in [*lexer, ";"]:
        if re.fullmatch(r"[&|;]+", word):
            if words[1:]:
                yield words
            words = []
        elif re.fullmatch(r"[<>]+", word):
            skip = True  # a file
        elif skip:
            skip = False
        elif words or not re.fullmatch(r"\w+=.*", word):
            words.append(word)


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "python" and b.not_run is not None], ids=label)
def test_block_that_cannot_run_is_python_all_the_same(block: Block) -> None:
    compile(block.code, label(block), "exec")
    pytest.skip(f"block of documentation: {block.not_run}")


def test_it_notices_a_block_that_fails(tmp_path: Path) -> None:
    """The checks above are worth nothing if broken blocks pass them."""
    assert list(commands("A=1 dsa serve --x >log & make a   # why")) == [["dsa", "serve", "--x"], ["make", "a"]]
    text = "# T\n\n<!-- not run: no GPU -->\n```python\n1 / 0\n```\n\n<!-- test\nx = 1\n-->\n"
    (tmp_path / "page.md").write_text(text)
    first, second = blocks(Path(os.path.relpath(tmp_path / "page.md", ROOT)))
    assert (first.language, first.line, first.code, first.not_run) == ("python", 5, "1 / 0\n", "no GPU")
    assert (second.language, second.line, second.code) == ("hidden", 9, "x = 1\n")
