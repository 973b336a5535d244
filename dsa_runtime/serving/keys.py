"""Keys: CURVE key pairs on disk, and the list of the public ones that a server lets in.

Files have the format of `zmq.auth` certificates: `NAME.key` is public, `NAME.key_secret` is not. An allow-list is a
text file with one public key a line, a word or two about whose it is behind it, and lines of comment that begin
with "# ".
"""

from __future__ import annotations

import os
import re
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path

import zmq
import zmq.auth
from zmq.utils import z85

from ..errors import ServingError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PUBLIC_BANNER = "# Public CURVE key of the DSA Runtime: give it to whoever shall recognise you."
_SECRET_BANNER = "# SECRET CURVE key of the DSA Runtime: it stays on this machine, readable by you alone."
_ALLOW_BANNER = "# Public keys that `dsa serve` lets in, one a line. A running server notices changes.\n"
_KEY_CHARACTERS = 40


@dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair, both as 40 bytes of Z85 text."""

    public: bytes
    secret: bytes = field(repr=False)


def keys_folder() -> Path:
    """Where keys are kept: `dsa-runtime/keys` in the user's configuration folder ($XDG_CONFIG_HOME or ~/.config)."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(configured) if os.path.isabs(configured) else Path.home() / ".config"
    return base / "dsa-runtime" / "keys"


def default_allow_list() -> Path:
    """The list that `dsa keys allow` writes and `dsa serve` reads unless told otherwise."""
    return keys_folder() / "allowed"


def new_key(name: str) -> Path:
    """Make a key pair; returns the path of its public file. An existing key is never overwritten."""
    if not _NAME.fullmatch(name):
        raise ServingError(f"key name: 1 to 64 letters, digits, '.', '_' or '-', not first a sign, got {name!r}")
    folder = _private_folder()
    public, secret = zmq.curve_keypair()
    while public.startswith(b"-"):  # it would look like an option on a command line
        public, secret = zmq.curve_keypair()
    certificate = f'metadata\n    name = {name}\ncurve\n    public-key = "{public.decode()}"\n'
    target, kept = folder / f"{name}.key", folder / f"{name}.key_secret"
    if target.exists():
        raise _taken(target)
    # The secret one first: it decides who is first where two make a key of one name.
    _create(kept, f'{_SECRET_BANNER}\n{certificate}    secret-key = "{secret.decode()}"\n')
    _create(target, f"{_PUBLIC_BANNER}\n{certificate}")
    return target


def list_keys() -> dict[str, bytes]:
    """Public keys of the key pairs of this user, by name."""
    names = sorted(path.name.removesuffix(".key_secret") for path in keys_folder().glob("*.key_secret"))
    return {name: load_key(name).public for name in names}


def load_key(name_or_path: str | os.PathLike[str]) -> KeyPair:
    """A key pair by its name, or from a secret certificate anywhere. Refuses one that others can read."""
    path = _resolve(name_or_path, ".key_secret")
    public, secret = _certificate(path)
    if secret is None:
        raise ServingError(f"{path}: holds a public key only; give the secret file, *.key_secret")
    if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        raise ServingError(f"{path}: a secret key that others can read (mode {mode:04o}); chmod 600 it")
    return KeyPair(public, _checked(secret, str(path)))


def public_key(key: str | os.PathLike[str]) -> bytes:
    """A public key as 40 bytes of Z85 text: from such a text, a name of a key pair or a path of a certificate."""
    text = os.fspath(key)
    if len(text) == _KEY_CHARACTERS and _is_key(text.encode("utf-8", "replace")):
        return text.encode()
    return _certificate(_resolve(key, ".key"))[0]


def allow(key: str | os.PathLike[str], note: str = "", file: Path | None = None) -> bool:
    """Put a public key on an allow-list (the default one). False if it is there already."""
    public = public_key(key)
    if file is None:
        _private_folder()
        file = default_allow_list()
    if file.exists() and public in read_allow_list(file):
        return False
    note = " ".join((note or (text if (text := os.fspath(key)) != public.decode() else "")).split())
    with open(os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "r+", encoding="utf-8") as stream:
        before = stream.read()
        if not before:
            stream.write(_ALLOW_BANNER)
        elif not before.endswith("\n"):
            stream.write("\n")
        stream.write(f"{public.decode()} {note}".rstrip() + "\n")
    return True


def read_allow_list(file: Path) -> frozenset[bytes]:
    """The public keys of an allow-list. Raises `ServingError` naming the line that is none."""
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ServingError(f"allow-list {file}: {getattr(error, 'strerror', None) or error}") from None
    keys = set()
    for number, line in enumerate(lines, 1):
        words = line.split(maxsplit=1)
        if words and words[0] != "#":  # a key may begin with that sign, but is never this word
            keys.add(_checked(words[0].encode(), f"allow-list {file}, line {number}"))
    return frozenset(keys)


class AllowList:
    """Who is let in, by a file that may change while the server runs.

    If it cannot be read any more, nobody is: a list that is damaged or gone must not let in whom it no longer names.
    """

    def __init__(self, file: Path) -> None:
        """Raises `ServingError` for a list that is missing, damaged or empty."""
        self._file = file
        self._stamp = self._look()
        self._keys = read_allow_list(file)
        if not self._keys:
            raise ServingError(f"allow-list {file}: empty, so nobody could connect; `dsa keys allow PUBLIC` adds a key")

    def allows(self, public: bytes) -> bool:
        """Whether the holder of this key (Z85 text) may connect."""
        stamp = self._look()
        if stamp != self._stamp:
            self._keys = read_allow_list(self._file)
            self._stamp = stamp
        return public in self._keys

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._file.stat()
        except OSError as error:
            raise ServingError(f"allow-list {self._file}: {error.strerror}") from None
        return found.st_ino, found.st_mtime_ns, found.st_size


def _private_folder() -> Path:
    folder = keys_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        folder.chmod(0o700)
    return folder


def _create(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise _taken(path) from None
    with open(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)


def _taken(path: Path) -> ServingError:
    return ServingError(f"{path}: there is such a key already; choose another name")


def _resolve(name_or_path: str | os.PathLike[str], suffix: str) -> Path:
    """A path as it is; a mere name in the folder of keys."""
    text = os.fspath(name_or_path)
    path = Path(text)
    if path.exists() or os.sep in text:
        return path
    return keys_folder() / (text if text.endswith(suffix) else text + suffix)


def _certificate(path: Path) -> tuple[bytes, bytes | None]:
    if not path.is_file():
        raise ServingError(f"no such key: {path}; `dsa keys new NAME` makes one, `dsa keys list` shows them")
    try:
        public, secret = zmq.auth.load_certificate(path)
    except ValueError:
        raise ServingError(f"{path}: not a CURVE certificate, it holds no public key") from None
    return _checked(public, str(path)), secret


def _checked(key: bytes, where: str) -> bytes:
    if not _is_key(key):
        raise ServingError(f"{where}: not a CURVE key (40 characters of Z85)")
    return key


def _is_key(key: bytes) -> bool:
    if len(key) != _KEY_CHARACTERS:
        return False
    try:
        return z85.encode(z85.decode(key)) == key
    except (KeyError, struct.error):  # a character, or a group of five, that is none
        return False
