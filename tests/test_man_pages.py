"""The manual pages are made from the pages of docs/, and none has a hole."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from broker.cli.verbs import VERBS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pages():
    """The module ``docs/print_man.py``."""
    spec = importlib.util.spec_from_file_location(
        "print_man", ROOT / "docs/print_man.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["print_man"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_every_verb_has_a_page(pages):
    named = {verb for page in pages.PAGES for verb in page.verbs}
    named |= {page.name.removeprefix("brokerctl-") for page in pages.PAGES}
    assert set(VERBS) - named == set()


def test_every_section_of_the_reference_is_in_a_page(pages):
    text = (ROOT / "docs/brokerctl.1.md").read_text()
    begins = [
        begin
        for page in pages.PAGES
        for name, headings in page.parts
        if name == "brokerctl.1.md"
        for begin in headings
    ]
    heads = [name for level, name, _ in pages.sections(text) if level == 3]
    assert [head for head in heads if not head.startswith(tuple(begins))] == []


def test_a_page_that_is_named_is_where_the_package_has_it(pages):
    named = {
        Path(path)
        for page in pages.PAGES
        for path in re.findall(
            r"/usr/share/doc/vitrail/([\w./-]+\.md)", pages.markdown(page, "0.1.0")
        )
    }
    assert Path("launchers/podman.md") in named
    root = {Path("README.md")}  # debian/install.py
    assert [p for p in named - root if not (ROOT / "docs" / p).exists()] == []


def test_a_heading_that_is_gone_is_an_error(pages):
    with pytest.raises(LookupError, match=r"policy\.md has no heading 'Nothing'"):
        pages.chosen("policy.md", ("Nothing",))


def test_a_page_has_its_sections_and_no_others(pages):
    (page,) = [page for page in pages.PAGES if page.name == "brokerctl-audit"]
    text = pages.markdown(page, "0.1.0")
    heads = [name for _, name, _ in pages.sections(text)]
    assert heads[:2] == ["Name", "brokerctl audit [OPTIONS]"]
    assert "brokerctl audit gc [--keep SPAN] [--max-megabytes N]" in heads
    assert heads[-2:] == ["Exit codes", "See also"]
    assert not any("pending" in head for head in heads)
    assert "](" not in text  # a link has become text


def test_a_comment_in_a_code_block_is_no_heading(pages):
    text = "# Top\n```\n# not a heading\n```\n## Next\n"
    assert [(level, name) for level, name, _ in pages.sections(text)] == [
        (1, "Top"),
        (2, "Next"),
    ]


@pytest.mark.skipif(not shutil.which("lowdown"), reason="lowdown is missing")
def test_all_pages_can_be_shown(pages, tmp_path):
    paths = pages.write(tmp_path, "0.1.0")
    assert {"man1/brokerctl.1", "man1/brokerctl-shell.1", "man5/vitrail-policy.5"} <= {
        str(path.relative_to(tmp_path)) for path in paths
    }
    for path in paths:
        text = path.read_text()
        if text.startswith(".so "):
            assert (tmp_path / text.split()[1]).exists()
            continue
        first, _, rest = text.partition("\n")
        # man(7): tables need a preprocessor, which the first line names.
        assert ("\n.TS" in text) == (first == "'\\\" t"), path
        page = rest if first == "'\\\" t" else text
        assert page.startswith('.\\" -*- mode: troff'), path
    if shutil.which("man"):
        words = ["man", "-E", "UTF-8", "-l", str(tmp_path / "man5/vitrail-sandbox.5")]
        env = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin", "MANWIDTH": "80"}
        done = subprocess.run(
            words, capture_output=True, text=True, env=env, check=False
        )
        assert "The lifetime of a sandbox of this record." in done.stdout


@pytest.mark.parametrize("program", ["local", "host", "viewer", "devices"])
def test_the_brokers_synopses_have_the_options_that_their_help_has(program):
    page = (ROOT / "docs/vitrail-local.1.md").read_text()
    (synopsis,) = re.findall(rf"^    vitrail-{program} (.*)$", page, re.MULTILINE)
    argv = [sys.executable, "-m", f"broker.programs.{program}", "--help"]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"--[a-z-]+", shown)) - {"--help"}
    assert options == set(re.findall(r"--[a-z-]+", synopsis))
