"""What README, threat model and first week promise without exception has a test.

A sentence, or a cell of a table, that says *always*, *never*, *nothing* or gives a figure
names its test by a link, or has a row here.  A promise that is new or worded differently
is found by its absence, and one whose test has gone as well.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/first-week.md", "docs/threat-model.md")
WORDS = re.compile(
    r"\b(always|never|nothing|nobody|no process|no line|no sandbox"
    r"|\d[\d,.]*\s?(s|ms|MiB|GiB|minutes?|seconds|steps?|hours?|days?|%))\b"
)
LINK = re.compile(r"\]\((?:\.\./)?(tests/[\w/]+\.py)\)")

HELD: dict[str, str] = {
    # README
    "a connection without a lease gets nothing": (
        "tests/attack/test_identity_reuse.py::"
        "test_the_next_machine_at_the_same_path_gets_nothing_of_the_killed_one"
    ),
    "no process that holds your files parses a guest's bytes": (
        "tests/test_layout.py::test_program_imports_no_foreign_package"
    ),
    "a framed window in 0.3 s": "tests/bench/launch/boxes.py",
    # First week: rows with (*t*) are steps of this test.
    "*once* or *always*": (
        "tests/e2e/test_first_week.py::test_a_refusal_is_allowed_in_one_step"
    ),
    # Threat model
    "a dialog that no sandbox can draw or answer": (
        "tests/attack/test_wayland_grabs.py::"
        "test_a_prompt_gets_the_keyboard_while_a_menu_is_open"
    ),
    "this sandbox's windows, frames, messages, one core, 512 MiB": (
        "tests/attack/test_jail_worker.py::"
        "test_a_memory_file_ends_at_the_size_of_a_pool"
    ),
    "QEMU's of ours; no process, inotify, message queue": (
        "tests/attack/test_jail_vmm.py::test_a_renderer_that_was_taken_over"
    ),
    "the guest's memory and pictures, 2 GiB of memory": (
        "tests/attack/test_jail_vmm.py::test_a_renderer_takes_little_and_ends_first"
    ),
    "nothing; jail: apt's answers": (
        "tests/attack/test_launch_tools.py::"
        "test_what_fetches_a_program_has_its_folder_and_the_network"
    ),
    "nothing: it waits, and passes on an exit code": (
        "tests/attack/test_jail_vmm.py::"
        "test_an_outer_process_that_is_stopped_holds_no_machine_back"
    ),
}
"""The beginning of a promise, or a part of it, and its test or measurement."""

NONE: dict[str, str] = {
    "*never*, none and no way to gain one": "explains a word of the table",
    "It does not identify its owner": "of another program",
}
"""Sentences that promise nothing of ours, and why."""


def promises(text: str) -> list[str]:
    """Return the sentences and cells of a page that promise something."""
    text = re.sub(
        r"<!-- sizes: begin -->.*?<!-- sizes: end -->", "", text, flags=re.DOTALL
    )
    # Of a block of code, the comments of its commands.
    blocks = re.findall(r"```.*?```", text, flags=re.DOTALL)
    comments = [
        c for b in blocks for c in re.findall(r"^\w.*\s# (.*)$", b, re.MULTILINE)
    ]
    parts = list(comments)
    for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines():
        if line.startswith("|"):
            parts += line.strip("|").split(" | ")
        else:
            parts += re.split(r"(?<=[.!?:;]) ", line)
    found = (part.strip() for part in parts)
    alone = {"never", "nothing"}  # a cell of capabilities, or of what is reached
    return [part for part in found if WORDS.search(part) and part not in alone]


@pytest.mark.parametrize("page", PAGES)
def test_each_promise_has_a_test(page):
    missing = []
    for promise in promises((ROOT / page).read_text()):
        linked = LINK.findall(promise)
        rows = [key for key in (*HELD, *NONE) if key in promise]
        if not rows and not any((ROOT / path).is_file() for path in linked):
            missing.append(promise)
    assert missing == []


@pytest.mark.parametrize("promise", HELD)
def test_a_promise_is_still_made_and_its_test_there(promise):
    assert any(promise in (ROOT / page).read_text() for page in PAGES)
    path, _, name = HELD[promise].partition("::")
    assert (ROOT / path).is_file()
    assert not name or re.search(rf"\bdef {name}\(", (ROOT / path).read_text())


def test_a_promise_without_a_test_is_found():
    text = "Good.  No sandbox ever waits.\n| a | reads nothing of others |\n"
    assert promises(text) == ["reads nothing of others"]
    assert promises("It starts in 3 s, always.\n") == ["It starts in 3 s, always."]


STEPS = re.compile(r"^\| (.*?) \(\*t\*\) \|", re.MULTILINE)


def test_the_steps_of_the_first_week_are_run():
    """Each row with (*t*) is a step of the one test, in which it is called."""
    page = (ROOT / "docs/first-week.md").read_text()
    rows = STEPS.findall(page)
    code = (ROOT / "tests/e2e/test_first_week.py").read_text()
    assert len(rows) >= 10
    assert "--trust-record" not in code, "a restore has two steps"
    steps = re.findall(r"^async def (a[n]?_\w+)\(w\):", code, re.MULTILINE)
    assert {f"await {step}(w)" in code for step in steps} == {True}
