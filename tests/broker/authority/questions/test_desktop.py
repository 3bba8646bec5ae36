"""Notifications that fail; those that are shown: tests/integration."""

from __future__ import annotations

import pytest
import trio

from broker.authority.helper_starter import HelperStarter
from broker.authority.questions.desktop import Desktop
from broker.core.errors import SetupError, UpstreamError
from broker.ipc import starter
from tests.kit.helper_starter import ended_starter


@pytest.mark.parametrize("error", [SetupError("missing"), UpstreamError("full")])
async def test_a_notification_that_cannot_be_sent_ends_nothing(monkeypatch, error):
    """Not for want of a descriptor either, which a sandbox may use up."""
    sent = []
    more = trio.Event()

    async def no_room(_starter, title, _body, _seconds):
        sent.append(title)
        await trio.lowlevel.checkpoint()
        if len(sent) == 2:
            more.set()
        raise error

    monkeypatch.setattr(HelperStarter, "notify", no_room)
    desk = Desktop(ended_starter())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.run)
        desk.notify("first", "text")
        desk.notify("second", "text")
        with trio.fail_after(30):
            await more.wait()
        nursery.cancel_scope.cancel()
    assert sent == ["first", "second"]


class Ended:
    """A helper that has ended well."""

    code = 0

    async def wait(self):
        await trio.lowlevel.checkpoint()
        return self.code


async def test_a_text_of_many_lines_fits_into_the_message_to_the_starter(monkeypatch):
    """Attack: a viewer that was taken over ends the starter, and all prompts with it."""
    sent = []
    shown = trio.Event()

    async def keep(_starter, title, body, seconds):
        await trio.lowlevel.checkpoint()
        sent.append(starter.encode(starter.ShowNotification(title, body, seconds)))
        shown.set()
        return Ended()

    monkeypatch.setattr(HelperStarter, "notify", keep)
    desk = Desktop(ended_starter())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.run)
        desk.notify("title", "\n".join(["&" * 500] * 9))
        with trio.fail_after(30):
            await shown.wait()
        nursery.cancel_scope.cancel()
    assert "&amp;" in starter.decode_request(sent[0]).body
