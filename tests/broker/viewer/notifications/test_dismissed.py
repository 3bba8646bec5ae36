"""A notification that is dismissed while another one is being shown."""

from __future__ import annotations

from types import SimpleNamespace

import trio

from broker.viewer.notifications import desktop_server
from broker.viewer.notifications.board import Bubble
from broker.viewer.notifications.desktop_server import DesktopServer, _Session


def bubble(title):
    return Bubble(title, "", 1, (), -1, 0x102030)


async def test_it_does_not_come_back(monkeypatch):
    """While the server is asked to change the first, the user dismisses the second."""
    told, shown = [], []
    server = DesktopServer(told.append)
    session = _Session(None, ":1.5", buttons=True, markup=False)

    async def reply(_router, call):
        await trio.lowlevel.checkpoint()
        if call.body[3] == "first, again":
            server._heard(session, "NotificationClosed", (2, 2))
        shown.append(call.body[3])
        return SimpleNamespace(body=(len(session.shown) + 1,))

    monkeypatch.setattr(desktop_server, "_reply", reply)
    server.show(1, bubble("first"))
    server.show(2, bubble("second"))
    await server._bring(session)
    assert shown == ["first", "second"]
    server.show(1, bubble("first, again"))
    server.show(2, bubble("second, again"))
    await server._bring(session)
    assert shown == ["first", "second", "first, again"]
    assert [one.number for one in told] == [2]
