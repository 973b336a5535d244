"""Write docs/command-line.md from the commands themselves:

    python docs/command_line.py > docs/command-line.md

It has no text of help that depends on the terminal or on the version of Python.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

_HEAD = """# Command line

<!-- Written by docs/command_line.py from the commands themselves; a test compares. -->

Results go to stdout, progress and errors to stderr. With `--json` a command prints one JSON document. The exit status
is 0, 2 for a problem with what was asked or given (one line says which, and what to do), or 130 when interrupted.

`dsa completion bash` prints a script that completes commands, options and paths; see [below](#dsa-completion).
"""


def page(parser: argparse.ArgumentParser) -> str:
    """The page, for the parser of `dsa`."""
    commands = _subcommands(parser)
    helps = {choice.dest: choice.help for action in _menus(parser) for choice in action._choices_actions}
    lines = [_HEAD, "| command | |", "|---|---|"]
    lines += [f"| [`dsa {name}`](#dsa-{name}) | {_cell(helps[name] or '')} |" for name in commands]
    for name, command in commands.items():
        lines += ["", f"## dsa {name}", "", *_description(command)]
        lines += _table(command)
        for action, part in _subcommands(command).items():
            lines += ["", f"### dsa {name} {action}", "", *_table(part)]
    return "\n".join(lines) + "\n"


def _menus(parser: argparse.ArgumentParser) -> Iterator[argparse._SubParsersAction]:
    return (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {name: each for action in _menus(parser) for name, each in action.choices.items()}


def _description(parser: argparse.ArgumentParser) -> list[str]:
    """As its module says; indented lines are commands."""
    text = re.sub(r"^`dsa [\w-]+`: ", "", parser.description or "").strip()
    paragraphs = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("    "):
            paragraph = "```sh\n" + re.sub(r"^    ", "", paragraph, flags=re.M) + "\n```"
        else:
            paragraph = re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", " ".join(paragraph.split()))
            paragraph = paragraph[:1].upper() + paragraph[1:]
        paragraphs += [paragraph, ""]
    return paragraphs


def _table(parser: argparse.ArgumentParser) -> list[str]:
    rows = []
    for action in parser._actions:
        if action.dest == "help" or isinstance(action, argparse._SubParsersAction):
            continue
        if action.nargs == argparse.REMAINDER:
            rows.append("| ... | see `--help` |")
            continue
        value = str(action.metavar or "") if action.choices is None else "\\|".join(map(str, action.choices))
        if action.option_strings:
            needs_value = action.nargs != 0
            name = f"`{action.option_strings[0]}{f' {value or action.dest.upper()}' if needs_value else ''}`"
        else:
            optional = action.nargs in ("?", "*")
            name = f"`{f'[{value or action.dest}]' if optional else value or action.dest}`"
        what = _cell((action.help or "") % {**vars(action), "prog": "dsa"})
        rows.append(f"| {name} | {what}{' **Required.**' if action.required and action.option_strings else ''} |")
    return ["| | |", "|---|---|", *rows] if rows else []


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    from dsa_runtime.cli import build_parser

    print(page(build_parser()[0]), end="")
