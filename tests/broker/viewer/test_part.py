"""What a person is warned of, with ``brokerctl status``."""

from __future__ import annotations

from types import SimpleNamespace

from broker.viewer.clipboard.settings import ChordChoice
from broker.viewer.part import viewer_warnings


def viewer(problem="", troubles=()):
    return SimpleNamespace(
        guests=list,
        clipboard=SimpleNamespace(
            choice=ChordChoice("Super+C", "Super+V", problem=problem),
            troubles=lambda: iter(troubles),
        ),
    )


def test_chords_that_cannot_work_are_a_warning(monkeypatch):
    monkeypatch.setattr("broker.viewer.part.find_compositor", lambda: "there")
    assert viewer_warnings(viewer()) == []
    assert viewer_warnings(viewer("a typo", [("work", "no keymap")])) == [
        "work: no chords for the clipboard: no keymap",
        "a typo",
    ]
