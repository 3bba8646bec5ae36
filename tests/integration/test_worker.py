"""Real workers: starting, speaking, ending, and what a hostile one can do."""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from broker.core import limits
from broker.core.errors import RefusedError, UpstreamError
from broker.core.framing import HEADER, encode_frame
from broker.core.limits import wayland as wayland_limits
from broker.core.names import SandboxName
from broker.core.streams.wayland_rules import WindowRules
from broker.helpers.process.fork_client import ForkedProcess
from broker.helpers.process.pidfd import PidfdProcess
from broker.helpers.process.spawn import DEVNULL, PIPE, spawn
from broker.ipc import agent, clipboard
from broker.ipc import worker as messages
from broker.ipc.fork_server import Jail
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.wire import HEADER as HEADER_OF_WAYLAND
from broker.viewer.clipboard.exchange.messages import CheckedContent
from broker.viewer.workers.process import Worker, WorkerProcesses
from broker.wire.one_way import one_way_pair
from broker.wire.packets import pair
from tests.kit.wayland.compositor import short_directory
from tests.kit.wayland.display import open_descriptors
from tests.kit.wayland.model_compositor import model_compositor
from tests.kit.workers import open_workers, worker_memory

HELLO = agent.AgentHello(version=1, waypipe="0.8.4", kernel="6.1")
WORK = SandboxName("work")


@pytest.fixture
def directory():
    with short_directory() as made:
        yield made


@asynccontextmanager
async def a_worker(directory, compositor=Path("/no-such-compositor")):
    async with open_workers() as workers:
        yield await workers.open_worker(WORK, directory, compositor)


async def connect_agent(worker, stream):
    """Give the worker an agent's connection; return the guest's end."""
    theirs, ours = socket.socketpair()
    with ours:
        await worker.send(messages.AgentStream(stream), [ours.fileno()])
    return trio.socket.from_stdlib_socket(theirs)


def frame(message):
    return encode_frame(agent.encode(message), limits.AGENT_FRAME_BYTES)


async def test_warm_workers_are_small(directory, capsys):
    async with open_workers() as workers:
        await workers.open_worker(WORK, directory, directory / "no")
        for number in range(5):
            place = directory / str(number)
            place.mkdir()
            before = trio.current_time()
            worker = await workers.open_worker(WORK, place, directory / "no")
            took = trio.current_time() - before
            memory = worker_memory(worker)
            with capsys.disabled():
                print(
                    f"\nworker: {took * 1000:.1f} ms, private "
                    f"{memory.private / 1e6:.1f} MB of {memory.resident / 1e6:.1f} MB"
                )
            assert 0 < memory.private < 15e6


async def test_a_killed_worker_that_does_not_end_is_let_go(
    directory, monkeypatch, capfd
):
    """As one that closes a file whose server is silent (FUSE)."""
    before = open_descriptors()
    async with open_workers() as workers:
        worker = await workers.open_worker(WORK, directory, directory / "no")
        inner = os.pidfd_open(worker.inner_pid)
        monkeypatch.setattr(limits, "WORKER_KILLED_SECONDS", 0.1)
        monkeypatch.setattr(limits, "WORKER_STOP_SECONDS", 0.1)
        monkeypatch.setattr(worker._inner, "wait", trio.sleep_forever)
        with trio.fail_after(30):
            await worker.close()
            await trio.lowlevel.wait_readable(inner)  # it was killed all the same
        os.close(inner)
    assert "work was killed but has not exited" in capfd.readouterr().err
    assert open_descriptors() == before


async def test_everything_is_gone_after_the_block(directory):
    before = open_descriptors()
    async with open_workers() as workers:
        worker = await workers.open_worker(WORK, directory, directory / "no")
        pids = [workers.fork_server_pid, workers._keepers.pid]
        pids += [worker.keeper_pid, worker.inner_pid]
        assert (directory / "wayland.sock").is_socket()
    assert open_descriptors() == before
    assert os.listdir(directory) == []
    assert worker_memory(worker).resident == 0
    for pid in pids:
        assert not _runs(pid)
    assert await worker.wait_closed() == "closed"
    with pytest.raises(UpstreamError, match="has ended"):
        await worker.send(messages.StopWorker())


def _runs(pid):
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_stop_is_an_orderly_end(directory):
    async with a_worker(directory) as worker:
        await worker.send(messages.StopWorker())
        assert await worker.wait_closed() == "its process ended with code 0"


async def test_the_agents_words_come_through(directory):
    async with a_worker(directory) as worker:
        guest = await connect_agent(worker, 1)
        words = frame(HELLO) + frame(agent.Output(program=1, data=b"\x1b[m"))
        await guest.send(words)
        assert await worker.messages.receive() == messages.FromAgent(1, HELLO)
        got = await worker.messages.receive()
        assert got.message.data == b"\x1b[m"
        order = agent.Run(program=1, argv=["foot"])
        await worker.send(messages.ToAgent(order))
        said = await guest.recv(65536)
        assert msgspec.json.decode(said[HEADER.size :], type=agent.ToGuest) == order
        guest.close()
        closed = messages.AgentClosed(
            1, "the guest agent closed the connection", len(words), len(said)
        )
        assert await worker.messages.receive() == closed
        # Without a receiver: dropped, as the caller learned from AgentClosed.
        await worker.send(messages.ToAgent(order))
        assert (await worker.statistics()).clients == 0


async def test_a_newer_agent_replaces_the_older(directory):
    async with a_worker(directory) as worker:
        with await connect_agent(worker, 1) as first:
            await first.send(frame(HELLO))
            assert await worker.messages.receive() == messages.FromAgent(1, HELLO)
            with await connect_agent(worker, 2) as second:
                closed = await worker.messages.receive()
                assert closed.stream == 1
                assert "replaced" in closed.reason
                assert await first.recv(1) == b""
                await second.send(frame(HELLO))
                got = await worker.messages.receive()
                assert got == messages.FromAgent(2, HELLO)


async def test_a_hostile_agent_ends_its_connection_and_no_more(directory):
    async with a_worker(directory) as worker:
        for stream in range(1, 20):
            with await connect_agent(worker, stream) as guest:
                await guest.send(HEADER.pack(limits.AGENT_FRAME_BYTES + 1))
                closed = await worker.messages.receive()
                assert closed.stream == stream
                assert "announces 65537 bytes" in closed.reason
        with await connect_agent(worker, 20) as good:
            await good.send(frame(HELLO))
            got = await worker.messages.receive()
            assert got == messages.FromAgent(20, HELLO)


async def test_an_order_larger_than_a_frame_is_refused_here(directory):
    async with a_worker(directory) as worker:
        run = agent.Run(program=1, argv=["x" * limits.AGENT_FRAME_BYTES])
        with pytest.raises(RefusedError, match="guest agent a message of"):
            await worker.send(messages.ToAgent(run))
        assert await worker.statistics()


async def test_a_mistake_of_ours_is_told_with_its_traceback(directory):
    async with a_worker(directory) as worker:
        await worker._channel.send(b"none of our messages")
        broken = await worker.messages.receive()
        assert isinstance(broken, messages.Broken)
        assert "InternalError" in broken.reason
        assert await worker.wait_closed() == "its process ended with code 3"


def _broker(directory):
    """A broker with one worker; its process, and the pids that it printed."""
    script = (
        "import sys, trio\nfrom pathlib import Path\n"
        "from tests.kit.workers import open_workers\n"
        "async def main():\n"
        "    async with open_workers() as workers:\n"
        "        place = Path(sys.argv[1])\n"
        "        worker = await workers.open_worker('work', place, place / 'no')\n"
        "        print(workers.fork_server_pid, workers._keepers.pid, worker.keeper_pid,"
        " worker.inner_pid, flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    child = spawn(
        [sys.executable, "-c", script, directory],
        cwd=Path(__file__).parents[2],
        stdout=PIPE,
    )
    with child.popen.stdout as out:
        pids = [int(word) for word in out.readline().split()]
    return child, pids


async def test_both_halves_die_with_the_broker(directory):
    child, pids = _broker(directory)
    processes = [PidfdProcess(pid, os.pidfd_open(pid)) for pid in pids]
    child.kill(signal.SIGKILL)
    await child.wait()
    with trio.fail_after(60):
        for process in processes:
            await process.wait()
            process.close()


async def test_a_jailed_half_ends_with_the_broker_though_its_keeper_does_nothing(
    directory,
):
    """A half that was taken over ignores the end of its channel: here it is stopped."""
    child, (_, _, keeper, inner) = _broker(directory)
    held = PidfdProcess(inner, os.pidfd_open(inner))
    for pid in (keeper, inner):
        os.kill(pid, signal.SIGSTOP)
    child.kill(signal.SIGKILL)
    await child.wait()
    try:
        with trio.fail_after(30):
            await held.wait()
    finally:
        held.kill()
        held.close()
        os.kill(keeper, signal.SIGKILL)


# -- Wayland clients ----------------------------------------------------------


async def test_clients_up_to_the_limit_and_not_one_more(directory):
    most = limits.WAYLAND_CLIENTS_PER_SANDBOX
    path = directory / "compositor"
    async with model_compositor(path) as comp, a_worker(directory, path) as worker:
        clients = []
        for number in range(1, most + 1):
            clients.append(_client(directory))
            assert await worker.messages.receive() == messages.WaylandOpened(number)
        peers = {end.getsockopt(socket.SOL_SOCKET, 17, 12)[:4] for end in comp.live()}
        assert peers == {worker.keeper_pid.to_bytes(4, sys.byteorder)}
        refused = _client(directory)
        said = await worker.messages.receive()
        assert isinstance(said, messages.WaylandClosed)
        assert said.reason == f"more than {most} Wayland clients at one time"
        assert said.fault is messages.Fault.CLIENT
        clients.pop().close()
        closed = await worker.messages.receive()
        assert (closed.client, closed.reason) == (most, "client closed")
        clients.append(_client(directory))  # number most + 1 was the refused one
        assert await worker.messages.receive() == messages.WaylandOpened(most + 2)
        assert (await worker.statistics()).clients == most
        for client in [*clients, refused]:
            client.close()


def _client(directory):
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(directory / "wayland.sock"))
    return client


async def test_too_many_descriptors_end_that_client_only(directory):
    path = directory / "compositor"
    async with model_compositor(path), a_worker(directory, path) as worker:
        with _client(directory) as good, _client(directory) as bad:
            for number in (1, 2):
                assert await worker.messages.receive() == messages.WaylandOpened(number)
            with open("/dev/null") as null:
                socket.send_fds(bad, [b"x"], [null.fileno()] * 29)
            closed = await worker.messages.receive()
            assert closed.client == 2
            assert "more than 28 file descriptors" in closed.reason
            assert closed.fault is messages.Fault.CLIENT
            good.send(emit.sync(1, 2))
            assert await worker.messages.receive() == messages.WaylandAnswered(1)
            got = await trio.to_thread.run_sync(good.recv, 4096)
            assert HEADER_OF_WAYLAND.unpack_from(got) == (2, 0, 12), "it is done"


async def test_without_rules_there_is_no_display(directory):
    """The first order says how windows are treated; nothing may come before."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    display, keeper = socket.socketpair()
    up, pipe = os.pipe()
    with ours, theirs, display, keeper, open(up, "rb") as said, open(pipe, "wb"):
        ours.send(messages.encode(messages.AskStatistics()))
        code = (
            "import socket, sys, trio\n"
            "from broker.programs import worker\n"
            "from broker.ipc.fork_server import Jail\n"
            "from broker.wire.one_way import MessagePipe\n"
            "pipe = MessagePipe(int(sys.argv.pop()))\n"
            "fds = [socket.socket(fileno=int(n)) for n in sys.argv[1:]]\n"
            "fds.insert(1, pipe)\n"
            "worker.worker_filter.lock_worker = lambda: None\n"
            "worker.run_worker(*fds, Jail(namespaces=False, seccomp=False))\n"
        )
        fds = [theirs.fileno(), display.fileno(), keeper.fileno(), pipe]
        child = spawn(
            [sys.executable, "-c", code, *map(str, fds)],
            cwd=Path(__file__).parents[2],
            pass_fds=fds,
            stderr=DEVNULL,
        )
        assert await child.wait() != 0
        (length,) = struct.unpack("<I", said.read(4))
        last = messages.decode_from_worker(said.read(length))
        assert isinstance(last, messages.Broken), "and it never was ready"
        assert "the first order" in last.reason


# -- a worker that was taken over ------------------------------------------------


class Impostor:
    """In the place of both halves: says to the supervisor what a test wants."""

    def __init__(self):
        self.child = spawn(["sleep", "1000"])
        keeper_ours, self.keeper = pair()
        worker_ours, self.inner, self.pipe = one_way_pair()
        processes = WorkerProcesses(self.half(), self.half(), keeper_ours, worker_ours)
        self.worker = Worker(WORK, processes, WindowRules(WORK))

    def half(self):
        """One process is both; what ends is never written down."""
        end, unwritten = os.pipe2(os.O_NONBLOCK)
        os.close(unwritten)
        return ForkedProcess(self.child.pid, os.pidfd_open(self.child.pid), end)

    def become_ready(self):
        self.say(messages.WorkerReady(Jail(namespaces=True, seccomp=True)))

    def say(self, message):
        self.write(messages.encode(message))

    def write(self, data, length=None):
        framed = struct.pack("<I", len(data) if length is None else length) + data
        assert os.write(self.pipe, framed) == len(framed)


@asynccontextmanager
async def an_impostor():
    before = open_descriptors()
    # Its two halves do not end by themselves; the supervisor's patience is short.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "WORKER_STOP_SECONDS", 0.2)
        async with _an_impostor() as made:
            yield made
    assert open_descriptors() == before


@asynccontextmanager
async def _an_impostor():
    made = Impostor()
    with made.keeper, made.inner:
        made.become_ready()
        async with trio.open_nursery() as nursery:
            await nursery.start(made.worker.run)
            yield made
            await made.worker.close()
        await made.child.wait()
        os.close(made.pipe)


async def test_a_flood_of_messages_ends_the_worker():
    async with an_impostor() as liar:
        made = messages.encode(messages.WaylandOpened(1))
        os.set_blocking(liar.pipe, False)
        taken = 0

        async def take():
            nonlocal taken
            async for _ in liar.worker.messages:
                taken += 1

        async def flood():
            with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
                while True:
                    try:
                        liar.write(made)
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(liar.pipe)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            nursery.start_soon(flood)
            reason = await liar.worker.wait_closed()
        assert reason == "it sent messages faster than the limit"
        assert taken >= limits.WORKER_MESSAGES_BURST


LIES = [
    pytest.param(b"\xc1", "invalid message", id="garbage"),
    pytest.param(
        messages.encode(messages.StopWorker()), "invalid message", id="an-order"
    ),
    pytest.param(
        messages.encode(messages.WorkerReady(Jail(namespaces=True, seccomp=True))),
        "WorkerReady twice",
        id="ready-again",
    ),
    pytest.param(b"", "a message of 0 bytes", id="empty"),
]


@pytest.mark.parametrize(("data", "reason"), LIES)
async def test_a_lie_ends_the_worker(data, reason):
    async with an_impostor() as liar:
        liar.write(data)
        assert reason in await liar.worker.wait_closed()


async def test_a_message_that_is_too_long_ends_the_worker_before_it_is_read():
    async with an_impostor() as liar:
        liar.write(b"", limits.WORKER_MESSAGE_BYTES + 1)
        assert "a message of" in await liar.worker.wait_closed()


async def test_a_worker_has_no_way_to_send_a_descriptor():
    async with an_impostor() as liar:
        made = messages.encode(messages.WaylandOpened(1))
        with open("/dev/null") as null, pytest.raises(BrokenPipeError):
            socket.send_fds(liar.inner, [made], [null.fileno()])
        liar.say(messages.WaylandOpened(1))
        with trio.fail_after(30):
            assert await liar.worker.messages.receive() == messages.WaylandOpened(1)


def _file(liar):
    """The file that came with the last order, which is one to read."""
    while True:
        data, fds, _, _ = socket.recv_fds(liar.inner, 65536, 4)
        if fds:
            assert isinstance(messages.decode_to_worker(data), clipboard.ReadType)
            return fds[0]


def _content(liar, size, content, transfer=7, file=None):
    """Have it answer with content."""
    fd = _file(liar) if file is None else file
    os.pwrite(fd, content, 0)
    liar.say(clipboard.ClipboardData(transfer, size))
    os.close(fd)


async def test_content_that_was_asked_for_is_read():
    async with an_impostor() as liar:
        await liar.worker.send(clipboard.ReadType(7, "text/plain", 5))
        _content(liar, 5, b"hello")
        with trio.fail_after(30):
            got = await liar.worker.messages.receive()
        assert got == CheckedContent(7, b"hello")


async def test_more_content_than_was_asked_for_ends_the_worker():
    async with an_impostor() as liar:
        await liar.worker.send(clipboard.ReadType(7, "text/plain", 5))
        _content(liar, 6, b"hello")
        assert "more content than requested" in await liar.worker.wait_closed()


async def test_the_file_for_content_has_its_size_for_good():
    async with an_impostor() as liar:
        await liar.worker.send(clipboard.ReadType(7, "text/plain", 5))
        fd = _file(liar)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 6)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 4)
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 5)
        _content(liar, 5, b"hello", file=fd)
        with trio.fail_after(30):
            assert await liar.worker.messages.receive() == CheckedContent(7, b"hello")


async def test_unrequested_content_is_not_read():
    async with an_impostor() as liar:
        await liar.worker.send(clipboard.ReadType(7, "text/plain", 5))
        await liar.worker.send(clipboard.StopRead(7))
        _content(liar, 5, b"hello")
        liar.say(clipboard.ClipboardData(99, 5))
        liar.say(messages.WaylandOpened(1))
        with trio.fail_after(30):
            assert await liar.worker.messages.receive() == messages.WaylandOpened(1)


async def test_one_that_takes_no_orders_is_ended():
    async with an_impostor() as liar:
        order = messages.ToAgent(agent.Run(program=1, argv=["x" * 60000]))
        with pytest.raises(UpstreamError, match="did not accept an order"):  # noqa: PT012
            while True:
                await liar.worker.send(order)
        assert await liar.worker.wait_closed() == "it does not accept orders"


async def test_without_a_reader_it_stops_and_costs_no_memory():
    async with an_impostor() as liar:
        made = messages.encode(messages.WaylandOpened(1))
        os.set_blocking(liar.pipe, False)
        sent = 0
        with pytest.raises(BlockingIOError):  # noqa: PT012
            while True:
                liar.write(made)
                sent += 1
                if sent % 50 == 0:
                    await trio.testing.wait_all_tasks_blocked()
        waiting = liar.worker.messages.statistics().current_buffer_used
        assert waiting == limits.WORKER_QUEUE
        assert sent < limits.WORKER_MESSAGES_BURST


# -- a worker that lies about windows -----------------------------------------------

WINDOW = messages.WindowReport(1, "t", "a", 1, 1, focused=False)


async def test_more_windows_than_there_may_be_end_it():
    async with an_impostor() as liar, trio.open_nursery() as nursery:
        nursery.start_soon(_ask_in_vain, liar.worker)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(5):
            liar.say(
                messages.Windows(
                    1, [WINDOW] * wayland_limits.WAYLAND_WINDOWS_PER_MESSAGE, last=False
                )
            )
        assert "more windows" in await liar.worker.wait_closed()


async def _ask_in_vain(worker):
    with pytest.raises(UpstreamError):
        await worker.windows()


async def test_one_that_does_not_answer_is_silent_and_lives():
    async with an_impostor() as liar:
        with pytest.raises(UpstreamError, match="did not answer"):
            await liar.worker.windows()
        with pytest.raises(UpstreamError, match="did not answer"):
            await liar.worker.close_window(1, cut=True)
        # Late or unrequested messages are dropped.
        liar.say(messages.Windows(1, [WINDOW], last=True))
        liar.say(messages.WindowClosed(99))
        await trio.testing.wait_all_tasks_blocked()
        assert not liar.worker._closed.is_set()
