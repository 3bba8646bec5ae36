"""The pump as a process: what the conformance suite does not ask of the others."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import select
import signal
import socket
import sys

import pytest
import trio
import trio.testing

from broker.core.errors import UpstreamError
from broker.core.limits import relay as relay_limits
from broker.helpers.filters.carrying_filters import pump_filter
from broker.helpers.filters.libseccomp import seccomp as pyseccomp
from broker.helpers.process.hardening import confine
from broker.helpers.process.spawn import spawn
from broker.helpers.pump import process
from broker.helpers.pump.channel_messages import encode_from_pump
from broker.helpers.pump.client import Pump
from broker.helpers.pump.handle import PumpHandle, control_pair
from broker.helpers.pump.process import start_pump
from broker.ipc.pump import (
    EndReason,
    RelayMode,
    StreamDone,
    StreamEnd,
)
from tests.kit.eventually import eventually
from tests.kit.relay.sockets import (
    cpu_seconds,
    fds,
    fill,
    forked_pump,
    lay,
    read_all,
    rss_kib,
    running,
)


@pytest.fixture(params=["c", "python"])
def handle(request, monkeypatch):
    """Sync, so that the fork comes before trio."""
    if request.param == "python":
        monkeypatch.setenv("VITRAIL_RELAY_PYTHON", "1")
    return start_pump(pump_filter())


@pytest.fixture
async def pump(handle):
    async with running(handle) as pump:
        yield pump


async def _block(lines) -> None:
    """Fill the way from client to server of each until it takes no more."""
    async with trio.open_nursery() as nursery:
        for line in lines:
            nursery.start_soon(fill, line.client)


# -- death ---------------------------------------------------------------------


async def test_a_killed_pump_ends_every_stream(handle, pump, nursery):
    before = fds()
    lines = [lay(nursery, pump.relay) for _ in range(20)]
    for line in lines:
        await line.client.send_all(b"x")
        assert await line.server.receive_some(1) == b"x"
    os.kill(handle.pid, signal.SIGKILL)
    with trio.fail_after(30):
        await pump.wait_died()
    for line in lines:
        end = await line.end(30)
        assert end.reason is EndReason.PUMP_DIED
        assert await read_all(line.client) == b""
        assert await read_all(line.server) == b""
    assert pump.statistics().alive is False
    assert pump.statistics().ended == {EndReason.PUMP_DIED: 20}
    with pytest.raises(UpstreamError, match="has died"):
        await pump.streams()
    a, b = socket.socketpair()
    with pytest.raises(UpstreamError, match="has died"):
        await pump.relay(a.detach(), b.detach())
    for line in lines:
        await line.client.aclose()
        await line.server.aclose()
    # The pump has been reaped, and the control socket is gone too.
    await eventually(
        lambda: (
            not (os.path.exists(f"/proc/{handle.pid}") or len(fds()) >= len(before))
        ),
        deadline=30,
    )
    with pytest.raises(ChildProcessError):
        os.waitpid(handle.pid, os.WNOHANG)


async def test_a_pump_can_be_started_while_trio_runs(nursery):
    async with forked_pump() as pump:
        line = lay(nursery, pump.relay)
        await line.client.send_all(b"x")
        assert await line.server.receive_some(1) == b"x"
    with trio.fail_after(30):
        await line.ended.wait()
    assert pump.statistics().alive is False
    assert pump.code == 0


_NONSENSE = """
import socket, sys
control = socket.socket(fileno=int(sys.argv[1]))
control.recv(1000)
control.send(bytes.fromhex(sys.argv[2]))
control.recv(1000)
control.recv(1000)
"""


@pytest.mark.parametrize(
    "packet",
    [
        b"\xff" * 20,
        encode_from_pump(StreamDone(77, StreamEnd(0, 0, EndReason.END))),
    ],
    ids=["no message", "a stream that is none"],
)
async def test_a_pump_that_speaks_nonsense_ends_with_its_streams_alone(
    nursery, packet, capfd
):
    broker, theirs = control_pair()
    argv = [sys.executable, "-c", _NONSENSE, str(theirs.fileno()), packet.hex()]
    child = spawn(argv, cwd=os.getcwd(), pass_fds=[theirs.fileno()])
    theirs.close()
    pump = Pump(PumpHandle(broker, child.pid, os.dup(child.pidfd)))
    with trio.fail_after(60):
        async with trio.open_nursery() as run:
            run.start_soon(pump.run)
            line = lay(nursery, pump.relay)
            assert (await line.end(30)).reason is EndReason.PUMP_DIED
        await pump.wait_died()
        await child.wait()  # the pump's client has reaped it
    assert "stopping pump" in capfd.readouterr().err


async def test_a_pump_that_does_not_obey_is_killed(handle, pump, nursery, monkeypatch):
    """A revoked stream must end, whatever the pump does."""
    monkeypatch.setattr(relay_limits, "RELAY_ABORT_SECONDS", 0.2)
    line = lay(nursery, pump.relay)
    await line.client.send_all(b"x")
    assert await line.server.receive_some(1) == b"x"
    os.kill(handle.pid, signal.SIGSTOP)
    line.scope.cancel()
    assert await read_all(line.client) == b""
    with trio.fail_after(30):
        await line.ended.wait()
    assert pump.statistics().alive is False


def test_losing_the_broker_ends_the_pump():
    """The broker is killed while another process still holds its end."""
    read, write = os.pipe()
    keeper_read, keeper_write = os.pipe()
    broker = os.fork()
    if broker == 0:
        try:
            handle = start_pump(pump_filter())
            keeper = os.fork()  # inherits the control socket, outlives the broker
            if keeper == 0:
                os.close(keeper_write)
                os.read(keeper_read, 1)
                os._exit(0)
            os.write(write, b"%d" % handle.pid)
            signal.pause()
        finally:
            os._exit(1)
    pump = os.pidfd_open(int(os.read(read, 20)))
    try:
        assert not select.select([pump], [], [], 0)[0]
        os.kill(broker, signal.SIGKILL)
        assert os.waitpid(broker, 0)[1] == signal.SIGKILL
        assert select.select([pump], [], [], 5)[0], "the pump lives on"
    finally:
        for fd in (read, write, keeper_read, keeper_write, pump):
            os.close(fd)


async def test_ctrl_c_is_the_brokers_business(handle, pump, nursery):
    os.kill(handle.pid, signal.SIGINT)
    line = lay(nursery, pump.relay)
    await line.client.send_all(b"x")
    assert await line.server.receive_some(1) == b"x"


# -- its permissions -----------------------------------------------------------


def _in_a_child(action) -> int:
    """Run ``action`` in a fork; returns its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = action()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


_ATTEMPTS = {
    "open": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "execute": lambda: os.execv("/bin/true", ["true"]),
    "fork": os.fork,
    "signal": lambda: os.kill(os.getppid(), 0),
    "list": lambda: os.listdir("/"),
    "uid": lambda: os.setuid(0),
    "look": lambda: os.stat("/etc/passwd"),
    "code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "owner": lambda: _own(os.getppid()),
    "own signal": lambda: fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL),
    "asynchronous": lambda: fcntl.fcntl(0, fcntl.F_SETFL, os.O_ASYNC),
    "lease": lambda: fcntl.fcntl(0, fcntl.F_SETLEASE, fcntl.F_UNLCK),
    "packets": lambda: os.pipe2(os.O_DIRECT),
}


def _own(pid):
    """Have a descriptor's signals sent to a process."""
    fcntl.fcntl(0, fcntl.F_SETOWN, pid)


@pytest.mark.parametrize("attempt", _ATTEMPTS)
def test_a_confined_process_cannot(attempt):
    def action() -> int:
        if attempt in {"open", "socket", "list", "signal", "look", "code", "packets"}:
            _ATTEMPTS[attempt]()  # the control: it works without the filter
        confine(pump_filter())
        try:
            _ATTEMPTS[attempt]()
        except PermissionError:
            return 0
        return 1

    assert _in_a_child(action) == 0


async def test_the_pump_is_confined_and_named(handle, pump, request):
    in_c = request.node.callspec.params["handle"] == "c"
    assert pump.statistics().accelerated is in_c
    with open(f"/proc/{handle.pid}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file)
    assert status["Name"] == "vitrail-pump"
    assert status["Seccomp"] == "2"
    assert status["NoNewPrivs"] == "1"


@pytest.fixture
def blind_handle(monkeypatch):
    """A pump to which the kernel refuses every way of reading into memory.

    recvmsg stays, for the control socket alone.
    """

    def blind(program: bytes) -> None:
        control = [fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_socket(fd)]
        assert len(control) == 1
        rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        no = pyseccomp.ERRNO(errno.EPERM)
        for name in (
            "read",
            "readv",
            "pread64",
            "preadv",
            "preadv2",
            "recvfrom",
            "recvmmsg",
            "vmsplice",
            "tee",
            "io_uring_setup",
            "process_vm_readv",
            "sendfile",
            "copy_file_range",
        ):
            rules.add_rule(no, name)
        rules.add_rule(no, "recvmsg", pyseccomp.Arg(0, pyseccomp.NE, control[0]))
        rules.load()
        confine(program)

    monkeypatch.setattr(process, "confine", blind)
    return start_pump(pump_filter())


def _is_socket(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:
        return False


async def test_payload_between_unix_sockets_never_enters_user_space(
    blind_handle, nursery
):
    """64 MiB arrive though the pump cannot read at all; copying fails at once."""
    block = bytes(range(256)) * 4096
    async with running(blind_handle) as pump:
        line = lay(nursery, pump.relay)  # AUTO, the default

        async def send() -> None:
            for _ in range(64):
                await line.client.send_all(block)
            await line.client.send_eof()

        nursery.start_soon(send)
        received = 0
        view = memoryview(block + block)
        with trio.fail_after(60):
            while chunk := await line.server.receive_some(65536):
                start = received % len(block)
                assert chunk == view[start : start + len(chunk)]
                received += len(chunk)
        assert received == 64 * len(block)
        await line.server.send_eof()
        end = await line.end()
        assert end.reason is EndReason.END
        assert end.mode_ab is RelayMode.SPLICE

        # The control: were a byte read, it would look like this.
        line = lay(nursery, pump.relay, mode_ab=RelayMode.COPY)
        await line.client.send_all(b"x")
        end = await line.end()
        assert end.reason is EndReason.ERROR
        assert end.errno == errno.EPERM
        assert end.bytes_ab == 0


_IDLE = 0.1
"""Seconds of CPU that one who waits may need; one who spins takes several times that,
also beside others."""


# -- back-pressure ---------------------------------------------------------------


@pytest.mark.parametrize("mode", [RelayMode.SPLICE, RelayMode.COPY])
async def test_blocked_streams_cost_no_time_and_bounded_memory(
    handle, pump, nursery, mode
):
    before = rss_kib(handle.pid)
    lines = [lay(nursery, pump.relay, mode_ab=mode) for _ in range(16)]
    await _block(lines)
    # and in half of them the sender goes away, which must not spin
    for line in lines[:8]:
        await line.client.aclose()
    assert all(stream.held_ab > 0 for stream in await pump.streams())
    cpu = cpu_seconds(handle.pid)
    await trio.sleep(1)
    assert cpu_seconds(handle.pid) - cpu <= _IDLE
    each = (rss_kib(handle.pid) - before) / len(lines)
    buffer = relay_limits.RELAY_COPY_BYTES / 1024 if mode is RelayMode.COPY else 0
    assert each <= buffer + 48


async def test_a_closed_side_does_not_spin_while_the_other_is_silent(
    handle, pump, nursery
):
    lines = [lay(nursery, pump.relay) for _ in range(8)]
    for line in lines[:4]:
        await line.client.send_eof()
    for line in lines[4:]:
        await line.server.send_eof()
    cpu = cpu_seconds(handle.pid)
    await trio.sleep(0.5)
    assert cpu_seconds(handle.pid) - cpu <= _IDLE


async def test_a_side_that_vanished_ends_a_stream_that_waits_for_the_other(
    pump, nursery
):
    """Half-closed first, closed later; the other side says nothing at all."""
    line = lay(nursery, pump.relay)
    await line.client.send_eof()
    assert await line.server.receive_some(1) == b""
    assert not line.ended.is_set()
    await line.client.aclose()
    assert (await line.end()).reason is EndReason.END
    with pytest.raises(trio.BrokenResourceError):
        await line.server.send_all(b"nobody is there")


async def test_a_pipe_with_bytes_left_is_not_used_again(pump, nursery):
    """Streams are cut while they hold bytes; later streams see none of them."""
    for _ in range(4):
        lines = [lay(nursery, pump.relay, mode_ab=RelayMode.SPLICE) for _ in range(8)]
        await _block(lines)
        assert all(stream.held_ab for stream in await pump.streams())
        for line in lines:
            line.scope.cancel()
            await line.ended.wait()
    for _ in range(80):  # more than the pool holds
        line = lay(nursery, pump.relay)
        await line.client.send_all(b"mine")
        await line.client.send_eof()
        assert await read_all(line.server) == b"mine"
        await line.server.send_eof()
        await line.end()


# -- descriptors -------------------------------------------------------------------


def _leave(pid: int, spare: int) -> None:
    """Leave the pump ``spare`` descriptors more than it has open."""
    numbers = [int(name) for name in os.listdir(f"/proc/{pid}/fd")]
    used = set(numbers)
    limit = 0
    while spare or limit in used:
        spare -= limit not in used
        limit += 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))


async def test_without_descriptors_for_a_pipe_it_copies(handle, pump, nursery):
    await pump.streams()
    _leave(handle.pid, 2)
    line = lay(nursery, pump.relay)
    payload = os.urandom(300_000)

    async def send() -> None:
        await line.client.send_all(payload)
        await line.client.send_eof()

    nursery.start_soon(send)
    assert await read_all(line.server) == payload
    await line.server.send_eof()
    end = await line.end()
    assert end.reason is EndReason.END
    assert end.mode_ab is RelayMode.COPY


async def test_without_descriptors_for_a_pipe_it_waits_for_a_slow_reader(
    handle, pump, nursery
):
    """The first copy, which the C part gives up its stream for, fills the server's socket."""
    await pump.streams()
    _leave(handle.pid, 2)
    client, a = socket.socketpair()
    b, server = socket.socketpair()
    b.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    payload = os.urandom(60_000)
    client.sendall(payload)
    client.shutdown(socket.SHUT_WR)
    server.setblocking(False)
    nursery.start_soon(pump.relay, a.detach(), b.detach())
    with client:
        async with trio.SocketStream(trio.socket.from_stdlib_socket(server)) as reader:
            await trio.lowlevel.wait_readable(reader.socket)
            await pump.streams()  # whose answer follows that turn
            assert await read_all(reader) == payload


async def test_ordered_splice_never_copies(handle, pump, nursery):
    await pump.streams()
    _leave(handle.pid, 2)
    line = lay(nursery, pump.relay, mode_ab=RelayMode.SPLICE)
    await line.client.send_all(b"x")
    end = await line.end()
    assert end.reason is EndReason.ERROR
    assert end.errno == errno.EMFILE
    assert end.bytes_ab == 0


@pytest.mark.parametrize("spare", [0, 1])
async def test_without_descriptors_for_the_stream_it_says_so(
    handle, pump, nursery, spare
):
    await pump.streams()
    _leave(handle.pid, spare)
    before = fds(handle.pid)
    line = lay(nursery, pump.relay)
    end = await line.end()
    assert end.reason is EndReason.ERROR
    assert end.errno == errno.EMFILE
    assert await read_all(line.client) == b""
    assert await read_all(line.server) == b""
    assert fds(handle.pid) == before


async def test_a_descriptor_that_is_not_a_socket_is_refused(pump):
    before = fds()
    read, write = os.pipe()
    end = await pump.relay(read, write)
    assert end.reason is EndReason.ERROR
    assert end.errno == errno.ENOTSOCK
    assert fds() == before


async def test_a_bad_deadline_costs_no_descriptor(pump):
    before = fds()
    a, b = socket.socketpair()
    with pytest.raises(ValueError, match="positive"):
        await pump.relay(a.detach(), b.detach(), idle_seconds=0)
    assert fds() == before


# -- limits --------------------------------------------------------------------------


async def test_streams_at_the_limit_and_one_more(pump, nursery, monkeypatch):
    monkeypatch.setattr(relay_limits, "RELAY_STREAMS", 5)
    lines = [lay(nursery, pump.relay) for _ in range(5)]
    for line in lines:
        await line.client.send_all(b"x")
        assert await line.server.receive_some(1) == b"x"
    before = fds()
    a, b = socket.socketpair()
    with pytest.raises(UpstreamError, match="5 streams are open"):
        await pump.relay(a.detach(), b.detach())
    assert fds() == before
    await lines[0].client.send_eof()
    await lines[0].server.send_eof()
    await lines[0].end()
    again = lay(nursery, pump.relay)
    await again.client.send_all(b"x")
    assert await again.server.receive_some(1) == b"x"


@pytest.mark.parametrize("count", [0, 1, 512, 513])
async def test_statistics_of_one_packet_and_one_more(pump, nursery, count):
    assert relay_limits.RELAY_STREAMS_PER_ANSWER == 512
    for number in range(count):
        lay(nursery, pump.relay, name=f"stream {number}")
    await trio.testing.wait_all_tasks_blocked()
    found = await pump.streams()
    assert sorted(stream.name for stream in found) == sorted(
        f"stream {number}" for number in range(count)
    )
    assert pump.statistics().streams == count


async def test_statistics_show_moved_and_stuck_bytes(pump, nursery):
    line = lay(nursery, pump.relay, name="one")
    sent = await fill(line.client)
    await line.server.send_all(b"12345")
    assert await line.client.receive_some(5) == b"12345"
    (found,) = await pump.streams()
    assert found.name == "one"
    assert found.bytes_ba == 5
    assert found.held_ba == 0
    assert 0 < found.held_ab <= relay_limits.RELAY_PIPE_BYTES
    assert 0 < found.bytes_ab < sent
    assert found.mode_ab is RelayMode.SPLICE


@pytest.mark.parametrize("max_write", [1, 3732])
@pytest.mark.parametrize("mode", list(RelayMode))
async def test_single_writes_are_bounded_on_request(
    handle, pump, nursery, max_write, mode
):
    """Seen with packets, whose boundaries are the writes'."""
    client, a = socket.socketpair()
    b, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with client, server:
        nursery.start_soon(
            lambda: pump.relay(
                a.detach(), b.detach(), max_write=max_write, mode_ab=mode, mode_ba=mode
            )
        )
        server.settimeout(0)
        client.sendall(b"q" * 10_000 if max_write > 1 else b"abc")
        expected = [3732, 3732, 2536] if max_write > 1 else [1, 1, 1]
        for size in expected:
            await trio.lowlevel.wait_readable(server)
            assert len(server.recv(65536)) == size
        trio.lowlevel.notify_closing(server)
