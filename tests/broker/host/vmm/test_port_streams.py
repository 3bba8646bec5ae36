"""Both ends of a machine's port together, and the guest's end against a bad host."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from broker.core.errors import SetupError
from broker.core.services import PORTS
from broker.host.vmm.port_mux import PORT_NAME, mux_program
from shims.files import connection, doors, launch
from shims.files.protocol import TransferError
from shims.guest import port_streams, protocol
from shims.guest.address import Address
from shims.guest.loop import Loop
from tests.kit.port_mux import (
    ACCEPT,
    CLOSE,
    CREDIT,
    DATA,
    HELLO,
    LARGE_STREAMS,
    LARGE_WINDOW,
    MOST,
    OPEN,
    PATIENCE,
    SHUTDOWN,
    STREAMS,
    VERSION,
    WINDOW,
    Wire,
    data,
    fill,
    frame,
)

PORT = 6501
ROOT = Path(__file__).parents[4]
SERVE = """
import os, sys
from shims.guest.port_streams import listen_for_programs, serve_port
listeners = listen_for_programs(sys.argv[2], os.getuid(), os.getgid())
print("listens", flush=True)
print(serve_port(int(sys.argv[1]), listeners), flush=True)
"""


class Guest:
    """The guest's end in a separate process, and sockets of its programs."""

    def __init__(self, port: socket.socket, directory: Path, stack: ExitStack) -> None:
        self._directory = directory / "port"
        self._stack = stack
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(port.fileno()), str(self._directory)],
            pass_fds=(port.fileno(),),
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        stack.callback(self._end)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "listens\n"

    def _end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def connect(self, port: int = PORT) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.settimeout(PATIENCE)
        sock.connect(str(self._directory / str(port)))
        return sock

    def joined(self, port: int = PORT) -> socket.socket:
        """Connect, and read the broker's answer."""
        sock = self.connect(port)
        assert sock.recv(1) == b"\0"
        return sock

    def opened(self, stream: int = 0) -> socket.socket:
        """Connect, and play a host that accepts it."""
        sock = self.connect()
        self.wire.expect(OPEN, stream)
        self.wire.send(frame(ACCEPT, stream))
        assert sock.recv(1) == b"\0"
        return sock

    def ended(self) -> str:
        """Wait for its end; returns the reason."""
        words, _ = self.process.communicate(timeout=PATIENCE)
        return words.strip()


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def guest(tmp_path, stack):
    """A guest's end whose host is the test: ``wire``."""
    ours, theirs = socket.socketpair()
    with theirs:
        guest = Guest(theirs, tmp_path, stack)
    guest.wire = Wire(stack.enter_context(ours))
    return guest


@pytest.fixture
def greeted(guest):
    guest.wire.send(frame(HELLO, VERSION, 77))
    assert guest.wire.expect(HELLO, VERSION).value == 77
    return guest


@pytest.fixture
def both(tmp_path, stack):
    """Both ends, joined, and the broker's listener at ``PORT``."""
    try:
        program = mux_program()
    except SetupError:
        pytest.skip("needs a compiler: 'make setup'")
    host, port = socket.socketpair()
    with host, port:
        mux = subprocess.Popen(
            [program, str(host.fileno()), str(tmp_path / "vm.vsock")],
            pass_fds=(host.fileno(),),
        )
        stack.callback(mux.wait)
        stack.callback(mux.kill)
        guest = Guest(port, tmp_path, stack)
    guest.mux = mux
    guest.listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    guest.listener.settimeout(PATIENCE)
    guest.listener.bind(str(tmp_path / f"vm.vsock_{PORT}"))
    guest.listener.listen(400)
    return guest


def accept(guest, stack):
    conn, _ = guest.listener.accept()
    conn.settimeout(PATIENCE)
    return stack.enter_context(conn)


def read(sock, size=-1):
    content = b""
    while size < 0 or len(content) < size:
        piece = sock.recv(65536 if size < 0 else size - len(content))
        if not piece:
            assert size < 0, f"it ended after {len(content)} bytes"
            break
        content += piece
    return content


def exchange(program, conn, content):
    """Send ``content`` both ways at once; returns what arrived at both."""
    got = {}

    def send(sock):
        sock.sendall(content)
        sock.shutdown(socket.SHUT_WR)

    def receive(name, sock):
        got[name] = read(sock)

    threads = [threading.Thread(target=send, args=[s]) for s in (program, conn)]
    threads += [
        threading.Thread(target=receive, args=["program", program]),
        threading.Thread(target=receive, args=["broker", conn]),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return got


# -- both ends ----------------------------------------------------------------------


def test_bytes_flow_both_ways_and_each_half_ends(both, stack):
    program = both.joined()
    conn = accept(both, stack)
    content = os.urandom(3 * WINDOW + 12345)
    got = exchange(program, conn, content)
    assert got["broker"] == content
    assert got["program"] == content


def test_a_program_that_closes_closes_at_the_broker(both, stack):
    program = both.joined()
    program.sendall(b"all of it")
    program.close()
    conn = accept(both, stack)
    assert read(conn) == b"all of it"


def test_a_program_that_closes_behind_its_half_closes_at_the_broker(both, stack):
    """Or the broker's connection would be half open for ever."""
    program = both.joined()
    program.shutdown(socket.SHUT_WR)
    conn = accept(both, stack)
    assert read(conn) == b""
    program.close()
    poll = select.poll()
    poll.register(conn, 0)
    assert poll.poll(PATIENCE * 1000) == [(conn.fileno(), select.POLLHUP)]


def test_the_brokers_last_words_arrive_and_then_the_end(both, stack):
    program = both.joined()
    conn = accept(both, stack)
    conn.sendall(b"refused")
    conn.close()
    assert read(program) == b"refused"


def test_a_port_that_the_broker_does_not_serve_closes(both):
    both.joined()  # from here on the host's end is there
    program = both.connect(6502)
    assert read(program) == bytes([errno.ENOENT])


def test_300_programs_at_once_and_one_more_that_waits(both, stack):
    programs = [both.joined() for _ in range(STREAMS)]
    conns = [accept(both, stack) for _ in programs]
    late = both.connect()
    late.sendall(b"late")
    for n, program in enumerate(programs):
        program.sendall(n.to_bytes(2, "big"))
    assert sorted(int.from_bytes(read(c, 2), "big") for c in conns) == list(
        range(STREAMS)
    )
    both.listener.settimeout(0)
    with pytest.raises(BlockingIOError):
        both.listener.accept()
    both.listener.settimeout(PATIENCE)
    programs[0].close()
    assert read(accept(both, stack), 4) == b"late"


def test_a_deaf_program_holds_no_other(both, stack):
    deaf = both.joined()
    deaf_conn = accept(both, stack)
    live = both.joined()
    conn = accept(both, stack)
    written = fill(deaf_conn)
    for turn in range(50):
        conn.sendall(bytes([turn]))
        assert read(live, 1) == bytes([turn])
        live.sendall(bytes([turn]))
        assert read(conn, 1) == bytes([turn])
    assert read(deaf, written) == bytes(written)


def test_when_the_hosts_end_dies_the_guests_ends(both):
    program = both.joined()
    both.mux.kill()
    assert both.ended() == "the host closed the port"
    assert read(program) == b""


# -- the guest's end alone ------------------------------------------------------------


def test_before_the_hosts_hello_it_writes_nothing_and_refuses_programs(guest):
    """A parent's copies would all open what its program had begun."""
    program = guest.connect()
    assert read(program) == bytes([errno.ENODEV])
    guest.wire.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        guest.wire.receive()
    guest.wire.sock.settimeout(PATIENCE)
    guest.wire.send(frame(HELLO, VERSION, 5))
    assert guest.wire.expect(HELLO, VERSION).value == 5
    program = guest.connect()
    program.sendall(b"early")
    assert guest.wire.expect(OPEN, 0).value == PORT
    assert guest.wire.expect(DATA, 0).data == b"early"


def test_it_sends_no_more_than_its_window(greeted):
    program = greeted.opened()
    # The rest fits into the socket.
    program.sendall(bytes(WINDOW + 65536))
    greeted.wire.read(0, WINDOW)
    greeted.wire.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        greeted.wire.receive()
    greeted.wire.sock.settimeout(PATIENCE)
    greeted.wire.send(frame(CREDIT, 0, 10))
    assert greeted.wire.expect(DATA, 0).value == 10


def take_half(greeted, number, program):
    """Send half a window, which the program reads; returns the credit for it."""
    greeted.wire.send(data(number, bytes(WINDOW // 2)))
    assert len(read(program, WINDOW // 2)) == WINDOW // 2
    return greeted.wire.expect(CREDIT, number).value


def test_the_hosts_window_grows_once_where_the_program_keeps_up(greeted):
    grown = WINDOW // 2 + LARGE_WINDOW - WINDOW
    program = greeted.opened()
    assert take_half(greeted, 0, program) == grown
    content = os.urandom(LARGE_WINDOW)
    greeted.wire.send(data(0, content))
    assert read(program, LARGE_WINDOW) == content
    given = greeted.wire.expect(CREDIT, 0).value
    assert LARGE_WINDOW // 2 <= given <= LARGE_WINDOW
    programs = [greeted.opened(n) for n in range(1, LARGE_STREAMS + 1)]
    grants = [take_half(greeted, n + 1, one) for n, one in enumerate(programs)]
    assert grants == [grown] * (LARGE_STREAMS - 1) + [WINDOW // 2]


def test_a_number_is_used_again_when_both_have_closed(greeted):
    for _ in range(3):
        greeted.opened().close()
        greeted.wire.expect(CLOSE, 0)
        other = greeted.opened(1)
        greeted.wire.send(frame(CLOSE, 0), frame(CLOSE, 1))
        greeted.wire.expect(CLOSE, 1)
        assert read(other) == b""


def test_what_the_host_sent_before_close_is_delivered(greeted):
    program = greeted.opened()
    content = os.urandom(WINDOW)
    greeted.wire.send(data(0, content), frame(CLOSE, 0))
    assert read(program) == content


def test_a_burst_of_a_program_is_several_frames(greeted):
    program = greeted.opened()
    content = os.urandom(2 * MOST + 77)
    assert len(content) < WINDOW
    os.kill(greeted.process.pid, signal.SIGSTOP)
    program.settimeout(0)
    sent = 0
    with suppress(BlockingIOError):
        while sent < len(content):
            sent += program.send(content[sent : sent + 20_000])
    program.settimeout(PATIENCE)
    assert sent > MOST
    os.kill(greeted.process.pid, signal.SIGCONT)
    program.sendall(content[sent:])
    assert greeted.wire.expect(DATA, 0).data == content[:MOST]
    assert greeted.wire.read(0, len(content) - MOST) == content[MOST:]


def test_frames_that_come_together_are_each_programs_own(greeted):
    one, two = greeted.opened(0), greeted.opened(1)
    parts = [(0, b"first "), (0, b"second "), (1, b"other"), (0, b"third")]
    greeted.wire.send(*(data(*part) for part in parts), frame(SHUTDOWN, 0))
    assert read(one) == b"first second third"
    greeted.wire.send(data(1, b" end"), frame(CLOSE, 1))
    assert read(two) == b"other end"


BAD = {
    "no hello": (frame(CLOSE, 0), "not a HELLO"),
    "version": (frame(HELLO, VERSION + 1, 0), "not a HELLO"),
    "unknown stream": (
        frame(HELLO, VERSION) + frame(SHUTDOWN, 3),
        "a frame for the closed stream 3",
    ),
    "second byte": (frame(HELLO, VERSION, zero=1), "second byte"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_host_of_another_protocol_ends_it(guest, name):
    script, reason = BAD[name]
    guest.wire.send(script)
    assert reason in guest.ended()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (frame(9, 0), "a frame of type 9"),
        (frame(ACCEPT, 0), "a frame of type 3"),
        (frame(DATA, 0, 0), "DATA of 0 bytes"),
        (frame(DATA, 0, MOST + 1), "DATA of 65529 bytes"),
        (frame(CREDIT, 0, LARGE_WINDOW - WINDOW + 1), "a credit of 786433 bytes"),
        (frame(CLOSE, 0) * 2, "closed stream 0"),
    ],
)
def test_a_host_that_breaks_the_rules_ends_it(greeted, script, reason):
    greeted.opened()
    greeted.wire.send(script)
    assert reason in greeted.ended()


def test_data_before_the_answer_ends_it(greeted):
    greeted.connect()
    greeted.wire.expect(OPEN, 0)
    greeted.wire.send(data(0, b"x"))
    assert "a frame of type 4" in greeted.ended()


def test_the_agent_reads_the_brokers_answer(greeted, stack):
    path = greeted._directory / str(PORT)
    got = []
    loop = Loop()
    try:
        for answer in (frame(ACCEPT, 0), frame(CLOSE, 1, errno.ECONNREFUSED)):
            number = len(got)

            def done(sock, code):
                got.append((sock is not None, code))
                if sock is not None:
                    stack.enter_context(sock)
                loop.stop()

            Address(f"port:{path}").connect(loop, done)
            greeted.wire.expect(OPEN, number)
            greeted.wire.send(answer)
            loop._running = True
            loop.run()
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    assert got == [(True, 0), (False, errno.ECONNREFUSED)]


def test_the_programs_for_files_and_devices_read_it_too(greeted, stack, monkeypatch):
    path = greeted._directory / str(PORT)
    monkeypatch.setattr(doors, "PORT_SOCKETS", str(greeted._directory))
    monkeypatch.setattr(doors, "BOX_SOCKETS", str(greeted._directory / "none"))
    monkeypatch.setitem(doors.PORTS, "VITRAIL_CALL", PORT)
    monkeypatch.setitem(doors.PORTS, "VITRAIL_OPEN_URL", 1)
    assert doors.standard_address("VITRAIL_CALL") == f"port:{path}"
    assert doors.standard_address("VITRAIL_OPEN_URL") == "vsock:2:1"
    monkeypatch.setenv("VITRAIL_COPY", f"port:{path}")
    tools = (
        lambda: connection.BrokerConnection("VITRAIL_COPY"),
        lambda: launch.open_proved(f"port:{path}", "vitrail.Device"),
    )
    pool = ThreadPoolExecutor(1)
    stack.callback(pool.shutdown, wait=False)

    def asked(connect):
        """Return what will be made, and the number of its stream."""
        made = pool.submit(connect)
        while (found := greeted.wire.receive()).type != OPEN:
            assert found.type == CLOSE
        return made, found.stream

    for connect in tools:
        made, number = asked(connect)
        greeted.wire.send(frame(CLOSE, number, errno.ECONNREFUSED))
        with pytest.raises((OSError, TransferError), match="refused"):
            made.result(PATIENCE)
        made, number = asked(connect)
        greeted.wire.send(frame(ACCEPT, number), data(number, b"!"))
        sock = made.result(PATIENCE)
        stack.enter_context(getattr(sock, "reader", sock))
        with getattr(sock, "socket", sock) as sock:
            assert sock.recv(1) == b"!"


def test_only_the_guests_user_reaches_its_sockets(tmp_path):
    listeners = port_streams.listen_for_programs(
        str(tmp_path / "port"), os.getuid(), os.getgid()
    )
    for port, listener in listeners.items():
        found = (tmp_path / "port" / str(port)).stat()
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert found.st_uid == os.getuid()
        listener.close()
    assert set(listeners) == set(PORTS.values())


def test_numbers_and_names_are_those_of_the_host():
    assert port_streams.PORT_HEADER.format == "<BBHI"
    assert port_streams.STREAMS_PORT == PORT_NAME
    assert port_streams.PORT_VERSION == VERSION
    assert port_streams.PORT_STREAMS == STREAMS
    assert port_streams.PORT_WINDOW == WINDOW
    assert port_streams.PORT_LARGE_WINDOW == LARGE_WINDOW
    assert port_streams.PORT_LARGE_STREAMS == LARGE_STREAMS
    assert port_streams.PORT_FRAME == MOST + 8
    kinds = (HELLO, OPEN, ACCEPT, DATA, SHUTDOWN, CREDIT, CLOSE)
    assert kinds == tuple(
        getattr(port_streams, name)
        for name in ("HELLO", "OPEN", "ACCEPT", "DATA", "SHUTDOWN", "CREDIT", "CLOSE")
    )
    assert set(protocol.STREAM_PORTS) == set(PORTS.values())
