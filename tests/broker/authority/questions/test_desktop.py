"""Notifications that fail; those that are shown: tests/integration."""

from __future__ import annotations

import errno

import pytest
import trio

from broker.authority.questions import desktop as module
from broker.authority.questions.desktop import Desktop
from broker.core.errors import UpstreamError


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "full"), UpstreamError("no daemon")]
)
async def test_a_notification_that_cannot_be_sent_ends_nothing(monkeypatch, error):
    """Not for want of a descriptor either, which a sandbox may use up."""
    sent = []
    more = trio.Event()

    async def no_room(argv, **_how):
        sent.append(argv[-2])
        await trio.lowlevel.checkpoint()
        if len(sent) == 1:
            raise error
        more.set()

    monkeypatch.setattr(module, "run_tool", no_room)
    monkeypatch.setattr(module.shutil, "which", lambda *_words, **_how: "/bin/true")
    desk = Desktop()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.run)
        desk.notify("first", "text")
        desk.notify("second", "text")
        with trio.fail_after(30):
            await more.wait()
        nursery.cancel_scope.cancel()
    assert sent == ["first", "second"]
