"""Every link of the documentation leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")


def name_anchors(page: Path) -> set[str]:
    """The anchors that a forge gives the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def test_anchors_are_named_as_a_forge_names_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# What `split` does\ntext # no heading\n## Labels' names, 2\n")
    assert name_anchors(page) == {"what-split-does", "labels-names-2"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_pages_and_headings_that_are_there(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        other = page.parent / target if target else page
        assert other.exists(), f"{target} is not there"
        assert not anchor or anchor in name_anchors(other), f"{target or page.name} has no heading {anchor}"
