"""Shell completion: what `dsa completion` prints is taken by the shell, and completes."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from dsa_runtime import cli

pytest.importorskip("shtab")
BASH = """
complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_dsa; echo "${COMPREPLY[@]}"; }
touch world.dsaworld
complete_words dsa re
complete_words dsa demo --bud
complete_words dsa keys al
complete_words dsa verify wor
complete -p dsa
"""


def test_bash_completes_commands_options_and_paths(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    result = subprocess.run(
        ["bash", "--norc", "-u", "-s"],
        input=script + BASH,
        cwd=str(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    command, option, action, path, registered = result.stdout.splitlines()
    assert command.split() == ["record", "replay", "record-env"]
    assert (option, action, path) == ("--budget-ms", "allow", "world.dsaworld")
    assert registered.endswith("_shtab_dsa dsa")


def test_zsh_is_given_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef dsa")
    for command in cli.build_parser()[1]:
        assert f"_shtab_dsa_{command.replace('-', '_')}" in script, command
