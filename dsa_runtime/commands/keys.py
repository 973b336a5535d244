"""`dsa keys`: make CURVE keys, show them, and say whose clients `dsa serve` lets in."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_json
from .result import Result

HELP = "make and list the keys of servers and clients, and allow clients in"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="make a key pair; an existing one is never overwritten")
    new.add_argument("name", metavar="NAME", help="for whom or what: a server, a robot")
    listed = actions.add_parser("list", help="the key pairs of this user, and which keys are allowed in")
    allowed = actions.add_parser("allow", help="let the holder of a key connect, from now on")
    allowed.add_argument(
        "public", metavar="PUBLIC", help="40 characters (in single quotes), or a file or name of a public key"
    )
    for action in (listed, allowed):
        action.add_argument("--allow", type=Path, metavar="FILE", help="allow-list (default: the user's)")
    for action in (new, listed, allowed):
        add_json(action)


def run(options: argparse.Namespace) -> Result:
    from ..serving import keys

    if options.action == "new":
        path = keys.new_key(options.name)
        public = keys.public_key(path).decode()
        document = {"name": options.name, "public": public, "file": str(path)}
        return Result(document, f"{options.name}: {public}\npublic file {path}; the secret one stays beside it")
    file: Path = options.allow or keys.default_allow_list()
    if options.action == "allow":
        public = keys.public_key(options.public).decode()
        new = keys.allow(options.public, file=options.allow)
        document = {"public": public, "file": str(file), "new": new}
        return Result(document, f"{public} {'is now' if new else 'was already'} on {file}")
    pairs = {name: public.decode() for name, public in keys.list_keys().items()}
    allowed = sorted(key.decode() for key in keys.read_allow_list(file)) if file.exists() else []
    return Result({"keys": pairs, "allowed": allowed, "file": str(file)}, _listing(pairs, allowed, file))


def _listing(pairs: dict[str, str], allowed: list[str], file: Path) -> str:
    width = max((len(name) for name in pairs), default=0)
    lines = [f"{name.ljust(width)}  {public}" for name, public in pairs.items()]
    lines = lines or ["no keys yet; `dsa keys new NAME` makes a pair"]
    names = {public: f"  {name}" for name, public in pairs.items()}
    lines += ["", f"allowed by {file}:" if allowed else f"nobody is allowed by {file}; `dsa keys allow PUBLIC`"]
    return "\n".join([*lines, *(f"{public}{names.get(public, '')}" for public in allowed)])
