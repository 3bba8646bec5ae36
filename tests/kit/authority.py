"""An authority whose client is in the same process: both ends of a real channel."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager

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
from broker.ipc.audit import schema
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.viewer.authority.authority_client import AuthorityClient
from broker.wire.frame_carrier import Frames
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


def frame_of(message):
    """The frame of a client's message."""
    return encode_frame(m.encode_from_client(message), 1 << 30)


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
        self.stop = None

    async def _serve_control(self):
        self.served += 1

    async def run(self, *, task_status):
        """Serve the channel to its end."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.authority.run)
            self.channel.put(m.Welcome(1, b"a key", clipboard_digest=True))
            task_status.started()
            try:
                self.stop = await self.channel.serve()
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
        self.heard = []

    async def say(self, *messages):
        for message in messages:
            await self.write(frame_of(message))

    async def write(self, data):
        view = memoryview(data)
        while view:
            view = view[await self._sock.send(view) :]

    async def hear(self, kind):
        """Return the next message of a kind, or of several; keep the others in ``heard``."""
        with trio.fail_after(30):
            while True:
                for message in list(self.heard):
                    if isinstance(message, kind):
                        self.heard.remove(message)
                        return message
                data = await self._sock.recv(1 << 16)
                if not data:
                    raise EOFError(f"no {kind}")
                for frame in self._reader.feed(data):
                    self.heard.append(m.decode_from_authority(frame))

    async def announce(self, lease=WORK, request=1):
        """Announce a lease, as the host does."""
        await self.say(
            m.AnnounceLease(
                request, lease.id, lease.sandbox, lease.record, lease.generation
            )
        )
        await self.hear(m.AuthorityDone)

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
