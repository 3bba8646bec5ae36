"""A window that comes on the screen is told, once each time that it comes."""

from __future__ import annotations


def test_it_is_told_when_a_window_has_its_first_content(talk):
    told = []
    talk.core.sandbox.on_mapped = lambda: told.append(len(talk.core.windows))
    assert told == []
    talk.show(200, 100, 0xFF00FF00)
    assert told == [1]
    talk.show(20, 10, 0xFF00FF00)
    assert told == [1, 2]
