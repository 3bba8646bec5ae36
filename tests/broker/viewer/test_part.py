"""What a person is warned of, with ``brokerctl status``."""

from __future__ import annotations

from types import SimpleNamespace

from broker.viewer.part import viewer_warnings


def viewer(troubles=()):
    return SimpleNamespace(
        guests=list, clipboard=SimpleNamespace(troubles=lambda: iter(troubles))
    )


def settings(*lines):
    return SimpleNamespace(warnings=lambda: list(lines))


def test_chords_that_cannot_work_are_a_warning(monkeypatch):
    monkeypatch.setattr("broker.viewer.part.find_compositor", lambda: "there")
    assert viewer_warnings(viewer(), settings()) == []
    assert viewer_warnings(viewer([("work", "no keymap")]), settings("a typo")) == [
        "work: no chords for the clipboard: no keymap",
        "a typo",
    ]
