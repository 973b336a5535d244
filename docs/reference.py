"""Write the reference of the public names as HTML, from their docstrings: `make docs`, or

    python docs/reference.py build/docs

What is aligned in a docstring comes out as a list.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import jinja2
import pdoc
import pdoc.render

MODULES = ("dsa_runtime", r"!dsa_runtime\.", "dsa_runtime.gym")
_CSS = "nav.pdoc h2 { font-size: 1.3rem; } .pdoc .pdoc-code, .pdoc pre { font-size: 0.75rem; }"
_ROW = re.compile(r"(?P<name>\S(?:\S| (?! ))*)(?P<gap> {2,})(?P<text>\S.*)")


def write(folder: Path) -> None:
    """A page per module, into a folder that is made where it is missing."""
    import dsa_runtime

    pdoc.render.env.filters["to_markdown"] = as_markdown
    pdoc.render.configure(docformat="markdown", footer_text=f"dsa-runtime {dsa_runtime.__version__}", show_source=False)
    assert pdoc.render.env.loader is not None
    pdoc.render.env.loader = jinja2.ChoiceLoader([jinja2.DictLoader({"custom.css": _CSS}), pdoc.render.env.loader])
    # Made by functions, not by their constructors, whose arguments would only be in the way.
    for made in (dsa_runtime.World, dsa_runtime.Session, dsa_runtime.Connection, dsa_runtime.RemoteSession):
        made.__init__.__doc__ = "@private"  # type: ignore[misc]
    pdoc.pdoc(*MODULES, output_directory=folder)


def as_markdown(docstring: str) -> str:
    """A docstring with its aligned columns (`name   what it is`) as lists; Markdown would run them together."""
    return "\n\n".join(_list(block) or block for block in docstring.split("\n\n"))


def _list(block: str) -> str | None:
    """The block as a list, if it is aligned columns throughout, or None. Text before the first row stays before."""
    lines = block.strip("\n").split("\n")
    first = next((i for i, line in enumerate(lines) if _ROW.fullmatch(line)), None)
    if first is None or any(line.startswith("    ") for line in lines[:first]):
        return None
    found = _ROW.fullmatch(lines[first])
    assert found is not None
    column = found.start("text")
    rows = list(lines[:first])
    rows += [""] if rows else []
    for line in lines[first:]:
        name, text = line[:column].strip(), line[column:].strip()
        if len(line) > column and line[column - 1] != " ":  # wider than the columns: a row of its own, name below
            return None
        if name:
            name = name if "`" in name else ", ".join(f"`{each}`" for each in name.split(", "))
            rows.append(f"- {name}: {text}" if text else f"- {name}:")
        else:
            rows[-1] += f" {text}"
    return "\n".join(rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write(Path(sys.argv[1]))
