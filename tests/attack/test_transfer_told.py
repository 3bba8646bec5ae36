"""What a request fails with carries nothing of the target's back to its source.

A rule that lets ``work`` open addresses in ``vault`` is not a rule by which ``vault``
writes to ``work``: 430 characters for each request were such a way.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio

from broker.core.errors import (
    PeerError,
    RefusedError,
    SetupError,
    UpstreamError,
)
from broker.core.lease import Opening
from broker.core.services import CALL, FILE_COPY, OPEN_FILE, OPEN_URL
from broker.ipc import transfer as messages
from broker.ipc.guest.file_requests import CallService, CopyFiles, OpenFile, OpenUrl
from broker.viewer.exchange import failures
from broker.viewer.exchange.guest_connection import GuestConnection
from broker.viewer.transfer.moving import TransferParts
from broker.viewer.transfer.service import OpeningService
from tests.kit.rulebook import WORK

SECRET = "the target's own words"
ASKS = [
    (OPEN_URL, OpenUrl("https://example.org/")),
    (OPEN_FILE, OpenFile("a.txt", 4)),
    (FILE_COPY, CopyFiles("a.txt", 1, 4)),
    (CALL, CallService("date")),
]


class Log:
    """Keeps the events as text."""

    def __init__(self):
        self.texts = []

    async def require(self, event):
        await trio.lowlevel.checkpoint()
        self.texts.append(str(event))

    note = require

    def digest(self, value):
        return value


class Targets:
    """Fails with words of the target's."""

    def __init__(self, error):
        self.error = error

    async def open_url(self, target, url, wait, **more):
        await trio.lowlevel.checkpoint()
        raise self.error

    @asynccontextmanager
    async def guest(self, target, wait, source, *, autostart):
        await trio.lowlevel.checkpoint()
        raise self.error
        yield

    def delivery(self, source, pipe, quota, *, opened):
        raise self.error


async def told(error, service, ask):
    """Return what the asking program is told, the events, and the notifications."""
    shown = []
    permit = SimpleNamespace(
        target="vault",
        autostart=True,
        max_size=None,
        schemes=True,
        returns=False,
        warrant=b"",
    )

    class Decider:
        @asynccontextmanager
        async def permit(self, request, **more):
            await trio.lowlevel.checkpoint()
            permit.request, permit.where = request, "work.policy:1:1"
            yield permit

        def notify(self, title, text, *, sandbox):
            shown.append((title, text, sandbox))

    log = Log()
    parts = TransferParts(Decider(), log, Targets(error), None, tuple)
    made = OpeningService(parts, pump=None, desktop=SimpleNamespace(session=None))
    room = SimpleNamespace(
        request_size=1 << 20,
        file_size=1 << 20,
        request_files=9,
        day_size=1 << 30,
        day_requests=1000,
    )
    record = SimpleNamespace(name="work", viewer=SimpleNamespace(transfer=room))
    guest = SimpleNamespace(lease=WORK, valid_record=lambda: record)
    exchange = GuestConnection(guest, Opening(WORK, service, 1, "vsock:3"))
    exchange.take(messages.TransferAsked(1, ask))
    said = await made._answered(exchange, None)
    return said, log.texts, shown


@pytest.mark.parametrize("kind", [RefusedError, UpstreamError, PeerError, SetupError])
@pytest.mark.parametrize(("service", "ask"), ASKS, ids=[a[0] for a in ASKS])
@pytest.mark.parametrize("grouped", [False, True])
async def test_failures_of_a_target_are_fixed_messages(kind, service, ask, grouped):
    error: Exception = kind(f"in the guest, foot: {SECRET}", hint=SECRET)
    if grouped:
        error = ExceptionGroup("of a nursery", [error])
    said, events, shown = await told(error, service, ask)
    assert said, "it failed"
    assert SECRET not in said
    assert SECRET not in "".join(events), "nor does the log hold content"
    again, *_ = await told(kind("other words"), service, ask)
    assert said == again
    # Of a call the caller's program shows it.
    expected = (
        [] if service == CALL else [("vault did not open the request", WORK.sandbox)]
    )
    assert [(title, sandbox) for title, _, sandbox in shown] == expected
    # A line for what happened and one for what to do: the desktop escapes each, and
    # GNOME's banner shows both as one line.
    lines = [f"in the guest, foot: {SECRET};", SECRET]
    assert all(text.split("\n") == lines for _, text, _ in shown)


@pytest.mark.parametrize(
    ("target", "name", "command"),
    [
        ("vault", "vault", "brokerctl logs vault"),
        ("@dispvm:vault", "vault", "brokerctl logs vault"),
        ("dom0", "the desktop", "broker's log"),
        ("@adminvm", "the desktop", "broker's log"),
        (failures.DESKTOP, "the desktop", "broker's log"),
    ],
)
def test_a_hint_names_a_log_that_there_is(target, name, command):
    """Neither the desktop nor the name of a class of disposables has logs of a sandbox."""
    error = failures.shareable(UpstreamError(SECRET), target)
    assert str(error) == f"{name} could not be reached"
    assert command in error.hint
    assert ("brokerctl" in error.hint) is (name == "vault")
