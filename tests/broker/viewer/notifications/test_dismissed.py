"""A notification that is dismissed while another one is being shown."""

from __future__ import annotations

from types import SimpleNamespace

import trio
from jeepney import HeaderFields
from trio.testing import wait_all_tasks_blocked

from broker.core.errors import UpstreamError
from broker.viewer.notifications import desktop_server
from broker.viewer.notifications.board import Bubble
from broker.viewer.notifications.desktop_server import (
    DesktopServer,
    ServerTold,
    _Session,
)


def bubble(title):
    return Bubble(title, "", 1, (), -1, 0x102030)


async def test_it_does_not_come_back(monkeypatch):
    """While the server is asked to change the first, the user dismisses the second."""
    told, shown = [], []
    server = DesktopServer(told.append, None)
    session = _Session(None, ":1.5", buttons=True, markup=False)

    async def reply(_router, call, _seconds):
        await trio.lowlevel.checkpoint()
        if call.body[3] == "first, again":
            server._heard(session, "NotificationClosed", (2, 2))
        shown.append(call.body[3])
        return SimpleNamespace(body=(len(session.shown) + 1,))

    monkeypatch.setattr(desktop_server, "answer_of", reply)
    server.show(1, bubble("first"))
    server.show(2, bubble("second"))
    await server._bring(session)
    assert shown == ["first", "second"]
    server.show(1, bubble("first, again"))
    server.show(2, bubble("second, again"))
    await server._bring(session)
    assert shown == ["first", "second", "first, again"]
    assert [one.number for one in told] == [2]


async def test_the_end_of_one_that_was_just_shown_is_heard(monkeypatch, nursery):
    """The answer and the signal after it come in one read; either task may run first."""
    told = []
    server = DesktopServer(told.append, None)
    session = _Session(None, ":1.5", buttons=True, markup=False)
    send, signals = trio.open_memory_channel(8)
    nursery.start_soon(server._listen, session, signals)

    async def reply(_router, _call, _seconds):
        fields = {
            HeaderFields.sender: ":1.5",
            HeaderFields.member: "NotificationClosed",
        }
        header = SimpleNamespace(fields=fields)
        send.send_nowait(SimpleNamespace(header=header, body=(7, 2)))
        await wait_all_tasks_blocked()
        return SimpleNamespace(body=(7,))

    monkeypatch.setattr(desktop_server, "answer_of", reply)
    server.show(1, bubble("first"))
    await server._bring(session)
    await wait_all_tasks_blocked()
    assert told == [ServerTold(1, reason=2)]
    assert not session.shown


async def test_one_that_both_close_at_once_ends_no_other(monkeypatch):
    """The specification has an error for a notification that is not there any more."""
    told, called = [], []
    server = DesktopServer(told.append, None)
    session = _Session(None, ":1.5", buttons=True, markup=False)

    async def reply(_router, call, _seconds):
        await trio.lowlevel.checkpoint()
        called.append(call.header.fields[HeaderFields.member])
        if called[-1] == "CloseNotification":
            raise UpstreamError("it does not exist")
        return SimpleNamespace(body=(len(session.shown) + 1,))

    monkeypatch.setattr(desktop_server, "answer_of", reply)
    server.show(1, bubble("first"))
    server.show(2, bubble("second"))
    await server._bring(session)
    server.close(1)
    await server._bring(session)
    assert called == ["Notify", "Notify", "CloseNotification"]
    assert (list(session.shown), told) == ([2], [])
