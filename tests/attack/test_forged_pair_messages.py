"""A taken-over host lies to the viewer on the same machine, and the reverse.

They are two processes that a pair of sockets joins.  A message that no honest process
sends ends the pair, and the broker with it; a request that is none of its business is
refused, and nobody else is affected.
"""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import trio
import trio.testing

from broker.core import limits
from broker.core.errors import PeerError, RefusedError, UpstreamError, sole
from broker.core.lease import Lease
from broker.core.limits import host_viewer as pair_limits
from broker.core.limits import link as link_limits
from broker.core.limits import transfer as transfer_limits
from broker.core.names import LeaseId, SandboxName
from broker.core.services import AGENT
from broker.host.folders.given import GivenFolders
from broker.host.viewer_process import ViewerProcess
from broker.host_and_viewer.host_folders import GivenFolder
from broker.ipc.sealed_memfd import sealed
from broker.ipc.session.folder_orders import FolderForHost, encode_for_host
from broker.net.host_pair import pair_end
from broker.net.host_pair import pair_messages as p
from broker.net.link import messages as m
from broker.net.link.wire_types import Role
from broker.viewer.host_ends.host_process import HostProcess
from broker.wire import fdpass
from broker.wire.faults import HeldError
from tests.kit.eventually import eventually
from tests.kit.link.ends import HoldingViewer
from tests.kit.rulebook import WORK


class Hostile:
    """The far end: it sends anything, and reads the replies."""

    def __init__(self, sock, role):
        self._sock, self._role = sock, role
        self.number = 0

    def say(self, message, *fds):
        fdpass.send(self._sock, p.encode(message), fds)

    async def hear(self, kind=m.Message):
        """The next message of that kind, and its descriptor."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            data, fds = fdpass.receive(self._sock, pair_limits.PAIR_MESSAGE_BYTES, 1)
            assert data, "the far end has closed"
            message = p.decode(data, self._role.other)
            if isinstance(message, kind):
                return message, fds
            fdpass.close_all(fds)

    async def ask(self, make, *fds):
        """Send a request and return its reply."""
        self.number += 1
        request = make(self.number)
        self.say(request, *fds)
        reply, came = await self.hear(m.LinkReply)
        fdpass.close_all(came)
        assert reply.request == request.request
        return reply


class Viewer(HoldingViewer):
    """It takes each stream and keeps it until it is cut."""

    async def stream_opened(self, opening, conn, *, task_status):
        with conn:
            self.offered.append(opening)
            task_status.started()
            await trio.sleep_forever()


async def run(end, fault):
    try:
        await end.run()
        fault.append("closed")
    except (PeerError, ExceptionGroup) as error:
        fault.append(str(sole(error)))


@asynccontextmanager
async def taken_host():
    """A host that was taken over, and the viewer's end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(0)
    viewer, fault = Viewer(), []
    end = HostProcess(ours, viewer=lambda: viewer, reload=trio.lowlevel.checkpoint)
    hostile = Hostile(theirs, Role.HOST)
    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, end, fault)
            with trio.fail_after(60):
                yield SimpleNamespace(viewer=viewer, end=end, fault=fault), hostile
            nursery.cancel_scope.cancel()


class QuietRole:
    """A host's role that starts nothing."""

    def __init__(self):
        self.devices = SimpleNamespace(changed=trio.Event())
        self.stopped = []

    async def stop(self, lease, *, grace, reason):
        self.stopped.append((lease, grace, reason))

    async def suspend(self, lease, *, suspended):
        self.stopped.append((lease, suspended))


class Folders:
    """A source of folders that mounts none."""

    def __init__(self):
        self.mounted_now = []
        self.ended = []
        self.fails = None

    @asynccontextmanager
    async def mounted(self, lease, folder, *, write):
        if self.fails is not None:
            raise self.fails
        made = SimpleNamespace(
            path=f"/folders/{folder.name}",
            place=None,
            kept=False,
            lost=trio.sleep_forever,
        )
        self.mounted_now.append((lease, str(folder.path), write))
        try:
            yield made
        finally:
            made.kept = True
            self.mounted_now.pop()

    async def forget(self, lease):
        return lease == WORK

    async def end_sandbox(self, lease, reason):
        self.ended.append((lease, reason))


@asynccontextmanager
async def taken_viewer():
    """A viewer that was taken over, and the host's end, with one lease."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(0)
    role, folders, fault = QuietRole(), Folders(), []
    end = ViewerProcess(ours, rows=None, end=None)
    hostile = Hostile(theirs, Role.VIEWER)
    given, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, given, child:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, end, fault)
            await nursery.start(
                *(end.serve, role, folders, GivenFolders(given)),
                trio.lowlevel.checkpoint,
            )
            with trio.fail_after(60):
                nursery.start_soon(end.lease_begun, WORK)
                request, _ = await hostile.hear(m.LeaseBegun)
                hostile.say(m.RequestDone(request.request))
                made = SimpleNamespace(
                    role=role, folders=folders, end=end, fault=fault, child=child
                )
                yield made, hostile
            nursery.cancel_scope.cancel()


@contextmanager
def socket_pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def begun(lease=WORK):
    return lambda n: m.LeaseBegun.of(n, lease, "")


def offer(stream=1, lease=WORK, service=AGENT):
    return lambda n: p.OfferStream(n, lease.id, service, stream, "test")


async def ends(made, match):
    """The pair ends, for that reason."""
    assert match in await eventually(lambda: made.fault and made.fault[0])
    assert not made.end.pair.live


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


# -- a host ------------------------------------------------------------------------


async def test_a_host_sends_what_only_a_viewer_sends():
    """It would have the viewer start machines, mount folders, or end the broker."""
    async with taken_host() as (made, hostile):
        hostile.say(p.EndHost(1))
        await ends(made, "the host sent an invalid message")


@pytest.mark.parametrize("body", [b"[]", b"{}", b"\xff", b"[" * 5000, b"null"])
async def test_a_host_sends_what_is_no_message(body):
    async with taken_host() as (made, hostile):
        hostile._sock.send(body)
        await ends(made, "the host sent an invalid message")


async def test_a_stream_of_a_lease_that_was_not_announced():
    async with taken_host() as (made, hostile):
        with socket_pair() as (ours, theirs):
            reply = await hostile.ask(offer(), theirs.fileno())
            assert "was not announced to this viewer" in reply.error.message
            theirs.close()
            assert ours.recv(1) == b""
        assert made.viewer.offered == []
        assert made.fault == []


async def test_a_stream_of_a_lease_that_has_ended():
    async with taken_host() as (made, hostile):
        await hostile.ask(begun())
        await hostile.ask(lambda n: m.LeaseEnded(n, WORK.id, "over"))
        with socket_pair() as (_, theirs):
            reply = await hostile.ask(offer(), theirs.fileno())
        assert isinstance(reply, p.RequestFailed)
        assert made.viewer.offered == []


async def test_a_stream_of_a_service_that_there_is_not():
    async with taken_host() as (made, hostile):
        await hostile.ask(begun())
        with socket_pair() as (_, theirs):
            reply = await hostile.ask(offer(service="vitrail.Root"), theirs.fileno())
        assert "sent the name of an unknown service" in reply.error.message
        assert made.viewer.offered == []


async def test_the_number_of_a_stream_is_used_twice():
    """Its bytes would be counted as another's, and its end be another's end."""
    async with taken_host() as (made, hostile):
        await hostile.ask(begun())
        with socket_pair() as (ours, theirs):
            await hostile.ask(offer(), theirs.fileno())
            reply = await hostile.ask(offer(), ours.fileno())
        assert "reused the number of a stream" in reply.error.message
        assert len(made.viewer.offered) == 1


async def test_a_lease_is_announced_twice():
    async with taken_host() as (made, hostile):
        await hostile.ask(begun())
        hostile.say(begun()(2))
        await ends(made, "announced twice")


async def test_an_id_is_never_another_leases():
    other = Lease(WORK.id, SandboxName("vault"), SandboxName("vault"), 1)
    async with taken_host() as (made, hostile):
        await hostile.ask(begun())
        await hostile.ask(lambda n: m.LeaseEnded(n, WORK.id, "over"))
        hostile.say(begun(other)(3))
        await ends(made, "announced again")


async def test_leases_that_have_ended_fill_no_memory(monkeypatch):
    monkeypatch.setattr(link_limits, "LINK_LEASES_PER_EPOCH", 3)
    async with taken_host() as (made, hostile):
        for number in range(10):
            lease = Lease(LeaseId(f"{number:016x}"), WORK.sandbox, WORK.record, 1)
            await hostile.ask(begun(lease))
            await hostile.ask(lambda n, lease=lease: m.LeaseEnded(n, lease.id, "over"))
        assert len(made.end.pair.leases._ended) == 3
        assert made.fault == []


async def test_a_descriptor_with_a_message_that_has_none():
    async with taken_host() as (made, hostile):
        before = descriptors()
        with socket_pair() as (_, theirs):
            hostile.say(begun()(1), theirs.fileno())
        await ends(made, "a message that has none")
        assert made.viewer.leases == []
        assert descriptors() < before


async def test_two_descriptors_with_a_message():
    async with taken_host() as (made, hostile):
        with socket_pair() as (ours, theirs):
            hostile.say(offer()(1), ours.fileno(), theirs.fileno())
        await ends(made, "too much data or too many descriptors")


async def test_a_stream_without_a_descriptor():
    """Also that of an honest host, where the viewer may open no more files."""
    async with taken_host() as (made, hostile):
        await hostile.ask(begun())
        reply = await hostile.ask(offer())
        assert "the descriptor of" in reply.error.message
        assert made.viewer.offered == []
        assert made.fault == []


async def test_a_reply_that_no_request_wants():
    async with taken_host() as (made, hostile):
        hostile.say(m.RequestDone(1))
        await ends(made, "no request expects")


async def test_a_reply_of_another_kind():
    async with taken_host() as (made, hostile), trio.open_nursery() as nursery:
        nursery.start_soon(_lost, made.end.refuse_new)
        request, _ = await hostile.hear(p.RefuseNew)
        hostile.say(p.FolderState(request.request, kept=False))
        await ends(made, "no request expects")


async def _lost(ask):
    with pytest.raises(UpstreamError):
        await ask()


async def test_the_number_of_a_request_is_used_again():
    async with taken_host() as (made, hostile):
        await hostile.ask(begun())
        hostile.say(p.CutStream(1, 1))
        await ends(made, "request 1 follows request 1")


async def test_a_request_is_given_up_that_was_not_sent():
    async with taken_host() as (made, hostile):
        hostile.say(p.CancelRequest(1))
        await ends(made, "that it has not sent")


@pytest.mark.parametrize("excess", [0, 1])
async def test_a_flood_of_requests(monkeypatch, excess):
    """As many as may be open are served; one more, and the host is over."""
    monkeypatch.setattr(pair_limits, "PAIR_REQUESTS", 5)
    async with taken_host() as (made, hostile):
        waiting = trio.Event()

        async def slow(lease):
            await waiting.wait()

        made.viewer.lease_begun = slow
        for number in range(5 + excess):
            name = SandboxName(f"box-{number}")
            lease = Lease(LeaseId(f"{number:016x}"), name, WORK.record, 1)
            hostile.say(begun(lease)(number + 1))
        if excess:
            await ends(made, "requests at one time")
        else:
            waiting.set()
            for _ in range(5):
                await hostile.hear(m.RequestDone)
            assert made.fault == []


@pytest.mark.parametrize("size", [0, 1, 1 << 30])
async def test_rows_that_are_not_as_they_say(size):
    """A file that changes while it is read, is too long, or is shorter than it says."""
    body = msgspec.json.encode(p.HostRowsReport([], [], [], [], [], 0))
    async with taken_host() as (made, hostile), trio.open_nursery() as nursery:
        found = []

        async def look():
            try:
                found.append(await made.end.rows())
            except PeerError as error:
                found.append(str(error))

        nursery.start_soon(look)
        request, _ = await hostile.hear(p.HostRowsAsked)
        fd = sealed([body])
        hostile.say(p.HostRowsFile(request.request, size or len(body)), fd)
        os.close(fd)
        await eventually(lambda: found)
        if size:
            assert ("too long" if size > 1 else "the announced size") in found[0]
        else:
            assert found[0].tasks == 0


async def test_rows_in_a_file_that_can_change():
    async with taken_host() as (made, hostile), trio.open_nursery() as nursery:

        async def look():
            with pytest.raises(PeerError, match="not sealed"):
                await made.end.rows()

        nursery.start_soon(look)
        request, _ = await hostile.hear(p.HostRowsAsked)
        fd = os.memfd_create("rows", os.MFD_ALLOW_SEALING)
        hostile.say(p.HostRowsFile(request.request, 2), fd)
        os.close(fd)


async def test_a_host_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(pair_limits, "PAIR_BEAT_SECONDS", 0.01)
    monkeypatch.setattr(pair_limits, "PAIR_SILENT_SECONDS", 1)
    async with taken_host() as (made, _hostile):
        await made.end.pair.watch()
        assert made.end.pair.live


async def test_a_host_that_answers_is_left_alone(monkeypatch):
    monkeypatch.setattr(pair_limits, "PAIR_BEAT_SECONDS", 0.01)
    async with taken_host() as (made, hostile), trio.open_nursery() as nursery:
        nursery.start_soon(made.end.pair.watch)
        for _ in range(5):
            ping, _ = await hostile.hear(m.LinkPing)
            hostile.say(m.RequestDone(ping.request))
        nursery.cancel_scope.cancel()


async def test_what_nobody_waits_for_is_given_up():
    """A start whose user has pressed Ctrl-C."""
    async with taken_host() as (made, hostile), trio.open_nursery() as nursery:
        nursery.start_soon(made.end.refuse_new)
        request, _ = await hostile.hear(p.RefuseNew)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            given_up, _ = await hostile.hear(p.CancelRequest)
            assert given_up.request == request.request
            hostile.say(p.RequestFailed(request.request, p.GIVEN_UP))


# -- a viewer ----------------------------------------------------------------------


async def test_a_viewer_sends_what_only_a_host_sends():
    """It would announce a lease, and offer its streams."""
    async with taken_viewer() as (made, hostile):
        hostile.say(begun()(1))
        await ends(made, "the viewer sent an invalid message")


def mount(number=1, lease=WORK, ticket=b"1"):
    return lambda n: p.MountFolder(n, number, lease.id, ticket)


def give(child, path, *, ticket=b"1", sandbox=WORK.sandbox, write=False, pid=0):
    """A session child, ``pid`` or this process, gives a folder to the host."""
    fd, holder = os.open(path, os.O_PATH), os.pidfd_open(pid or os.getpid())
    message = FolderForHost(ticket, sandbox, os.fsencode(path), write)
    fdpass.send(child, encode_for_host(message), [fd, holder])
    os.close(fd)
    os.close(holder)


async def test_a_folder_for_a_lease_that_was_not_announced(tmp_path):
    stranger = Lease(LeaseId("f" * 16), WORK.sandbox, SandboxName("x"), 1)
    async with taken_viewer() as (made, hostile):
        give(made.child, tmp_path)
        reply = await hostile.ask(mount(lease=stranger))
        assert "no lease" in reply.error.message
        assert made.folders.mounted_now == []


async def test_a_viewer_has_no_other_directory_mounted(tmp_path):
    """Its own descriptor, no ticket, another folder's: the host mounts none of them."""
    async with taken_viewer() as (made, hostile):
        reply = await hostile.ask(mount(ticket=b""))
        assert "not shared with this sandbox" in reply.error.message
        give(made.child, tmp_path)
        reply = await hostile.ask(mount(ticket=b"2"))
        assert "not shared with this sandbox" in reply.error.message
        assert made.folders.mounted_now == []
        fd = os.open("/", os.O_PATH)
        hostile.number += 1
        hostile.say(mount()(hostile.number), fd)
        os.close(fd)
        await ends(made, "that has none")
        assert made.folders.mounted_now == []


async def test_a_folder_of_another_sandbox(tmp_path):
    async with taken_viewer() as (made, hostile):
        give(made.child, tmp_path, sandbox="vault")
        reply = await hostile.ask(mount())
        assert "not shared with this sandbox" in reply.error.message
        assert made.folders.mounted_now == []


async def test_a_folder_is_mounted_as_the_child_gave_it_and_once(tmp_path):
    async with taken_viewer() as (made, hostile):
        give(made.child, tmp_path, write=False)
        assert isinstance(await hostile.ask(mount()), p.FolderMounted)
        assert made.folders.mounted_now == [(WORK, str(tmp_path), False)]
        reply = await hostile.ask(mount(2))
        assert "not shared with this sandbox" in reply.error.message
        assert len(made.folders.mounted_now) == 1


async def test_a_mount_ends_with_the_child_that_holds_its_permit(tmp_path):
    """The viewer asks for no end of it, nor of the sandbox that keeps a file of it."""
    before = descriptors()
    async with taken_viewer() as (made, hostile):
        with subprocess.Popen(["sleep", "60"]) as child:
            give(made.child, tmp_path, pid=child.pid)
            assert isinstance(await hostile.ask(mount()), p.FolderMounted)
            assert made.folders.mounted_now
            give(made.child, tmp_path, ticket=b"2", pid=child.pid)
            child.kill()
            lost, _ = await hostile.hear(p.FolderLost)
        assert lost.mount == 1
        assert made.folders.mounted_now == []
        await eventually(lambda: [lease for lease, _ in made.folders.ended] == [WORK])
        hostile.say(m.RequestDone(lost.request))
        reply = await hostile.ask(mount(2, ticket=b"2"))
        assert "no longer shared" in reply.error.message
    assert descriptors() == before


async def test_folders_that_are_never_mounted_fill_no_memory(tmp_path):
    async with taken_viewer() as (made, hostile):
        before = descriptors()
        for number in range(1, 300):
            give(made.child, tmp_path, ticket=str(number).encode())
            await hostile.ask(mount(number, ticket=b"none"))
        assert descriptors() - before <= 8 * transfer_limits.FOLDERS_PER_SANDBOX


async def test_the_number_of_a_mount_is_used_twice(tmp_path):
    async with taken_viewer() as (made, hostile):
        give(made.child, tmp_path)
        give(made.child, tmp_path, ticket=b"2")
        assert isinstance(await hostile.ask(mount()), p.FolderMounted)
        reply = await hostile.ask(mount(ticket=b"2"))
        assert "reused the number of a mount" in reply.error.message
        assert len(made.folders.mounted_now) == 1


@pytest.mark.parametrize("excess", [0, 1])
async def test_mounts_without_end(tmp_path, monkeypatch, excess):
    monkeypatch.setattr(limits, "LEASES", 1)
    async with taken_viewer() as (made, hostile):
        for number in range(transfer_limits.FOLDERS_PER_SANDBOX + excess):
            give(made.child, tmp_path)
            reply = await hostile.ask(mount(number + 1))
        assert isinstance(reply, p.RequestFailed) == bool(excess)


async def test_a_viewer_that_goes_leaves_no_folder(tmp_path):
    async with taken_viewer() as (made, hostile):
        give(made.child, tmp_path)
        await hostile.ask(mount())
        assert made.folders.mounted_now
    assert made.folders.mounted_now == []


async def test_ends_of_what_there_is_not():
    """A lease, a stream and a mount of others: nothing happens."""
    async with taken_viewer() as (made, hostile):
        for make in (
            lambda n: p.StopLease(n, "f" * 16, 1e300, "why"),
            lambda n: p.StreamOver(n, 7),
            lambda n: p.ReleaseFolder(n, 7),
        ):
            assert isinstance(await hostile.ask(make), m.RequestDone)
        reply = await hostile.ask(lambda n: p.UnmountFolder(n, 7))
        assert reply == p.FolderState(hostile.number, kept=False)
        assert made.role.stopped == [("f" * 16, 1e300, "why")]


# -- honest ones ---------------------------------------------------------------------


@asynccontextmanager
async def joined(viewer=None):
    """Both ends, which are honest, with the lease of WORK."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    viewer, role, folders = viewer or Viewer(), QuietRole(), Folders()
    host = HostProcess(ours, viewer=lambda: viewer, reload=trio.lowlevel.checkpoint)
    end = ViewerProcess(theirs, rows=None, end=None)
    given, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with given, child:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.run)
            nursery.start_soon(end.run)
            await nursery.start(
                *(end.serve, role, folders, GivenFolders(given)),
                trio.lowlevel.checkpoint,
            )
            with trio.fail_after(60):
                await end.lease_begun(WORK)
                yield SimpleNamespace(
                    host=host,
                    end=end,
                    viewer=viewer,
                    folders=folders,
                    role=role,
                    nursery=nursery,
                    child=child,
                )
            nursery.cancel_scope.cancel()


def opening(stream):
    return SimpleNamespace(
        lease=WORK, service=AGENT, stream=stream, peer="test", direct=False
    )


async def test_a_stream_that_is_cut_has_ended_at_the_viewers():
    async with joined() as made:
        with socket_pair() as (ours, theirs):
            async with trio.open_nursery() as nursery:
                conn = socket.socket(fileno=os.dup(theirs.fileno()))
                await nursery.start(made.end.stream_opened, opening(1), conn)
                assert made.host._streams
                nursery.cancel_scope.cancel()
            assert not made.host._streams
            theirs.close()
            assert ours.recv(1) == b""


async def test_a_stream_that_the_viewer_ends():
    class Short(Viewer):
        async def stream_opened(self, opening, conn, *, task_status):
            with conn:
                task_status.started()

    async with joined(Short()) as made:
        for number in range(1, 20):
            with socket_pair() as (_, theirs):
                conn = socket.socket(fileno=os.dup(theirs.fileno()))
                async with trio.open_nursery() as nursery:
                    await nursery.start(made.end.stream_opened, opening(number), conn)
        assert not made.end._streams


async def test_an_error_comes_whole():
    """Hint, place and class are what brokerctl prints and exits by."""

    class No(Viewer):
        async def stream_opened(self, opening, conn, *, task_status):
            with conn:
                raise RefusedError("no\nway", hint="a\nb", where="x.policy:1:2")

    async with joined(No()) as made:
        with socket_pair() as (_, theirs):
            conn = socket.socket(fileno=os.dup(theirs.fileno()))
            with pytest.raises(RefusedError) as caught:
                await made.end.stream_opened(
                    opening(1), conn, task_status=trio.TASK_STATUS_IGNORED
                )
        error = caught.value
        assert (error.message, error.hint, error.where) == (
            "no\nway",
            "a\nb",
            "x.policy:1:2",
        )


async def test_a_suspension_reaches_the_host():
    async with joined() as made:
        for suspended in (True, False):
            await made.host.suspend(WORK.id, suspended=suspended)
        assert made.role.stopped == [(WORK.id, True), (WORK.id, False)]


async def test_a_folder_whose_mount_was_held(tmp_path):
    """Its sandbox is ended for it, so the error is of another kind."""
    async with joined() as made:
        folder = GivenFolder(tmp_path, b"1", trio.sleep)
        made.folders.fails = HeldError("it has files open")
        give(made.child, tmp_path)
        with pytest.raises(HeldError):
            async with made.host.folders.mounted(WORK, folder, write=False):
                raise AssertionError
        made.folders.fails = None
        give(made.child, tmp_path)
        async with made.host.folders.mounted(WORK, folder, write=False) as mounted:
            assert mounted.path == f"/folders/{tmp_path.name}"
        assert mounted.kept
        assert await made.host.folders.forget(WORK)


async def test_a_message_that_is_wrong_is_never_sent(monkeypatch):
    """The far end would end the broker for it."""
    async with joined() as made:
        monkeypatch.setattr(pair_end.p, "encode", lambda _message: b"{}")
        with pytest.raises(Exception, match="a message of this process is invalid"):
            await made.host.refuse_new()
        monkeypatch.undo()
        assert made.host.pair.live


async def test_many_requests_at_one_time():
    """Each gets one reply."""
    async with joined() as made:
        numbers = count(1)

        async def one():
            with socket_pair() as (_, theirs):
                conn = socket.socket(fileno=os.dup(theirs.fileno()))
                async with trio.open_nursery() as inner:
                    await inner.start(
                        made.end.stream_opened, opening(next(numbers)), conn
                    )
                    inner.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(one)
        assert len(made.viewer.offered) == 100
        assert not made.host._streams


async def test_an_arena_is_lent_to_a_lease_that_was_announced():
    """Its descriptor is closed at the viewer's end, whatever comes of it."""
    fd = os.memfd_create("arena")
    async with taken_host() as (viewer, hostile):
        assert isinstance(await hostile.ask(begun()), m.RequestDone)
        before = len(os.listdir("/proc/self/fd"))
        other = "0" * 16
        refused = await hostile.ask(lambda n: p.LendArena(n, other), fd)
        assert isinstance(refused, p.RequestFailed)
        assert "was not announced to this viewer" in refused.error.message
        lent = await hostile.ask(lambda n: p.LendArena(n, WORK.id), fd)
        assert isinstance(lent, m.RequestDone)
        assert viewer.viewer.arenas == [(WORK.id, os.fstat(fd).st_ino)]
        without = await hostile.ask(lambda n: p.LendArena(n, WORK.id))
        assert isinstance(without, p.RequestFailed)
        assert len(os.listdir("/proc/self/fd")) == before
        assert not viewer.fault
    os.close(fd)


async def test_a_request_that_waits_for_room_is_lost_with_the_far_end():
    """It was a KeyError, which no part expects of the other process's end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end = pair_end.PairEnd(ours, Role.VIEWER, None)
    with suppress(BlockingIOError):
        while True:
            ours.send(p.encode(m.LinkPing(1)))
    over = trio.CancelScope()

    async def run():
        with over:
            await end.run()

    async def ask():
        with pytest.raises(UpstreamError):
            await end.ask(m.LinkPing)

    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            over.cancel()
