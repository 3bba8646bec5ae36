"""The glossary of CONTRIBUTING.md names each process, and each thing that permits."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.wire.row import ProcessKind
from docs.tables.processes import PROGRAMS

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
GLOSSARY = TEXT[TEXT.index("## Glossary") :]
_PARTS = {
    "vitrail-local, viewer": "viewer",
    "vitrail-local, host": "host",
    "pump and acceptor": "acceptor",
    "fork servers": "fork server",
    "session children": "session child",
    "vitrail-devices": "device service",
}
"""The names of the glossary, where those of the table of sizes differ."""


def entries(title):
    """Return the first column of a table of the glossary, without marks."""
    section = GLOSSARY[GLOSSARY.index(f"### {title}") :]
    rows = section.partition("\n###")[0].splitlines()
    cells = [row.split("|")[1].strip() for row in rows if row.startswith("| ")]
    return [name for cell in cells[2:] for name in cell.split(", ")]


@pytest.mark.parametrize("kind", ProcessKind)
def test_each_process_that_calls_is_explained(kind):
    assert kind.value in entries("Processes")


@pytest.mark.parametrize(
    "program",
    [program for program in PROGRAMS if program.is_kind],
    ids=lambda program: program.name,
)
def test_each_program_is_explained(program):
    name = _PARTS.get(program.name, program.name)
    assert name in entries("Processes") or f"`{name}`" in GLOSSARY


@pytest.mark.parametrize(
    "profile",
    [program.name for program in PROGRAMS if program.profile_of == "tools"],
)
def test_each_profile_of_the_tools_is_named(profile):
    tools = next(row for row in GLOSSARY.splitlines() if row.startswith("| tools |"))
    assert profile in tools


@pytest.mark.parametrize(
    "title", ["Processes", "What permits something", "Other words"]
)
def test_no_word_is_explained_twice(title):
    names = entries(title)
    assert len(set(names)) == len(names)
    assert len(names) > 5
