"""An authority whose client is in the same process: both ends of a real channel."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec
import trio

from broker.authority.audit.event_log import of
from broker.authority.audit.log_checkpoints import LogCheckpoints
from broker.authority.audit.sealing import Sealing
from broker.authority.audit.settings import AuditSettings
from broker.authority.channel.event_rights import EventRights
from broker.authority.channel.served_client import ClientChannel
from broker.authority.policy_authority import HostAuthority, PolicyAuthority
from broker.authority.records.sandboxes import Records
from broker.core.authority_report import AuditStatus, AuthorityReport, PolicyStatus
from broker.core.errors import PeerError, sole
from broker.core.framing import FrameReader, encode_frame
from broker.core.limits import authority as authority_limits
from broker.ipc import authority as m
from broker.ipc.audit import log_rows, schema
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.viewer.authority.authority_client import AuthorityClient
from broker.wire.call_messages import (
    AnswerMessage,
    CallMessage,
    ErrorMessage,
    NoticeMessage,
    decode_message,
    encode_message,
)
from broker.wire.frame_carrier import Frames
from broker.wire.row import Empty, ProcessKind, Row
from tests.kit.link.roles import journal
from tests.kit.rulebook import WORK, Person, Rulebook
from tests.kit.wayland.compositor import short_directory

REPORT = AuthorityReport(
    audit=AuditStatus(events=0, commits=0, failures=0, waiting=0),
    shipper=0,
    warnings=["a warning"],
    log_warnings=[],
    pid=0,
    prompt=0,
    policy=PolicyStatus(),
)


_encode = msgspec.msgpack.Encoder().encode


class SentMessage(NamedTuple):
    """A call of a client, or a notice (number 0)."""

    row: Row
    request: msgspec.Struct
    number: int = 0

    @property
    def frame(self):
        """Its bytes, however wrong."""
        body, name = msgspec.Raw(_encode(self.request)), self.row.name
        message = NoticeMessage(name, body)
        if self.row.answer is not None:
            message = CallMessage(self.number, name, body)
        return frame_of(message)


def call(number, row, request=None):
    """A call of a client."""
    return SentMessage(row, request or Empty(), number)


def announce(number, lease):
    """A viewer's announcement of a lease."""
    request = log_rows.AnnounceLease(
        lease.id, lease.sandbox, lease.record, lease.generation
    )
    return call(number, log_rows.ANNOUNCE_LEASE, request)


def frame_of(message):
    """The frame of a message of the wire."""
    return encode_frame(encode_message(message), 1 << 30)


class Stage:
    """The authority, its events, and how its client's channel ended."""

    def __init__(self, path, log, sock, role, waiting, linked, begun):
        book = Rulebook(path, log)
        self.path, self.log, self.book = path, log, book
        self.person = Person()
        self.told = []
        self.raised = []
        """Tokens by which the client wanted the dialog in front."""
        self.records = Records(book.paths, None, log)
        kind = HostAuthority if role == "host" else PolicyAuthority
        self.authority = kind(
            paths=book.paths,
            log=log,
            source=self.records,
            asker=self.person,
            notify=lambda title, text, *, sandbox="": self.told.append(title),
        )
        self.records.tightened = self.authority.decider.cut_denied
        link = Frames(
            sock,
            receive_bytes=authority_limits.AUTHORITY_REQUEST_BYTES,
            send_bytes=authority_limits.AUTHORITY_ANSWER_BYTES,
            waiting=waiting,
        )
        self.channel = ClientChannel(
            link,
            ProcessKind(role),
            raise_question=self.raised.append,
            authority=self.authority,
            log=log,
            rights=EventRights(role, linked=linked, host=_host_of(begun)),
            report=lambda: REPORT,
            serve_control=self._serve_control,
            checkpoints=LogCheckpoints(log._store, Sealing(log._store, AuditSettings()))
            if linked
            else None,
        )
        self.served = 0
        self.ended = trio.Event()
        self.fault = None
        self.has_asked_to_stop = False

    async def _serve_control(self):
        self.served += 1

    async def run(self, *, task_status):
        """Serve the channel to its end."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.authority.run)
            welcome = log_rows.Welcome(1, b"a key", clipboard_digest=True)
            self.channel.put(log_rows.WELCOME, welcome)
            task_status.started()
            try:
                self.has_asked_to_stop = await self.channel.serve()
            except (PeerError, ExceptionGroup) as group:
                self.fault = sole(group)
                if not isinstance(self.fault, PeerError):
                    raise
            self.ended.set()
            nursery.cancel_scope.cancel()

    def events(self, *kinds):
        with open_log(self.path / "audit.sqlite") as log:
            return [row.fields() for row in log.find(Filters(kinds=kinds))]


def _host_of(begun):
    if begun is None:
        return None
    host = EventRights("host", linked=False)
    for lease in begun:
        host.take(schema.encode(schema.LeaseBegin(**of(lease), record=lease.record)))
    return host


class RawClient:
    """A client that writes whatever a test wants."""

    def __init__(self, sock):
        sock.setblocking(False)
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._reader = FrameReader(authority_limits.AUTHORITY_ANSWER_BYTES)
        self._rows = {}
        self.heard = []
        """What nobody has waited for yet, each with the number of its call."""

    async def say(self, *messages):
        for message in messages:
            self._rows[message.number] = message.row
            await self.write(message.frame)

    async def write(self, data):
        view = memoryview(data)
        while view:
            view = view[await self._sock.send(view) :]

    async def hear(self, kind, *, of=None):
        """Return the next answer, error, notice or news of a permit of a kind.

        ``of``: for the call of this number.  Others are kept in ``heard``.
        """
        with trio.fail_after(30):
            while True:
                for number, value in list(self.heard):
                    if isinstance(value, kind) and of in {None, number}:
                        self.heard.remove((number, value))
                        return value
                data = await self._sock.recv(1 << 16)
                if not data:
                    raise EOFError(f"no {kind}")
                for frame in self._reader.feed(data):
                    self.heard.append(self._decode(decode_message(frame)))

    def _decode(self, message):
        """Return the number of a message's call, and what it says."""
        if isinstance(message, ErrorMessage):
            return message.call, message
        if isinstance(message, NoticeMessage):
            row = m.AUTHORITY_ROWS[message.row]
            return 0, msgspec.msgpack.decode(message.body, type=row.request)
        row = self._rows[message.call]
        if isinstance(message, AnswerMessage):
            return message.call, msgspec.msgpack.decode(message.body, type=row.answer)
        item = msgspec.msgpack.decode(message.body, type=row.item)
        return message.call, item.granted or item.changed or item.cut or item

    async def announce(self, lease=WORK, request=1):
        """Announce a lease, as the viewer does."""
        await self.say(announce(request, lease))
        await self.hear(Empty)

    def close(self):
        self._sock.close()


@asynccontextmanager
async def stage(
    rules="",
    *,
    role="viewer",
    waiting=authority_limits.AUTHORITY_WAITING_BYTES,
    linked=True,
    begun=None,
):
    """An authority that serves one channel; yields the far end's socket, too.

    ``begun``: the leases that the host on the same machine has begun.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with short_directory() as path, ours, theirs:
        async with journal(path) as log, trio.open_nursery() as nursery:
            made = Stage(path, log, ours, role, waiting, linked, begun)
            if rules:
                made.book.write("50-test.policy", rules)
            await made.records.record()
            await nursery.start(made.run)
            yield made, theirs
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def hostile(rules="", **more):
    """A client that was taken over."""
    async with stage(rules, **more) as (made, sock):
        client = RawClient(sock)
        yield made, client
        client.close()


@asynccontextmanager
async def client_of(rules="", **more):
    """An honest client."""
    async with stage(rules, **more) as (made, sock), trio.open_nursery() as nursery:
        lost = trio.Event()
        link = Frames(
            sock,
            receive_bytes=authority_limits.AUTHORITY_ANSWER_BYTES,
            send_bytes=authority_limits.AUTHORITY_REQUEST_BYTES,
            waiting=1 << 20,
        )
        client = AuthorityClient(link, lost=lambda reason: lost.set())
        client.lost = lost
        await nursery.start(client.run)
        yield made, client
        nursery.cancel_scope.cancel()
