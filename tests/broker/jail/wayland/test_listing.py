"""Windows as a person lists and closes them."""

from __future__ import annotations

import pytest

from broker.core.errors import RefusedError
from broker.jail.wayland import listing
from broker.jail.wayland.sandbox import Sandbox
from tests.kit.wayland.talk import Talk


def test_windows_are_listed_with_the_words_of_the_application_cleaned():
    sandbox = Sandbox("work")
    with Talk(sandbox=sandbox) as one, Talk(sandbox=sandbox) as two:
        _, _, top = one.start().show(300, 200, 0)
        one.send(top, "set_title", "a\u202eb".encode())
        one.send(top, "set_app_id", b"org.x")
        two.start().show(10, 20, 0)
        assert listing.windows_of(sandbox) == [
            listing.WindowInfo(1, "ab", "org.x", 300, 200, focused=False),
            listing.WindowInfo(2, "", "", 10, 20, focused=False),
        ]


def test_a_window_is_asked_to_close_or_cut_off():
    sandbox = Sandbox("work")
    with Talk(sandbox=sandbox) as one:
        _, _, top = one.start().show(300, 200, 0)
        listing.ask_to_close(sandbox, 1)
        one.hear()
        assert one.heard("close", top) == [[]]
        listing.cut(sandbox, 1)
        assert isinstance(one.core.fault, RefusedError)
        with pytest.raises(RefusedError, match="no window 9"):
            listing.cut(sandbox, 9)


def test_a_window_is_raised_by_a_token_of_the_compositors():
    sandbox = Sandbox("work")
    with Talk(sandbox=sandbox) as one:
        one.start()
        listing.raise_window(sandbox, b"none is shown yet")
        one.show(300, 200, 0)
        listing.raise_window(sandbox, b"one")
        one.show(200, 100, 0)
        listing.raise_window(sandbox, b"two")
        one.pump()
        told = one.told("xdg_activation_v1", "activate")
        assert [text for text, _ in told] == [b"one", b"two"]
        shown = sorted(one.core.windows, key=lambda xdg: xdg.number)
        frames = [xdg.frame.root.sid for xdg in shown]
        assert [surface.oid for _, surface in told] == frames
        assert one.core.fault is None
