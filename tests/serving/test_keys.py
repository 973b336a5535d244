"""Keys on disk, the allow-list, and `dsa keys`."""

from __future__ import annotations

import json
import os
import stat
from functools import partial
from pathlib import Path

import pytest
import zmq
import zmq.auth

from dsa_runtime import ServingError
from dsa_runtime.serving import keys
from tests.command_line import Run, run_dsa


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of keys of a user who has none yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "dsa-runtime" / "keys"


@pytest.fixture
def dsa(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `dsa keys` with these arguments: exit status, stdout, stderr."""

    return partial(run_dsa, capsys, "keys")


def public() -> str:
    return zmq.curve_keypair()[0].decode()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_key_is_private_whatever_the_umask(home: Path) -> None:
    before = os.umask(0)
    try:
        path = keys.new_key("robot")
    finally:
        os.umask(before)
    assert path == home / "robot.key"
    assert mode(home) == 0o700
    assert mode(home / "robot.key_secret") == 0o600
    pair = keys.load_key("robot")
    assert zmq.curve_public(pair.secret) == pair.public == keys.public_key("robot") == keys.public_key(path)
    assert pair.secret not in path.read_bytes()
    assert pair.secret.decode() not in repr(pair)
    assert zmq.auth.load_certificate(home / "robot.key_secret") == (pair.public, pair.secret)


def test_a_folder_of_keys_that_others_can_enter_is_closed(home: Path) -> None:
    home.mkdir(parents=True, mode=0o755)
    keys.new_key("robot")
    assert mode(home) == 0o700


@pytest.mark.parametrize("kept", ["robot.key", "robot.key_secret"])
def test_a_key_is_never_overwritten(home: Path, kept: str) -> None:
    keys.new_key("robot")
    (home / ("robot.key" if kept == "robot.key_secret" else "robot.key_secret")).unlink()
    before = (home / kept).read_bytes()
    with pytest.raises(ServingError, match="already"):
        keys.new_key("robot")
    assert [path.name for path in home.iterdir()] == [kept]
    assert (home / kept).read_bytes() == before


@pytest.mark.parametrize("name", ["", "../robot", "a/b", ".hidden", "-x", "a b", "x" * 65, "é"])
def test_names_that_are_no_file_names(home: Path, name: str) -> None:
    with pytest.raises(ServingError, match="key name"):
        keys.new_key(name)


def test_a_public_key_never_looks_like_an_option(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = zmq.curve_keypair()
    drawn = iter([(b"-" + good[0][1:], good[1]), good])
    monkeypatch.setattr(zmq, "curve_keypair", lambda: next(drawn))
    keys.new_key("robot")
    assert keys.public_key("robot") == good[0]


def test_a_secret_key_that_others_can_read_is_refused(home: Path) -> None:
    keys.new_key("robot")
    (home / "robot.key_secret").chmod(0o640)
    with pytest.raises(ServingError, match=r"mode 0640.*chmod 600"):
        keys.load_key("robot")


def test_a_public_certificate_is_no_secret_key(home: Path) -> None:
    with pytest.raises(ServingError, match="public key only"):
        keys.load_key(keys.new_key("robot"))


@pytest.mark.parametrize("text", ["", "nonsense", 'public-key = "short"', 'public-key = "' + "~" * 40 + '"'])
def test_a_damaged_certificate(tmp_path: Path, text: str) -> None:
    file = tmp_path / "robot.key"
    file.write_text(text)
    with pytest.raises(ServingError, match=r"robot\.key: not a CURVE"):
        keys.public_key(file)


def test_a_key_that_does_not_exist(home: Path) -> None:
    with pytest.raises(ServingError, match=r"no such key.*dsa keys new"):
        keys.load_key("nobody")


def test_an_allow_list_holds_keys_comments_and_notes(tmp_path: Path) -> None:
    file = tmp_path / "allowed"
    one, two = public(), public()
    file.write_text(f"# a comment\n\n{one}   the robot in room 4\n  {two}\n#\n")
    assert keys.read_allow_list(file) == {one.encode(), two.encode()}


def test_allowing_is_idempotent_and_keeps_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "allowed"
    one, two = public(), public()
    file.write_text(f"{one} by hand, and no newline at its end")
    assert keys.allow(two, "robot", file)
    assert not keys.allow(two, file=file)
    assert not keys.allow(one, file=file)
    assert file.read_text() == f"{one} by hand, and no newline at its end\n{two} robot\n"


@pytest.mark.parametrize("line", ["short", "x" * 41, "~" * 40, "#" * 40])
def test_a_line_that_is_no_key(tmp_path: Path, line: str) -> None:
    file = tmp_path / "allowed"
    file.write_text(f"{public()}\n{line}\n")
    with pytest.raises(ServingError, match="allowed, line 2: not a CURVE key"):
        keys.AllowList(file)


def test_a_missing_and_an_empty_list_are_errors_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="No such file"):
        keys.AllowList(tmp_path / "allowed")
    (tmp_path / "allowed").write_text("# nobody\n")
    with pytest.raises(ServingError, match=r"nobody could connect.*dsa keys allow"):
        keys.AllowList(tmp_path / "allowed")


def test_a_list_may_change_and_fails_closed(tmp_path: Path) -> None:
    file = tmp_path / "allowed"
    one, two = public(), public()
    file.write_text(f"{one}\n")
    allowed = keys.AllowList(file)
    assert allowed.allows(one.encode())
    assert not allowed.allows(two.encode())
    file.write_text(f"{one} first\n{two}\n")
    assert allowed.allows(two.encode())
    file.write_text(f"{two} alone, and {one} not\n")
    assert not allowed.allows(one.encode())
    for damage in (lambda: file.write_text("garbage\n"), file.unlink):
        damage()
        for _ in range(2):
            with pytest.raises(ServingError):
                allowed.allows(two.encode())
    file.write_text(f"{two} again\n")
    assert allowed.allows(two.encode())


def test_the_command_makes_lists_and_allows(dsa: Run, home: Path) -> None:
    status, out, _ = dsa("new", "robot", "--json")
    assert status == 0
    made = json.loads(out)
    assert made == {"name": "robot", "public": keys.public_key("robot").decode(), "file": str(home / "robot.key")}
    assert dsa("list")[1].splitlines()[0] == f"robot  {made['public']}"
    assert dsa("allow", "robot")[:2] == (0, f"{made['public']} is now on {home / 'allowed'}\n")
    assert "was already" in dsa("allow", made["public"])[1]
    assert dsa("allow", made["file"])[0] == 0
    _, out, _ = dsa("list", "--json")
    assert json.loads(out) == {
        "keys": {"robot": made["public"]}, "allowed": [made["public"]], "file": str(home / "allowed")
    }  # fmt: skip
    assert mode(home / "allowed") == 0o600
    assert keys.load_key("robot").secret.decode() not in dsa("list")[1]


def test_the_command_writes_another_list(dsa: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    dsa("new", "robot")
    assert dsa("allow", "robot", "--allow", other)[0] == 0
    assert keys.read_allow_list(other) == {keys.public_key("robot")}
    assert not keys.default_allow_list().exists()


def test_without_keys_the_command_says_what_to_do(dsa: Run) -> None:
    status, out, _ = dsa("list")
    assert status == 0
    assert "dsa keys new NAME" in out and "dsa keys allow PUBLIC" in out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "required"),
        (("new", "a/b"), "key name"),
        (("allow", "nobody"), "no such key"),
        (("allow", "x" * 40 + "y"), "no such key"),
    ],
)
def test_errors_are_one_line(dsa: Run, arguments: tuple[str, ...], problem: str) -> None:
    status, out, err = dsa(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("dsa keys") and err.count("\n") == 1
    assert problem in err
