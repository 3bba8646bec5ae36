"""Ordinary acts with a program in a sandbox on sway, GNOME and Plasma (docs/desktops.md)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kit.wayland.acts import ACTS, GERMAN, KINDS, play

pytestmark = pytest.mark.long
THE_DESKTOPS = {"sway": {"a_dialog_stays_above"}}
"""What is wrong on a desktop without a sandbox, too."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
async def test_each_act_does_what_it_does_without_a_sandbox(kind, tmp_path):
    folder = Path(os.environ.get("VITRAIL_OUT") or tmp_path) / f"acts-{kind}"
    results = {act: wrong async for act, wrong in play(kind, folder, list(ACTS))}
    for act, wrong in results.items():
        print(f"{kind}\t{act}\t{wrong or 'right'}")
    assert {act for act, wrong in results.items() if wrong} == THE_DESKTOPS.get(
        kind, set()
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_dead_keys_of_a_german_keyboard(kind, tmp_path):
    folder = Path(os.environ.get("VITRAIL_OUT") or tmp_path) / f"acts-{kind}"
    played = play(kind, folder, list(GERMAN), layout="de")
    assert [wrong async for _, wrong in played] == [""]
