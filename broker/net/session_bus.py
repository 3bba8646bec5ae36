"""The session bus, as viewer and brokerctl use it: answers, owners of names, failures.

``vitrail-access`` answers calls by it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import trio
from jeepney import (
    HeaderFields,
    MatchRule,
    Message,
    MessageFlag,
    MessageType,
    new_error,
    new_method_return,
)
from jeepney.io.trio import DBusConnection, DBusRouter, open_dbus_connection

from broker.core.errors import UpstreamError
from broker.core.escape import printable
from broker.core.stderr_log import log_stderr

PROPERTIES = "org.freedesktop.DBus.Properties"
CALLS = 256
"""Calls that may wait; those beyond it get no reply."""
Reply = tuple[str, tuple[Any, ...]]
"""A reply's signature and values."""
OpenBus: TypeAlias = Callable[[], AbstractAsyncContextManager[DBusConnection]]
"""Returns a connection, while its block runs."""
_PLACE = (HeaderFields.path, HeaderFields.interface, HeaderFields.member)


@asynccontextmanager
async def own_bus() -> AsyncIterator[DBusConnection]:
    """Connect to the session's bus while the block runs, with all rights of the user.

    For ``brokerctl``.  Raises KeyError without a bus, OSError.
    """
    async with await open_dbus_connection() as connection:
        yield connection


async def answer_of(router: DBusRouter, call: Message, seconds: float) -> Message:
    """Return the answer to a call.  Raises UpstreamError, trio.TooSlowError."""
    with trio.fail_after(seconds):
        answer = await router.send_and_get_reply(call)
    if answer.header.message_type is not MessageType.method_return:
        raise UpstreamError(" ".join(map(str, answer.body)) or "it returned an error")
    return answer


class UnknownCallError(Exception):
    """An object, interface, method or property that does not exist."""


async def answer_calls(
    router: DBusRouter,
    called: Callable[[str, str, str, tuple[Any, ...]], Reply],
    then: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    *,
    unknown: type[Exception] = UnknownCallError,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Reply to calls of other programs on the bus, until the connection ends.

    ``called`` gets path, interface, member and values, and may raise ``unknown``;
    ``then`` is awaited after each reply.
    """
    # Not as a context manager, see DesktopSettings: it ends with the router.
    rule = MatchRule(type="method_call")
    calls = router.filter(rule, bufsize=CALLS).receive_channel
    task_status.started()
    async for call in calls:
        words = [str(call.header.fields.get(key, "")) for key in _PLACE]
        try:
            signature, values = called(words[0], words[1], words[2], call.body)
            reply = new_method_return(call, signature or None, values)
        except unknown as error:
            name = "org.freedesktop.DBus.Error.UnknownMethod"
            reply = new_error(call, name, "s", (str(error),))
        if not call.header.flags & MessageFlag.no_reply_expected:
            await router.send(reply)
        await then()


def why(error: Exception) -> str:
    """Return the cause of a failure as a sentence for a user."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, KeyError):
        return "this session has no D-Bus (DBUS_SESSION_BUS_ADDRESS is not set)"
    if isinstance(error, trio.TooSlowError):
        return "it does not answer"
    words = getattr(error, "strerror", None) or " ".join(map(str, error.args))
    return printable(words or type(error).__name__, 300)


class Complaint:
    """Says once on standard error what does not work, and why."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._told = False

    def tell(self, error: Exception) -> None:
        """Say it, if it has not been said."""
        if not self._told:
            self._told = True
            log_stderr(f"vitrail: {self._what}: {why(error)}")
