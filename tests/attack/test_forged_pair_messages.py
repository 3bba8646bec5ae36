"""A taken-over host lies to the viewer on the same machine, and the reverse.

They are two processes that a pair of sockets joins.  A message that no honest process
sends ends the pair, and the broker with it; a request that is none of its business is
refused, and nobody else is affected.
"""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import trio

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
from broker.ipc.host_rows import (
    CUT_STREAM,
    END_HOST,
    FOLDER_LOST,
    HOST_ROWS,
    LEASE_BEGUN,
    LEASE_ENDED,
    LEND_ARENA,
    MOUNT_FOLDER,
    OFFER_STREAM,
    REFUSE_NEW,
    RELEASE_FOLDER,
    STOP,
    STREAM_OVER,
    UNMOUNT_FOLDER,
    FolderMounted,
    FolderState,
    HostRowsFile,
    HostRowsReport,
    LeaseBegun,
    LeaseEnded,
    MountFolder,
    NamedLease,
    NamedMount,
    NamedStream,
    OfferStream,
    StopSandbox,
)
from broker.ipc.sealed_memfd import sealed
from broker.ipc.session.folder_orders import FolderForHost, encode_for_host
from broker.net.link_service import pair_end
from broker.viewer.host_ends.host_process import HostProcess
from broker.wire import fdpass
from broker.wire.call_messages import (
    AnswerMessage,
    CallMessage,
    CancelMessage,
    ErrorMessage,
    PingMessage,
    decode_message,
    encode_message,
)
from broker.wire.calls import PONG
from broker.wire.faults import HeldError
from broker.wire.serving import CANCELLED
from tests.kit.eventually import eventually
from tests.kit.link.ends import HoldingViewer
from tests.kit.rulebook import WORK
from tests.kit.wire_bytes import DONE, answer_bytes, call_bytes


class Hostile:
    """The far end: it sends anything, and reads the answers."""

    def __init__(self, sock):
        self.sock = sock
        self.number = 0

    def say(self, data, *fds):
        fdpass.send(self.sock, data, fds)

    def say_call(self, number, call, *fds):
        """Send a call, a pair of row and request, with any number."""
        self.say(call_bytes(number, *call), *fds)

    def say_done(self, number, answer=DONE, *fds):
        self.say(answer_bytes(number, answer), *fds)

    async def hear(self, kind):
        """The next message of that kind, and its descriptors."""
        while True:
            await trio.lowlevel.wait_readable(self.sock)
            data, fds = fdpass.receive(self.sock, pair_limits.PAIR_MESSAGE_BYTES, 1)
            assert data, "the far end has closed"
            message = decode_message(data)
            if isinstance(message, kind):
                return message, fds
            fdpass.close_all(fds)

    async def hear_call(self, row):
        """The number and request of the next call of that row."""
        while True:
            message, fds = await self.hear(CallMessage)
            fdpass.close_all(fds)
            if message.row == row.name:
                return message.call, msgspec.msgpack.decode(
                    message.body, type=row.request
                )

    async def ask(self, call, *fds):
        """Make a call; return its answer, or the message of its error."""
        self.number += 1
        self.say_call(self.number, call, *fds)
        message, came = await self.hear((AnswerMessage, ErrorMessage))
        fdpass.close_all(came)
        assert message.call == self.number
        if isinstance(message, ErrorMessage):
            return message
        return msgspec.msgpack.decode(message.body, type=call[0].answer)


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
    hostile = Hostile(theirs)
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
    given, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end = ViewerProcess(ours, given=GivenFolders(given), rows=None, end=None)
    hostile = Hostile(theirs)
    with theirs, given, child:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, end, fault)
            await nursery.start(end.serve, role, folders, trio.lowlevel.checkpoint)
            with trio.fail_after(60):
                nursery.start_soon(end.lease_begun, WORK)
                number, _ = await hostile.hear_call(LEASE_BEGUN)
                hostile.say_done(number)
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
    return LEASE_BEGUN, LeaseBegun.of(lease, "")


def over(lease=WORK):
    return LEASE_ENDED, LeaseEnded(lease.id, "over")


def offer(stream=1, lease=WORK, service=AGENT):
    return OFFER_STREAM, OfferStream(lease.id, service, stream, "test")


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
        hostile.say_call(1, (END_HOST, DONE))
        await ends(made, "the host may not call 'EndHost' of the viewer")


@pytest.mark.parametrize("body", [b"[]", b"{}", b"\xff", b"[" * 5000, b"null"])
async def test_a_host_sends_what_is_no_message(body):
    async with taken_host() as (made, hostile):
        hostile.sock.send(body)
        await ends(made, "it sent bytes that are no message")


async def test_a_stream_of_a_lease_that_was_not_announced():
    async with taken_host() as (made, hostile):
        with socket_pair() as (ours, theirs):
            reply = await hostile.ask(offer(), theirs.fileno())
            assert "was not announced to this viewer" in reply.message
            theirs.close()
            assert ours.recv(1) == b""
        assert made.viewer.offered == []
        assert made.fault == []


async def test_a_stream_of_a_lease_that_has_ended():
    async with taken_host() as (made, hostile):
        await hostile.ask(begun())
        await hostile.ask(over())
        with socket_pair() as (_, theirs):
            reply = await hostile.ask(offer(), theirs.fileno())
        assert isinstance(reply, ErrorMessage)
        assert made.viewer.offered == []


async def test_a_stream_of_a_service_that_there_is_not():
    async with taken_host() as (made, hostile):
        await hostile.ask(begun())
        with socket_pair() as (_, theirs):
            reply = await hostile.ask(offer(service="vitrail.Root"), theirs.fileno())
        assert "sent the name of an unknown service" in reply.message
        assert made.viewer.offered == []


async def test_the_number_of_a_stream_is_used_twice():
    """Its bytes would be counted as another's, and its end be another's end."""
    async with taken_host() as (made, hostile):
        await hostile.ask(begun())
        with socket_pair() as (ours, theirs):
            await hostile.ask(offer(), theirs.fileno())
            reply = await hostile.ask(offer(), ours.fileno())
        assert "reused the number of a stream" in reply.message
        assert len(made.viewer.offered) == 1


async def test_a_lease_is_announced_twice():
    async with taken_host() as (made, hostile):
        await hostile.ask(begun())
        hostile.say_call(2, begun())
        await ends(made, "announced twice")


async def test_an_id_is_never_another_leases():
    other = Lease(WORK.id, SandboxName("vault"), SandboxName("vault"), 1)
    async with taken_host() as (made, hostile):
        await hostile.ask(begun())
        await hostile.ask(over())
        hostile.say_call(3, begun(other))
        await ends(made, "announced again")


async def test_leases_that_have_ended_fill_no_memory(monkeypatch):
    monkeypatch.setattr(link_limits, "LINK_LEASES_PER_EPOCH", 3)
    async with taken_host() as (made, hostile):
        for number in range(10):
            lease = Lease(LeaseId(f"{number:016x}"), WORK.sandbox, WORK.record, 1)
            await hostile.ask(begun(lease))
            await hostile.ask(over(lease))
        assert len(made.end.pair.leases._ended) == 3
        assert made.fault == []


async def test_a_descriptor_with_a_message_that_has_none():
    async with taken_host() as (made, hostile):
        before = descriptors()
        with socket_pair() as (_, theirs):
            hostile.say_call(1, begun(), theirs.fileno())
        await ends(made, "1 descriptor")
        assert made.viewer.leases == []
        assert descriptors() < before


async def test_two_descriptors_with_a_message():
    async with taken_host() as (made, hostile):
        with socket_pair() as (ours, theirs):
            hostile.say_call(1, offer(), ours.fileno(), theirs.fileno())
        await ends(made, "more than 1 file descriptors at once")


async def test_a_stream_without_a_descriptor():
    """Where the viewer may open no more files, the kernel says so (conformance/peer)."""
    async with taken_host() as (made, hostile):
        await hostile.ask(begun())
        hostile.say_call(2, offer())
        await ends(made, "0 descriptors with OfferStream")
        assert made.viewer.offered == []


async def test_a_reply_that_no_request_wants():
    async with taken_host() as (made, hostile):
        hostile.say_done(1)
        await ends(made, "answered a call that is not open")


async def test_a_reply_of_another_kind():
    async with taken_host() as (made, hostile), trio.open_nursery() as nursery:
        nursery.start_soon(_lost, made.end.refuse_new)
        number, _ = await hostile.hear_call(REFUSE_NEW)
        hostile.say_done(number, FolderState(kept=False))
        await ends(made, "RefuseNew")


async def _lost(ask):
    with pytest.raises(UpstreamError):
        await ask()


async def test_the_number_of_a_request_is_used_again():
    async with taken_host() as (made, hostile):
        await hostile.ask(begun())
        hostile.say_call(1, (CUT_STREAM, NamedStream(1)))
        await ends(made, "sent call 1 after call 1")


async def test_a_request_is_given_up_that_was_not_sent():
    async with taken_host() as (made, hostile):
        hostile.say(encode_message(CancelMessage(1)))
        await ends(made, "cancels a call that it has not made")


@pytest.mark.parametrize("excess", [0, 1])
async def test_a_flood_of_requests(monkeypatch, excess):
    """As many as may be open are served; one more, and the host is over."""
    monkeypatch.setattr(pair_end, "_HABITS", replace(pair_end._HABITS, most_calls=5))
    async with taken_host() as (made, hostile):
        waiting = trio.Event()

        async def slow(lease):
            await waiting.wait()

        made.viewer.lease_begun = slow
        for number in range(5 + excess):
            name = SandboxName(f"box-{number}")
            lease = Lease(LeaseId(f"{number:016x}"), name, WORK.record, 1)
            hostile.say_call(number + 1, begun(lease))
        if excess:
            await ends(made, "too many calls of LeaseBegun at one time")
        else:
            waiting.set()
            for _ in range(5):
                await hostile.hear(AnswerMessage)
            assert made.fault == []


@pytest.mark.parametrize("size", [0, 1, 1 << 30])
async def test_rows_that_are_not_as_they_say(size):
    """A file that changes while it is read, is too long, or is shorter than it says."""
    body = msgspec.json.encode(HostRowsReport([], [], [], [], [], 0))
    async with taken_host() as (made, hostile), trio.open_nursery() as nursery:
        found = []

        async def look():
            try:
                found.append(await made.end.rows())
            except PeerError as error:
                found.append(str(error))

        nursery.start_soon(look)
        number, _ = await hostile.hear_call(HOST_ROWS)
        fd = sealed([body])
        hostile.say_done(number, HostRowsFile(size or len(body)), fd)
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
        number, _ = await hostile.hear_call(HOST_ROWS)
        fd = os.memfd_create("rows", os.MFD_ALLOW_SEALING)
        hostile.say_done(number, HostRowsFile(2), fd)
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
            await hostile.hear(PingMessage)
            hostile.say(PONG)
        nursery.cancel_scope.cancel()


async def test_what_nobody_waits_for_is_given_up():
    """A start whose user has pressed Ctrl-C."""
    async with taken_host() as (made, hostile), trio.open_nursery() as nursery:
        nursery.start_soon(made.end.refuse_new)
        number, _ = await hostile.hear_call(REFUSE_NEW)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            cancelled, _ = await hostile.hear(CancelMessage)
            assert cancelled.call == number
            hostile.say(encode_message(ErrorMessage(number, "upstream", CANCELLED)))


# -- a viewer ----------------------------------------------------------------------


async def test_a_viewer_sends_what_only_a_host_sends():
    """It would announce a lease, and offer its streams."""
    async with taken_viewer() as (made, hostile):
        hostile.say_call(1, begun())
        await ends(made, "the viewer may not call 'LeaseBegun' of the host")


def mount(number=1, lease=WORK, ticket=b"1"):
    return MOUNT_FOLDER, MountFolder(number, lease.id, ticket)


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
        assert "no lease" in reply.message
        assert made.folders.mounted_now == []


async def test_a_viewer_has_no_other_directory_mounted(tmp_path):
    """Its own descriptor, no ticket, another folder's: the host mounts none of them."""
    async with taken_viewer() as (made, hostile):
        reply = await hostile.ask(mount(ticket=b""))
        assert "not shared with this sandbox" in reply.message
        give(made.child, tmp_path)
        reply = await hostile.ask(mount(ticket=b"2"))
        assert "not shared with this sandbox" in reply.message
        assert made.folders.mounted_now == []
        fd = os.open("/", os.O_PATH)
        hostile.number += 1
        hostile.say_call(hostile.number, mount(), fd)
        os.close(fd)
        await ends(made, "descriptors with MountFolder")
        assert made.folders.mounted_now == []


async def test_a_folder_of_another_sandbox(tmp_path):
    async with taken_viewer() as (made, hostile):
        give(made.child, tmp_path, sandbox="vault")
        reply = await hostile.ask(mount())
        assert "not shared with this sandbox" in reply.message
        assert made.folders.mounted_now == []


async def test_a_folder_is_mounted_as_the_child_gave_it_and_once(tmp_path):
    async with taken_viewer() as (made, hostile):
        give(made.child, tmp_path, write=False)
        assert isinstance(await hostile.ask(mount()), FolderMounted)
        assert made.folders.mounted_now == [(WORK, str(tmp_path), False)]
        reply = await hostile.ask(mount(2))
        assert "not shared with this sandbox" in reply.message
        assert len(made.folders.mounted_now) == 1


async def test_a_mount_ends_with_the_child_that_holds_its_permit(tmp_path):
    """The viewer asks for no end of it, nor of the sandbox that keeps a file of it."""
    before = descriptors()
    async with taken_viewer() as (made, hostile):
        with subprocess.Popen(["sleep", "60"]) as child:
            give(made.child, tmp_path, pid=child.pid)
            assert isinstance(await hostile.ask(mount()), FolderMounted)
            assert made.folders.mounted_now
            give(made.child, tmp_path, ticket=b"2", pid=child.pid)
            child.kill()
            number, lost = await hostile.hear_call(FOLDER_LOST)
        assert lost.mount == 1
        assert made.folders.mounted_now == []
        await eventually(lambda: [lease for lease, _ in made.folders.ended] == [WORK])
        hostile.say_done(number)
        reply = await hostile.ask(mount(2, ticket=b"2"))
        assert "no longer shared" in reply.message
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
        assert isinstance(await hostile.ask(mount()), FolderMounted)
        reply = await hostile.ask(mount(ticket=b"2"))
        assert "reused the number of a mount" in reply.message
        assert len(made.folders.mounted_now) == 1


@pytest.mark.parametrize("excess", [0, 1])
async def test_mounts_without_end(tmp_path, monkeypatch, excess):
    monkeypatch.setattr(limits, "LEASES", 1)
    async with taken_viewer() as (made, hostile):
        for number in range(transfer_limits.FOLDERS_PER_SANDBOX + excess):
            give(made.child, tmp_path)
            reply = await hostile.ask(mount(number + 1))
        assert isinstance(reply, ErrorMessage) == bool(excess)


async def test_a_viewer_that_goes_leaves_no_folder(tmp_path):
    async with taken_viewer() as (made, hostile):
        give(made.child, tmp_path)
        await hostile.ask(mount())
        assert made.folders.mounted_now
    assert made.folders.mounted_now == []


async def test_ends_of_what_there_is_not():
    """A lease, a stream and a mount of others: nothing happens."""
    async with taken_viewer() as (made, hostile):
        for call in (
            (STOP, StopSandbox("f" * 16, 1e300, "why")),
            (STREAM_OVER, NamedStream(7)),
            (RELEASE_FOLDER, NamedMount(7)),
        ):
            assert await hostile.ask(call) == DONE
        reply = await hostile.ask((UNMOUNT_FOLDER, NamedMount(7)))
        assert reply == FolderState(kept=False)
        assert made.role.stopped == [("f" * 16, 1e300, "why")]


# -- honest ones ---------------------------------------------------------------------


@asynccontextmanager
async def joined(viewer=None):
    """Both ends, which are honest, with the lease of WORK."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    viewer, role, folders = viewer or Viewer(), QuietRole(), Folders()
    host = HostProcess(ours, viewer=lambda: viewer, reload=trio.lowlevel.checkpoint)
    given, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end = ViewerProcess(theirs, given=GivenFolders(given), rows=None, end=None)
    with given, child:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.run)
            nursery.start_soon(end.run)
            await nursery.start(end.serve, role, folders, trio.lowlevel.checkpoint)
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
        assert await hostile.ask(begun()) == DONE
        before = len(os.listdir("/proc/self/fd"))
        other = "0" * 16
        refused = await hostile.ask((LEND_ARENA, NamedLease(other)), fd)
        assert isinstance(refused, ErrorMessage)
        assert "was not announced to this viewer" in refused.message
        arena = LEND_ARENA, NamedLease(WORK.id)
        assert await hostile.ask(arena, fd) == DONE
        assert viewer.viewer.arenas == [(WORK.id, os.fstat(fd).st_ino)]
        assert len(os.listdir("/proc/self/fd")) == before
        assert not viewer.fault
    os.close(fd)
