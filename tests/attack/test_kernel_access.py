"""Attack: what a program of each kind of sandbox can ask of the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.cli.launchers.podman import can_limit
from docs.tables.kernel_access import KINDS, OPEN, SAME, differences, markdown
from tests.kit.needs import PID_NAMESPACES
from tests.kit.probe.kinds import ask

PROBED = (
    *("box", "service", "nested", "podman", "nspawn"),
    *("own", "flatpak", "toolbox", "distrobox"),
)
MEMORY_MIB = 768
"""The default of ``launch.memory``."""


@pytest.mark.slow
@PID_NAMESPACES
@pytest.mark.parametrize("kind", PROBED)
async def test_answers_of_the_kernel_are_those_of_the_table(kind):
    """Promise: docs/resource-limits.md says what the kernel opens to each kind of sandbox."""
    answers = await ask(kind)
    assert differences(kind, answers) == [], answers["sizes"]
    if kind in {"podman", "nspawn"} and can_limit():
        assert answers["memory"] == MEMORY_MIB << 20


@pytest.mark.slow
@PID_NAMESPACES
@pytest.mark.parametrize("kind", ["nested podman", "nested nspawn"])
async def test_container_makes_namespaces_by_its_record(kind):
    """Promise: launch.user_namespaces is for containers, too."""
    answers = await ask(kind)
    assert answers["user namespaces, by unshare(2)"] == OPEN
    assert answers["separate mounts"] == OPEN


def test_page_has_the_table():
    """Mend with: python -m docs.tables.kernel_access, between the marks."""
    text = (Path(__file__).parents[2] / "docs/resource-limits.md").read_text()
    assert {SAME.get(kind, kind) for kind in PROBED} == set(KINDS)
    begin, end = "<!-- kernel: begin -->\n", "<!-- kernel: end -->"
    assert text.split(begin)[1].split(end)[0].strip() == markdown().strip()
