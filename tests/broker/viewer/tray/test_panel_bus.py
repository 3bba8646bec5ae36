"""The session bus of a panel, which may end or not answer."""

from __future__ import annotations

import errno
from contextlib import asynccontextmanager

import pytest
import trio

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


async def test_a_mistake_of_ours_is_none_of_the_session():
    @asynccontextmanager
    async def bus():
        raise ExceptionGroup("of a nursery", [ZeroDivisionError()])
        yield

    with pytest.raises(ExceptionGroup):
        await Panel(None, None, bus).run()
