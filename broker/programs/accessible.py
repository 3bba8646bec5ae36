"""Offers the words of the prompt's dialog to screen readers, over AT-SPI.

A separate process, so that no other program of the session can call the one whose
picture is trusted: it reads what the prompt agent shows from a pair of sockets of
which the agent's end never reads, and can give no answer.  It connects to the
accessibility bus when a question comes and a screen reader is in use.
"""

from __future__ import annotations

import os
import socket
import sys
from functools import partial
from typing import Any

import trio
from jeepney import (
    DBusAddress,
    Message,
    MessageFlag,
    MessageType,
    new_method_call,
    new_signal,
)
from jeepney.io.trio import DBusRouter, open_dbus_router

from broker.core import limits
from broker.core.errors import VitrailError
from broker.core.stderr_log import log_stderr
from broker.helpers import landlock
from broker.helpers.helper_confinement import confine_helper
from broker.helpers.process.process_name import set_name
from broker.helpers.prompt.accessible import (
    ROOT,
    AccessibilityEvent,
    Accessible,
    UnknownError,
)
from broker.ipc.prompt import Described, decode_described
from broker.net.session_bus import PROPERTIES, answer_calls

_BUS = DBusAddress("/org/a11y/bus", "org.a11y.Bus", "org.a11y.Bus")
_REGISTRY = DBusAddress(ROOT, "org.a11y.atspi.Registry", "org.a11y.atspi.Socket")
_SECONDS = 5.0


def main() -> None:
    """Confine the process, and serve the dialog over AT-SPI: ``accessible FD``."""
    fd = int(sys.argv[1])
    os.set_inheritable(fd, False)  # noqa: FBT003 -- the os module's own
    agent = socket.socket(fileno=fd)
    agent.setblocking(False)  # noqa: FBT003
    set_name("vitrail-access")
    # The buses may be abstract sockets.
    confine_helper(landlock.SIGNALS)
    trio.run(_Reader(agent).run)


class _Reader:
    def __init__(self, agent: socket.socket) -> None:
        self._agent = trio.socket.from_stdlib_socket(agent)

    async def run(self) -> None:
        """Serve screen readers until the agent has gone."""
        words: Described | None = Described()
        while words is not None:
            words = await self._next()
            if words is None or not words.title:
                continue
            try:
                words = await self._shown(words)
            except* (OSError, trio.TooSlowError, trio.BrokenResourceError) as errors:
                what = errors.exceptions[0]
                log_stderr(f"vitrail-access: cannot serve screen readers: {what}")
                words = Described()

    async def _next(self) -> Described | None:
        """Wait for the next shown dialog; None: the agent has gone."""
        try:
            packet = await self._agent.recv(limits.PROMPT_MESSAGE_BYTES)
            return decode_described(packet) if packet else None
        except (OSError, VitrailError) as error:
            log_stderr(f"vitrail-access: {error}")
            return None

    async def _shown(self, words: Described) -> Described | None:
        """Offer questions until none is shown; returns the last words."""
        address = await _address()
        if address is None:
            return words  # each new description looks again
        async with open_dbus_router(bus=address) as router, trio.open_nursery() as n:
            tree = Accessible(router.unique_name)
            serve = partial(answer_calls, unknown=UnknownError)
            await n.start(serve, router, tree.call)
            await _embed(router, tree)
            last: Described | None = words
            while last is not None and last.title:
                for signal in tree.update(last):
                    await router.send(_message(signal))
                last = await self._next()
            for signal in tree.update(Described()):
                await router.send(_message(signal))
            n.cancel_scope.cancel()
        return last


async def _address() -> str | None:
    """Return the address of the accessibility bus; None without a screen reader."""
    if "DBUS_SESSION_BUS_ADDRESS" not in os.environ:
        return None
    async with open_dbus_router() as session:
        for name in ("ScreenReaderEnabled", "IsEnabled"):
            status = _BUS.with_interface(PROPERTIES)
            words = ("org.a11y.Status", name)
            reply = await _ask(session, new_method_call(status, "Get", "ss", words))
            if reply is not None and reply[0][1]:
                break
        else:
            return None
        reply = await _ask(session, new_method_call(_BUS, "GetAddress"))
        return None if reply is None else str(reply[0])


async def _ask(router: DBusRouter, call: Message) -> tuple[Any, ...] | None:
    """Call and return a reply's values; None where the service is absent or refuses."""
    call.header.flags |= MessageFlag.no_auto_start
    with trio.fail_after(_SECONDS):
        reply = await router.send_and_get_reply(call)
    wrong = reply.header.message_type is MessageType.error
    return None if wrong else reply.body


async def _embed(router: DBusRouter, tree: Accessible) -> None:
    """Register the tree with the accessibility registry."""
    words = ((router.unique_name, ROOT),)
    call = new_method_call(_REGISTRY, "Embed", "(so)", words)
    with trio.fail_after(_SECONDS):  # the registry is started by this
        reply = await router.send_and_get_reply(call)
    if reply.header.message_type is MessageType.error:
        raise OSError(f"the registry refused the application: {reply.body}")
    tree.embedded(tuple(reply.body[0]))


def _message(signal: AccessibilityEvent) -> Message:
    """Return the D-Bus signal of an accessibility event."""
    emitter = DBusAddress(
        signal.path, interface=f"org.a11y.atspi.Event.{signal.interface}"
    )
    body: tuple[Any, ...] = (
        signal.detail,
        signal.first,
        signal.second,
        signal.value,
        {},
    )
    return new_signal(emitter, signal.member, "siiva{sv}", body)


if __name__ == "__main__":
    main()
