"""The pump's loop, spoken to over a bare control socket."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time

import pytest

from broker.helpers.filters.carrying_filters import pump_filter
from broker.helpers.pump.engine import RelayEngine
from broker.helpers.pump.process import start_pump
from broker.helpers.pump.turns import accelerator, available
from broker.ipc.pump import (
    MESSAGE_BYTES,
    Abort,
    EndReason,
    Live,
    PumpReady,
    PumpRequest,
    RelayMode,
    StreamDone,
    Submit,
    decode_from_pump,
    encode_to_pump,
)


class Broker:
    """A broker that says exactly what the test wants."""

    def __init__(self) -> None:
        self.kept: list[socket.socket] = []
        self.handle = start_pump(pump_filter())
        self.control = self.handle.control
        self.control.settimeout(10)
        assert isinstance(self.hear(), PumpReady)

    def say(self, message, *fds: int) -> None:
        socket.send_fds(self.control, [encode_to_pump(message)], fds)

    def hear(self):
        return decode_from_pump(self.control.recv(MESSAGE_BYTES))

    def line(self, token: int, **options) -> tuple[socket.socket, socket.socket]:
        client, a = socket.socketpair()
        b, server = socket.socketpair()
        self.kept += [client, server]
        with a, b:
            self.say(Submit(token, **options), a.fileno(), b.fileno())
        client.settimeout(10)
        server.settimeout(10)
        return client, server

    def ended(self, seconds: float = 5) -> int:
        """Wait for the pump's end and return its exit code or minus the signal."""
        assert select.select([self.handle.pidfd], [], [], seconds)[0]
        _, status = os.waitpid(self.handle.pid, 0)
        return os.waitstatus_to_exitcode(status)


@pytest.fixture(params=["c", "python"])
def broker(request, monkeypatch):
    if request.param == "python":
        monkeypatch.setenv("VITRAIL_RELAY_PYTHON", "1")
    with serving() as broker:
        yield broker


@contextlib.contextmanager
def serving():
    broker = Broker()
    yield broker
    broker.handle.close()
    for sock in broker.kept:
        sock.close()
    # A test may have waited for its end already.
    with contextlib.suppress(ChildProcessError):
        assert broker.ended() == 0
    os.close(broker.handle.pidfd)


def test_the_end_of_the_control_socket_is_the_end(broker):
    client, server = broker.line(1)
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    broker.control.close()
    assert broker.ended() == 0
    assert client.recv(1) == b""
    assert server.recv(1) == b""


def test_abort_cuts_and_is_answered_once(broker):
    client, server = broker.line(7)
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    broker.say(Abort(7))
    done = broker.hear()
    assert (done.token, done.end.reason, done.end.bytes_ab) == (7, EndReason.ABORTED, 1)
    assert client.recv(1) == b""
    broker.say(Abort(7))  # it has ended: nothing happens
    broker.say(Abort(99))  # there never was one
    broker.say(PumpRequest(1))
    assert broker.hear() == Live(1, True, ())


def test_a_broker_that_does_not_listen_stops_no_stream(broker):
    """Completions wait; bytes do not."""
    client, server = broker.line(1)
    count = 3000
    broker.control.settimeout(0)
    submitted = 0
    deadline = time.monotonic() + 30
    while submitted < count:
        try:
            one, two = broker.line(100 + submitted)
        except BlockingIOError:
            assert time.monotonic() < deadline
            select.select([], [broker.control], [], 1)
            continue
        submitted += 1
        one.close()
        two.close()
        if submitted % 500 == 0:
            client.sendall(b"ping")
            assert server.recv(4) == b"ping"
    broker.control.settimeout(10)
    tokens = [broker.hear().token for _ in range(count)]
    assert sorted(tokens) == list(range(100, 100 + count))
    client.sendall(b"ping")
    assert server.recv(4) == b"ping"
    cpu = time.monotonic()
    client.close()
    server.close()
    assert broker.hear().token == 1
    assert time.monotonic() - cpu < 5


def test_after_a_jam_the_pump_rests(broker):
    """EPOLLOUT is asked for only while something waits to be said."""
    for token in range(1500):
        for sock in broker.line(token):
            sock.close()
    for _ in range(1500):
        broker.hear()
    before = _cpu(broker.handle.pid)
    time.sleep(0.4)
    assert _cpu(broker.handle.pid) - before <= 0.02


def _cpu(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_idle_is_counted_from_the_last_byte(broker):
    client, server = broker.line(1, idle_ms=1000)
    began = time.monotonic()
    for _ in range(3):
        time.sleep(0.3)
        server.sendall(b"x")
        assert client.recv(1) == b"x"
    done = broker.hear()
    assert done.end.reason is EndReason.IDLE
    assert done.end.bytes_ba == 3
    assert 1.89 <= time.monotonic() - began < 30


def test_streams_without_a_deadline_stay(broker):
    client, server = broker.line(1)
    broker.line(2, idle_ms=50)
    assert broker.hear().token == 2
    client.sendall(b"x")
    assert server.recv(1) == b"x"


def test_the_modes_are_reported(broker):
    client, server = broker.line(1, mode_ab=RelayMode.COPY)
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    client.close()
    server.close()
    done = broker.hear()
    assert isinstance(done, StreamDone)
    assert (done.end.mode_ab, done.end.mode_ba) == (RelayMode.COPY, RelayMode.SPLICE)


def test_nonsense_ends_the_pump_not_quietly():
    with serving() as broker:
        broker.control.send(b"nonsense")
        assert broker.ended() == 70
        assert "invalid message to the pump" in broker.handle.words.text()


def test_both_ends_of_control_are_closed_on_exec(broker):
    assert not broker.control.get_inheritable()
    flags = 0
    for entry in os.listdir(f"/proc/{broker.handle.pid}/fd"):
        if int(entry) > 2:
            with open(f"/proc/{broker.handle.pid}/fdinfo/{entry}") as file:
                flags = int(file.read().split("flags:")[1].split()[0], 8)
            assert flags & os.O_CLOEXEC
    assert flags


def test_deadlines_of_ended_streams_are_forgotten():
    """An hour's patience with a thousand streams a second holds no hour of them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        engine = RelayEngine(theirs, (6, 1))
        for token in range(1000):
            one, two = socket.socketpair()
            order = Submit(token, idle_ms=3_600_000)
            engine._begin(order, [one.detach(), two.detach()])
            engine._obey(Abort(token), [])
        assert len(engine._deadlines) <= 64
        engine.close()


@pytest.mark.skipif(not available(), reason="the pump's C part is not built")
def test_a_stream_adopted_in_a_slow_turn_is_reported_as_active_now():
    """A question in the turn of a submission ended the pump on a busy machine."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        engine = RelayEngine(theirs, (6, 1), accelerate=accelerator)
        engine._now -= 1
        one, two = socket.socketpair()
        engine._begin(Submit(1), [one.detach(), two.detach()])
        engine._obey(PumpRequest(7), [])
        assert isinstance(decode_from_pump(ours.recv(MESSAGE_BYTES)), PumpReady)
        answer = decode_from_pump(ours.recv(MESSAGE_BYTES))
        assert isinstance(answer, Live)
        assert [stream.idle for stream in answer.streams] == [0.0]
        engine.close()
