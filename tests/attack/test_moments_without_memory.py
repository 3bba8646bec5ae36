"""Attack from inside a box: a call of another process fails, for a moment.

What the kernel counts for a user id, and memory, a box can use up; the call that fails
then may be any call of a process that all sandboxes need.  One stream or one start may
end with it.  (``tests/e2e/test_faults.py`` lets each call of a running broker fail.)
"""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from broker.core.errors import UpstreamError
from broker.core.framing import encode_frame
from broker.core.services import AGENT
from broker.host.acceptor import RemoteListener
from broker.host.admission import Admission
from broker.ipc import acceptor as messages
from broker.programs.acceptor import Acceptor, Entrance
from broker.wire import fdpass, memory
from broker.wire import packets as channels
from broker.wire.frame_carrier import Frames
from broker.wire.packets import Packets

SHORT = [errno.ENOMEM, errno.ENOBUFS]


class Short(socket.socket):
    """A socket whose next call fails."""

    number = 0

    def fail(self):
        number, self.number = self.number, 0
        if number:
            raise OSError(number, "no room")

    def send(self, *words):
        self.fail()
        return super().send(*words)

    def recv(self, *words):
        self.fail()
        return super().recv(*words)


def pair():
    ours, theirs = socket.socketpair()
    return Short(fileno=ours.detach()), theirs


@pytest.mark.parametrize("number", SHORT)
def test_a_fork_server_calls_again(number, monkeypatch):
    monkeypatch.setattr(memory, "PAUSE_SECONDS", 0)
    results = [OSError(number, ""), OSError(number, ""), 7]

    def call():
        if isinstance(result := results.pop(0), OSError):
            raise result
        return result

    assert memory.call_patiently(call) == 7
    results.append(OSError(errno.EBADF, ""))
    with pytest.raises(OSError, match="Errno 9"):
        memory.call_patiently(call)


@pytest.mark.parametrize("number", SHORT)
async def test_a_channel_of_the_authority_sends_and_receives_later(number):
    sock, theirs = pair()
    with theirs:
        link = Frames(sock, receive_bytes=100, send_bytes=100, waiting=100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            sock.number = number
            link.put(b"first")
            link.put(b"second")
            await link.wait_written()
            assert theirs.recv(100) == b"".join(
                encode_frame(body, 100) for body in (b"first", b"second")
            )
            sock.number = number
            theirs.send(encode_frame(b"answer", 100))
            assert (await link.receive()).data == b"answer"
            nursery.cancel_scope.cancel()
        link.close()


class ShortPacket(Short):
    """The same for packets with descriptors."""

    def recvmsg(self, *words):
        self.fail()
        return super().recvmsg(*words)


def packets():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ShortPacket(fileno=ours.detach()), theirs


@pytest.mark.parametrize("number", SHORT)
async def test_a_channel_to_a_process_of_ours_sends_and_receives_later(
    number, monkeypatch
):
    """Else the fork server was killed, and the child of the order still runs."""
    monkeypatch.setattr(channels, "PAUSE_SECONDS", 0)
    sock, theirs = packets()
    with theirs:
        channel = Packets(sock)
        sock.number = number
        await channel.send(b"order")
        assert theirs.recv(100) == b"order"
        theirs.send(b"answer")
        sock.number = number
        assert (await channel.receive()).data == b"answer"
        channel.close()


@pytest.mark.parametrize("number", SHORT)
async def test_a_door_without_memory_for_a_moment_goes_on(number, monkeypatch):
    """Else all later connections of the sandbox waited there for good."""
    monkeypatch.setattr(channels, "PAUSE_SECONDS", 0)
    sock, theirs = packets()
    theirs.settimeout(5)
    listener = RemoteListener(None, sock)
    with theirs, sock:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def accept():
                sock.number = number
                with pytest.raises(UpstreamError, match="has ended"):
                    await listener.accept()

            asked = await trio.to_thread.run_sync(theirs.recv, 100)
            assert asked == messages.NEXT
            sock.number = number
            theirs.close()
        assert not sock.number


@pytest.fixture
def acceptor(tmp_path):
    """One with a listening socket, without a pump, and clients that have connected."""
    with socket.socket(socket.AF_UNIX) as listener, select.epoll() as epoll:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        broker, ours = socket.socketpair()
        clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        with broker, ours, clients[0], clients[1]:
            for sock in (*clients, broker):
                sock.settimeout(5)
            for client in clients:
                client.connect(str(tmp_path / "s"))
            one = Acceptor.__new__(Acceptor)
            one._epoll, one._held = epoll, {}
            entry = Entrance(listener, ours, direct=True)
            broker.send(b"n")
            yield one, entry, broker, clients
            for held in {*one._held.values()}:
                held.close()


def passed_on(broker):
    data, fds, _, _ = socket.recv_fds(broker, 1000, 2)
    fdpass.close_all(fds)
    return bool(data)


def test_an_acceptor_accepts_after_a_connection_without_descriptors(
    acceptor, monkeypatch
):
    one, entry, broker, clients = acceptor
    one._asked(entry)
    real = socket.socketpair
    failing = [OSError(errno.EMFILE, "")]

    def made(*kind):
        if failing:
            raise failing.pop()
        return real(*kind)

    monkeypatch.setattr(socket, "socketpair", made)
    one._accept(entry)
    assert clients[0].recv(1) == b"", "it has ended, alone"
    one._accept(entry)
    assert passed_on(broker), "the next one is passed on"


def test_an_acceptor_outlives_others_descriptors_in_flight(acceptor, monkeypatch):
    one, entry, broker, clients = acceptor
    one._asked(entry)

    def full(*_):
        raise OSError(errno.ETOOMANYREFS, "")

    with monkeypatch.context() as flood:
        flood.setattr(fdpass, "send", full)
        one._accept(entry)
    assert clients[0].recv(1) == b"", "it has ended, alone"
    one._accept(entry)
    assert passed_on(broker), "the next one is passed on"


def test_an_acceptor_accepts_where_others_have_taken_all_epoll_entries(acceptor):
    one, entry, broker, clients = acceptor
    real = one._epoll

    class Full:
        """Its entries can be changed; there is no room for another one."""

        def modify(self, *words):
            real.modify(*words)

        def unregister(self, fd):
            real.unregister(fd)

        def register(self, fd, mask):
            raise OSError(errno.ENOSPC, "no room")

    one._asked(entry)
    one._epoll = Full()
    one._accept(entry)
    assert passed_on(broker)
    assert clients[0].recv(1) == b"", "it cannot be watched, so it has ended"
    broker.send(b"n")
    assert one._asked(entry)
    assert real.poll(5), "the next one is waited for"


async def test_an_arrival_without_descriptors_ends_no_lease():
    """That connection ends; the next one of the sandbox is taken."""
    sock, theirs = packets()
    listener, offered = RemoteListener(None, sock), trio.Event()

    async def offer(_service, conn, **_more):
        conn.close()
        offered.set()
        await trio.sleep_forever()

    arrival = messages.encode(messages.Arrival(messages.Voucher.ENDED, 7, 1000, 1000))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    near, far = socket.socketpair()
    with theirs, sock, near, far, trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            doors = SimpleNamespace(offer=offer)
            nursery.start_soon(Admission._acceptor_loop, doors, AGENT, listener)
            assert await trio.to_thread.run_sync(theirs.recv, 100) == messages.NEXT
            free = os.open(os.devnull, os.O_RDONLY)
            os.close(free)
            fdpass.send(theirs, arrival, [near.fileno()])
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            try:
                # It asks again at once, or after a moment.
                await trio.lowlevel.wait_readable(theirs)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert theirs.recv(100) == messages.NEXT
            fdpass.send(theirs, arrival, [near.fileno()])
            await offered.wait()
            nursery.cancel_scope.cancel()
