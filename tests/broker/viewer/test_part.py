"""What a person is warned of, with ``brokerctl status``."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio

from broker.core.errors import UpstreamError
from broker.ipc.session.display_orders import FindCompositor, FoundCompositor
from broker.viewer.part import viewer_warnings
from broker.wire.pending_call import Answer


def viewer(troubles=()):
    return SimpleNamespace(
        guests=list, clipboard=SimpleNamespace(troubles=lambda: iter(troubles))
    )


def settings(*lines):
    return SimpleNamespace(warnings=lambda: list(lines))


class Session:
    """Finds this compositor, or cannot look."""

    def __init__(self, found):
        self.found = found

    async def carry_out(self, _row, order):
        await trio.lowlevel.checkpoint()
        assert order == FindCompositor()
        if self.found is None:
            raise UpstreamError("the starter has ended")
        return Answer(FoundCompositor(self.found), [])


@pytest.mark.parametrize(
    ("found", "told"), [(b"/run/wayland-0", 0), (b"", 1), (None, 0)]
)
async def test_a_compositor_that_does_not_answer_is_a_warning(found, told):
    warnings = await viewer_warnings(viewer(), settings(), Session(found))
    assert len(warnings) == told
    for warning in warnings:
        assert "so the broker cannot show windows" in warning
        assert "brokerctl restart" in warning


async def test_chords_that_cannot_work_are_a_warning():
    there = Session(b"/run/wayland-0")
    assert await viewer_warnings(viewer(), settings(), there) == []
    troubles = viewer([("work", "no keymap")])
    assert await viewer_warnings(troubles, settings("a typo"), there) == [
        "work: no key combinations for the clipboard: no keymap",
        "a typo",
    ]
