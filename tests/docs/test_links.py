"""Links of the documentation lead to files and headings that are there, and every page can be reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, links


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if "://" in link or link.startswith("mailto:"):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), f"{page}: {link}"
        assert ROOT in target.resolve().parents or target.resolve() == ROOT, f"{page}: {link} leads out"
        if anchor:
            known = anchors(target.resolve().relative_to(ROOT))
            assert anchor in known, f"{page}: {link}; {target.name} has {', '.join(sorted(known))}"


def test_every_page_is_in_the_index() -> None:
    listed = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in links(Path("docs/README.md"))}
    missing = {str(page) for page in PAGES if (ROOT / page) not in listed} - {"docs/README.md"}
    assert not missing


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` & c-d\n\n## Twice\n\n## Twice\n\n[x](y.md#z)\n")
    assert anchors(page) == {"a-b--c-d", "twice", "twice-1"}
    assert links(page) == ["y.md#z"]
