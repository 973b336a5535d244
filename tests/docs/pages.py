"""The pages of the documentation, read with a CommonMark parser: code blocks, links, headings."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT)
    for path in (
        ROOT / "README.md",
        ROOT / "dsa_runtime/serving/PROTOCOL.md",
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("bindings/*/README.md"),
        *ROOT.glob("examples/**/README.md"),
    )
)
_HIDDEN = "<!-- test"
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+?) -->\s*", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A piece of code of a page."""

    page: Path
    line: int
    """Of its first line of code, from 1."""
    language: str
    """As the fence says; `hidden` for what stands in a comment `<!-- test ... -->`: it lets the block before or after
    it run, for example by calling what was defined, and readers do not see it."""
    code: str
    not_run: str | None
    """Why it cannot run in a test, from a comment `<!-- not run: ... -->` above it."""


@cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text(encoding="utf-8"))


def blocks(page: Path) -> list[Block]:
    """All of them, in their order."""
    found, reason = [], None
    for token in tokens(page):
        if token.type == "html_block" and token.content.startswith(_HIDDEN):
            assert token.map is not None
            code = token.content.removeprefix(_HIDDEN).strip().removesuffix("-->")
            found.append(Block(page, token.map[0] + 2, "hidden", code.strip("\n") + "\n", None))
        elif token.type == "html_block" and (match := _NOT_RUN.fullmatch(token.content)):
            reason = " ".join(match["reason"].split())
            continue
        elif token.type == "fence":
            assert token.map is not None
            language = token.info.partition(" ")[0]
            found.append(Block(page, token.map[0] + 2, language, token.content, reason))
        reason = None
    return found


def links(page: Path) -> list[str]:
    """Where its links and pictures lead, as written."""
    inline = [child for token in tokens(page) for child in token.children or ()]
    given = [token.attrGet("href") or token.attrGet("src") for token in inline if token.type in ("link_open", "image")]
    return [str(target) for target in given if target is not None]


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    made: list[str] = []
    listed = tokens(page)
    for token, text in itertools.pairwise(listed):
        if token.type == "heading_open":
            plain = "".join(child.content for child in text.children or ())
            slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
            again = sum(each == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", each) is not None for each in made)
            made.append(f"{slug}-{again}" if again else slug)
    return set(made)
