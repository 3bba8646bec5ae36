"""The pages: no link leads nowhere, none is forgotten in the index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What a heading can be linked by, as the common renderers make it."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
    # A heading that was there before has a number after it.
    counts = [words[:at].count(word) for at, word in enumerate(words)]
    return {f"{word}-{n}" if n else word for word, n in zip(words, counts, strict=True)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_in_the_index():
    index = (ROOT / "docs/index.md").read_text()
    pages = {page.name for page in (ROOT / "docs").rglob("*.md")} - {"index.md"}
    assert pages <= {Path(link.partition("#")[0]).name for link in LINK.findall(index)}


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "tests/kit/README.md"])
def test_paths_in_the_contributor_pages_exist(page):
    """A file or folder of the repository, as it is written in code style."""
    text = (ROOT / page).read_text()
    top = "broker|policy|shims|tests|fuzz|docs"
    named = re.findall(rf"(?:^|[` ])((?:{top})/[\w./-]*\w/?)", text, re.MULTILINE)
    assert len(named) >= 3
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_readme_is_short():
    """One screen of description, then links."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
