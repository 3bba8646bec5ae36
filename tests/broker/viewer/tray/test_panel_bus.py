"""The session bus of a panel, which may end or not answer."""

from __future__ import annotations

import errno
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio
from jeepney import HeaderFields, MessageType

from broker.core.errors import SetupError
from broker.viewer.tray.panel_bus import Panel


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "reset"),
        (trio.TooSlowError(), "does not answer"),
    ],
)
async def test_a_bus_that_fails_is_a_mistake_of_the_session(error, words):
    """In a group of a nursery, too: else each icon of a sandbox logs a traceback."""

    class Router:
        async def send_and_get_reply(self, _call):
            await trio.lowlevel.checkpoint()
            raise error

        @asynccontextmanager
        async def router(self):
            yield self

    @asynccontextmanager
    async def bus():
        yield Router(), "org.example.Item"

    with pytest.raises(SetupError, match=words):
        await Panel(None, None, bus).run()


class ForgetfulPanel:
    """A panel that loses the registrations that come before it is ready."""

    unique_name = ":1.7"

    def __init__(self, ready_at, *, known_as, lists_items=True):
        self.ready_at, self.known_as = ready_at, known_as
        self.lists_items = lists_items
        self.registrations, self.items = [], []
        self.owner_changes, self.changes = trio.open_memory_channel(1)

    @asynccontextmanager
    async def router(self):
        yield self

    def filter(self, rule, *, bufsize):
        if rule.header_fields.get("member") == "NameOwnerChanged":
            return SimpleNamespace(receive_channel=self.changes)
        return SimpleNamespace(receive_channel=trio.open_memory_channel(bufsize)[1])

    async def send_and_get_reply(self, call):
        await trio.lowlevel.checkpoint()
        kind, body = MessageType.method_return, ()
        match call.header.fields[HeaderFields.member]:
            case "RegisterStatusNotifierItem":
                self.registrations.append(trio.current_time())
                if trio.current_time() >= self.ready_at:
                    self.items.append(f"{self.known_as}/StatusNotifierItem")
            case "Get" if self.lists_items:
                body = (("as", list(self.items)),)
            case "Get":
                kind = MessageType.error
        header = SimpleNamespace(message_type=kind)
        return SimpleNamespace(header=header, body=body)


NAME = "org.kde.StatusNotifierItem-1-1"


@pytest.mark.parametrize("known_as", [NAME, ForgetfulPanel.unique_name])
@pytest.mark.parametrize(
    ("ready_at", "times"), [(0, [0]), (3, [0, 5]), (20, [0, 5, 35])]
)
async def test_an_icon_that_the_panel_forgot_is_registered_again(
    nursery, autojump_clock, known_as, ready_at, times
):
    """GNOME's extension forgets an icon that registers before it is ready."""
    began = trio.current_time()
    panel = ForgetfulPanel(began + ready_at, known_as=known_as)

    @asynccontextmanager
    async def bus():
        yield panel, NAME

    await nursery.start(Panel(None, None, bus).run)
    await trio.sleep(200)
    assert panel.items == [f"{known_as}/StatusNotifierItem"]
    assert [second - began for second in panel.registrations] == times
    panel.items.clear()
    await panel.owner_changes.send(None)
    await trio.sleep(1)
    assert len(panel.items) == 1, "a panel that is restarted has it at once"


async def test_a_panel_that_lists_no_icons_gets_one_registration(
    nursery, autojump_clock
):
    panel = ForgetfulPanel(0, known_as=NAME, lists_items=False)

    @asynccontextmanager
    async def bus():
        yield panel, NAME

    await nursery.start(Panel(None, None, bus).run)
    await trio.sleep(200)
    assert len(panel.registrations) == 1


async def test_a_mistake_of_ours_is_none_of_the_session():
    @asynccontextmanager
    async def bus():
        raise ExceptionGroup("of a nursery", [ZeroDivisionError()])
        yield

    with pytest.raises(ExceptionGroup):
        await Panel(None, None, bus).run()
