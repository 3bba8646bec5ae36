"""The host's end of a machine's port: honest guests, hostile ones, and the jail."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from broker.core.errors import SetupError, UpstreamError
from broker.host.vmm import port_mux
from broker.host.vmm.port_mux import (
    mux_program,
    port_words,
    start_port_mux,
)
from fuzz import port_mux as port_mux_fuzz
from tests.kit.needs import NEEDS_COMPILER, NEEDS_JAIL
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
    running,
)

SOURCE = Path(port_mux.__file__).with_name("_portmux.c")
PORT = 6501


@pytest.fixture(scope="module")
def program():
    try:
        return mux_program()
    except SetupError:
        pytest.skip("needs a compiler: 'make setup'")


@pytest.fixture
def mux(program, tmp_path):
    with running(program, tmp_path) as mux:
        yield mux


def opened(mux, stream=0, listener=None):
    listener = listener or mux.listen(PORT)
    mux.wire.send(frame(OPEN, stream, PORT))
    conn = mux.accept(listener)
    mux.wire.expect(ACCEPT, stream)
    return conn


def read(sock, size):
    content = b""
    while len(content) < size:
        piece = sock.recv(size - len(content))
        assert piece, f"it ended after {len(content)} bytes"
        content += piece
    return content


# -- an honest guest --------------------------------------------------------------


def test_its_first_frame_is_a_hello_with_a_nonce_of_its_own(program, tmp_path):
    nonces = set()
    for _ in range(4):
        with running(program, tmp_path, greet=False) as mux:
            hello = mux.wire.receive()
            assert (hello.type, hello.stream) == (HELLO, VERSION)
            nonces.add(hello.value)
    assert len(nonces) > 1


def test_bytes_flow_both_ways(mux):
    conn = opened(mux)
    mux.wire.send(data(0, b"from the guest"))
    assert read(conn, 14) == b"from the guest"
    conn.sendall(b"from the broker")
    assert mux.wire.read(0, 15) == b"from the broker"


def test_data_may_follow_open_at_once(mux):
    listener = mux.listen(PORT)
    mux.wire.send(frame(OPEN, 7, PORT), data(7, b"early"))
    assert read(mux.accept(listener), 5) == b"early"


def test_frames_may_come_in_any_pieces(mux):
    listener = mux.listen(PORT)
    mux.wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for byte in frame(OPEN, 299, PORT) + data(299, b"pieces") + frame(SHUTDOWN, 299):
        mux.wire.send(bytes([byte]))
    conn = mux.accept(listener)
    assert read(conn, 6) == b"pieces"
    assert conn.recv(1) == b""


def test_much_passes_both_ways_within_the_windows(mux):
    content = os.urandom(3 * WINDOW)
    conn = opened(mux)
    allowed, sent = WINDOW, 0
    got = b""
    while sent < len(content):
        piece = content[sent : sent + min(allowed, MOST)]
        mux.wire.send(data(0, piece))
        got += read(conn, len(piece))
        sent, allowed = sent + len(piece), allowed - len(piece)
        if not allowed:
            allowed += mux.wire.expect(CREDIT, 0).value
            mux.wire.sock.settimeout(0)
            try:
                while True:
                    allowed += mux.wire.expect(CREDIT, 0).value
            except BlockingIOError:
                mux.wire.sock.settimeout(PATIENCE)
    assert got == content


def test_the_broker_is_not_read_beyond_the_guests_window(mux):
    conn = opened(mux)
    # The rest fits into the socket.
    conn.sendall(bytes(WINDOW + 65536))
    assert mux.wire.read(0, WINDOW) == bytes(WINDOW)
    assert not wait_for_frame(mux.wire, 0.3)
    mux.wire.send(frame(CREDIT, 0, 100))
    assert mux.wire.expect(DATA, 0).value == 100


def test_half_a_connection_may_be_closed_either_way(mux):
    listener = mux.listen(PORT)
    conn = opened(mux, 0, listener)
    mux.wire.send(data(0, b"all"), frame(SHUTDOWN, 0))
    assert read(conn, 3) == b"all"
    assert conn.recv(1) == b""
    conn.sendall(b"answer")
    assert mux.wire.read(0, 6) == b"answer"
    conn.shutdown(socket.SHUT_WR)
    assert mux.wire.expect(CLOSE, 0).value == 0

    other = opened(mux, 1, listener)
    other.shutdown(socket.SHUT_WR)
    mux.wire.expect(SHUTDOWN, 1)
    mux.wire.send(data(1, b"late"), frame(SHUTDOWN, 1))
    assert read(other, 4) == b"late"
    assert other.recv(1) == b""
    assert mux.wire.expect(CLOSE, 1).value == 0


def test_what_the_broker_wrote_before_it_closed_arrives(mux):
    conn = opened(mux)
    conn.sendall(b"refused: because")
    conn.close()
    assert mux.wire.read(0, 16) == b"refused: because"
    mux.wire.expect(CLOSE, 0)


def test_the_brokers_last_words_arrive_though_it_read_nothing(mux):
    """It closes with bytes of the guest unread, and more of them on their way."""
    conn = opened(mux)
    mux.wire.send(data(0, bytes(1000)))
    conn.sendall(b"no")
    conn.close()
    mux.wire.send(data(0, bytes(1000)))
    assert mux.wire.read(0, 2) == b"no"
    mux.wire.expect(CLOSE, 0)


def test_what_the_guest_sent_before_close_is_delivered(mux):
    conn = opened(mux)
    content = os.urandom(WINDOW)
    mux.wire.send(data(0, content), frame(CLOSE, 0))
    assert read(conn, WINDOW) == content
    assert conn.recv(1) == b""
    while mux.wire.receive().type != CLOSE:
        pass


def test_a_number_is_free_when_both_have_closed(mux):
    listener = mux.listen(PORT)
    for turn in range(50):
        conn = opened(mux, 3, listener)
        conn.sendall(bytes([turn]))
        assert mux.wire.read(3, 1) == bytes([turn])
        mux.wire.send(frame(CLOSE, 3))
        mux.wire.expect(CLOSE, 3)
        assert conn.recv(1) == b""


def test_closes_that_cross_free_the_number_once(mux):
    listener = mux.listen(PORT)
    conn = opened(mux, 3, listener)
    conn.close()
    mux.wire.send(data(3, b"under way"), frame(CLOSE, 3))
    mux.wire.expect(CLOSE, 3)
    again = opened(mux, 3, listener)
    again.sendall(b"!")
    assert mux.wire.read(3, 1) == b"!"


def test_a_port_without_a_listener_is_refused(mux):
    mux.wire.send(frame(OPEN, 0, 4242))
    assert mux.wire.expect(CLOSE, 0).value == errno.ENOENT
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(mux.directory / "vm.vsock_4243"))
        mux.wire.send(frame(CLOSE, 0), frame(OPEN, 0, 4243), data(0, b"x"))
        assert mux.wire.expect(CLOSE, 0).value == errno.ECONNREFUSED


def test_a_full_backlog_is_waited_for(mux):
    listener = mux.listen(PORT, backlog=0)
    mux.wire.send(*(frame(OPEN, n, PORT) + data(n, bytes([n])) for n in range(8)))
    assert {read(mux.accept(listener), 1)[0] for _ in range(8)} == set(range(8))


def test_300_streams_at_once(mux):
    listener = mux.listen(PORT)
    mux.wire.send(
        *(frame(OPEN, n, PORT) + data(n, n.to_bytes(2, "big")) for n in range(STREAMS))
    )
    conns = {}
    for _ in range(STREAMS):
        conn = mux.accept(listener)
        conns[int.from_bytes(read(conn, 2), "big")] = conn
    assert conns.keys() == set(range(STREAMS))
    accepted = [mux.wire.receive() for _ in range(STREAMS)]
    assert {found.type for found in accepted} == {ACCEPT}
    for n, conn in conns.items():
        conn.sendall(n.to_bytes(2, "big"))
    got = {}
    while len(got) < STREAMS:
        found = mux.wire.receive()
        got[found.stream] = int.from_bytes(found.data, "big")
    assert all(stream == n for stream, n in got.items())
    for conn in conns.values():
        conn.close()
    assert {mux.wire.receive().stream for _ in range(STREAMS)} == set(range(STREAMS))


def test_it_ends_when_qemu_closes_its_end(mux):
    conn = opened(mux)
    mux.wire.send(frame(DATA, 0, 100) + b"half of it")
    read(conn, 10)
    mux.wire.sock.close()
    assert mux.ended() == (0, "")
    assert conn.recv(1) == b""


# -- a hostile guest --------------------------------------------------------------

OPENED = frame(OPEN, 5, 4242)
"""Refused by the broker, so that each script is one piece of bytes."""
HOSTILE = {
    "unknown type": (frame(9), "frame of type 9"),
    "type 0": (frame(0), "frame of type 0"),
    "hello twice": (frame(HELLO, VERSION, 1), "frame of type 1"),
    "accept": (frame(ACCEPT, 5), "frame of type 3"),
    "second byte": (frame(OPEN, 0, 4242, zero=1), "second byte is 1"),
    "stream 300": (frame(OPEN, STREAMS, 4242), "OPEN for stream 300 of 300"),
    "stream 65535": (frame(DATA, 65535, 1), "DATA for stream 65535"),
    "opened twice": (OPENED + OPENED, "opened stream 5 twice"),
    "data, not open": (frame(DATA, 5, 1), "DATA for stream 5, which is not open"),
    "credit, not open": (frame(CREDIT, 5, 1), "CREDIT for stream 5, which is not"),
    "close, not open": (frame(CLOSE, 5), "CLOSE for stream 5, which is not open"),
    "closed twice": (
        OPENED + frame(CLOSE, 5) + frame(CLOSE, 5),
        "CLOSE for stream 5, which is not open",
    ),
    "data behind close": (
        OPENED + frame(CLOSE, 5) + frame(DATA, 5, 1),
        "DATA for stream 5, which is not open",
    ),
    "open before our close": (
        OPENED + frame(CLOSE, 5) + OPENED,
        "opened stream 5 twice",
    ),
    "no data": (OPENED + frame(DATA, 5, 0), "DATA of 0 bytes"),
    "long data": (OPENED + frame(DATA, 5, MOST + 1), "DATA of 65529 bytes"),
    "longest data": (OPENED + frame(DATA, 5, 0xFFFFFFFF), "DATA of 4294967295 bytes"),
    "beyond the window": (
        OPENED + data(5, bytes(WINDOW)) + frame(DATA, 5, 1),
        "1 bytes in stream 5, where 0 were allowed",
    ),
    "data behind the end": (
        OPENED + frame(SHUTDOWN, 5) + frame(DATA, 5, 1),
        "DATA behind the end of stream 5",
    ),
    "ended twice": (OPENED + 2 * frame(SHUTDOWN, 5), "ended stream 5 twice"),
    "credit 0": (OPENED + frame(CREDIT, 5, 0), "a credit of 0 bytes"),
    "credit beyond the largest window": (
        OPENED + frame(CREDIT, 5, LARGE_WINDOW - WINDOW + 1),
        "a credit of 786433 bytes for stream 5",
    ),
    "credit overflow": (
        OPENED + frame(CREDIT, 5, 0xFFFFFFFF),
        "a credit of 4294967295 bytes",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_guest_that_breaks_the_protocol_ends_it_with_the_reason(mux, name):
    script, reason = HOSTILE[name]
    mux.wire.send(script)
    code, words = mux.ended()
    assert code == 1
    assert reason in words
    assert "\n" not in words


@pytest.mark.parametrize(
    "answer",
    [
        frame(OPEN, 0, PORT),
        frame(HELLO, VERSION + 1),
        frame(HELLO, VERSION, 0),
        frame(CLOSE, 0),
    ],
)
def test_a_guest_that_does_not_answer_hello_ends_it(program, tmp_path, answer):
    with running(program, tmp_path, greet=False) as mux:
        listener = mux.listen(PORT)
        nonce = mux.wire.receive().value
        if answer == frame(HELLO, VERSION + 1):
            answer = frame(HELLO, VERSION + 1, nonce)
        elif answer == frame(HELLO, VERSION, 0):
            answer = frame(HELLO, VERSION, nonce ^ 1)
        mux.wire.send(answer)
        assert mux.ended() == (1, "the guest's first frame does not answer our HELLO")
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_truncated_header_does_nothing_until_it_is_complete(mux):
    listener = mux.listen(PORT)
    whole = frame(OPEN, 0, PORT)
    mux.wire.send(whole[:7])
    listener.settimeout(0)
    with pytest.raises(BlockingIOError):
        listener.accept()
    listener.settimeout(PATIENCE)
    mux.wire.send(whole[7:])
    mux.accept(listener)


def test_10_000_opens_leave_nothing_behind(mux):
    listener = mux.listen(PORT)
    before = len(os.listdir(f"/proc/{mux.process.pid}/fd"))
    for _ in range(40):
        batch = range(250)
        mux.wire.send(*(frame(OPEN, n, PORT) + frame(CLOSE, n) for n in batch))
        for _ in batch:
            conn, _ = listener.accept()
            with conn:
                assert conn.recv(1) == b""
        closed = set()
        while len(closed) < len(batch):
            found = mux.wire.receive()
            assert found.type in {ACCEPT, CLOSE}
            closed |= {found.stream} if found.type == CLOSE else set()
    assert len(os.listdir(f"/proc/{mux.process.pid}/fd")) == before


def test_a_deaf_connection_holds_no_other(mux):
    listener = mux.listen(PORT)
    deaf = opened(mux, 0, listener)
    live = opened(mux, 1, listener)
    mux.wire.send(data(0, bytes(WINDOW)))
    for turn in range(100):
        mux.wire.send(data(1, bytes([turn])))
        assert read(live, 1) == bytes([turn])
        live.sendall(bytes([turn]))
        while True:
            found = mux.wire.receive()
            if found.type == DATA:
                break
            # What fits into the socket of the deaf one counts as taken.
            assert (found.type, found.stream) == (CREDIT, 0)
        assert (found.stream, found.data) == (1, bytes([turn]))
    assert read(deaf, WINDOW) == bytes(WINDOW)


def test_a_guest_that_reads_nothing_is_held_to_its_windows(mux):
    """Its connections wait; its bytes still pass, and memory is bounded."""
    listener = mux.listen(PORT)
    mux.wire.send(*(frame(OPEN, n, PORT) for n in range(STREAMS)))
    conns = [mux.accept(listener) for _ in range(STREAMS)]
    for conn in conns:
        fill(conn)
    for n in range(STREAMS):
        mux.wire.send(data(n, bytes(MOST)))
    for conn in conns:
        assert read(conn, MOST) == bytes(MOST)
    status = Path(f"/proc/{mux.process.pid}/status").read_text()
    resident = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    assert resident < 8 * 1024


def test_windows_bound_its_memory(mux):
    """Every broker's socket is deaf, and the guest sends all that it may."""
    listener = mux.listen(PORT)
    mux.wire.send(*(frame(OPEN, n, PORT) for n in range(STREAMS)))
    conns = [mux.accept(listener) for _ in range(STREAMS)]
    for n in range(STREAMS):
        mux.wire.send(data(n, bytes(WINDOW)))
    content = [read(conn, WINDOW) for conn in conns]
    assert content == [bytes(WINDOW)] * STREAMS
    status = Path(f"/proc/{mux.process.pid}/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    assert peak < STREAMS * WINDOW // 1024 + 8 * 1024


def pass_half(mux, number, conn):
    """Send half a window, which the broker reads; returns the credit for it."""
    mux.wire.send(data(number, bytes(WINDOW // 2)))
    read(conn, WINDOW // 2)
    return mux.wire.expect(CREDIT, number).value


def test_the_window_grows_once_where_the_broker_keeps_up(mux):
    conn = opened(mux)
    assert pass_half(mux, 0, conn) == WINDOW // 2 + LARGE_WINDOW - WINDOW
    content = os.urandom(LARGE_WINDOW)
    mux.wire.send(data(0, content))
    assert read(conn, LARGE_WINDOW) == content
    assert LARGE_WINDOW // 2 <= mux.wire.expect(CREDIT, 0).value <= LARGE_WINDOW


def test_a_guest_sends_no_more_than_its_large_window(mux):
    """The broker's socket takes less than the half that would give credit."""
    pass_half(mux, 0, opened(mux))
    mux.wire.send(data(0, bytes(LARGE_WINDOW)), frame(DATA, 0, 1))
    assert "where 0 were allowed" in mux.ended()[1]


def test_few_windows_grow(mux):
    listener = mux.listen(PORT)
    grown = WINDOW // 2 + LARGE_WINDOW - WINDOW
    conns = [opened(mux, n, listener) for n in range(LARGE_STREAMS + 1)]
    given = [pass_half(mux, n, conn) for n, conn in enumerate(conns)]
    assert given == [grown] * LARGE_STREAMS + [WINDOW // 2]
    # One that ends leaves its place to another one.
    mux.wire.send(frame(CLOSE, 0))
    mux.wire.expect(CLOSE, 0)
    assert pass_half(mux, LARGE_STREAMS, conns[-1]) == grown


def test_large_windows_bound_its_memory(mux):
    """Streams that kept up, until all of their brokers are deaf."""
    listener = mux.listen(PORT)
    conns = [opened(mux, n, listener) for n in range(LARGE_STREAMS)]
    for n, conn in enumerate(conns):
        pass_half(mux, n, conn)
    for n in range(LARGE_STREAMS):
        mux.wire.send(data(n, bytes(LARGE_WINDOW)))
    assert [len(read(conn, LARGE_WINDOW)) for conn in conns] == [
        LARGE_WINDOW
    ] * LARGE_STREAMS
    status = Path(f"/proc/{mux.process.pid}/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
    assert peak < LARGE_STREAMS * LARGE_WINDOW // 1024 + 8 * 1024


def test_it_sleeps_while_nothing_happens(mux):
    """Neither half-closed connections nor closed ones that wait keep it busy."""
    listener = mux.listen(PORT)
    conns = [opened(mux, n, listener) for n in range(4)]
    conns[0].shutdown(socket.SHUT_WR)
    mux.wire.expect(SHUTDOWN, 0)
    mux.wire.send(frame(SHUTDOWN, 1))
    assert conns[1].recv(1) == b""
    conns[2].sendall(bytes(WINDOW + 65536))
    conns[2].close()  # beyond the window, so that the guest does not hear of it
    assert mux.wire.read(2, WINDOW) == bytes(WINDOW)
    mux.wire.send(data(3, bytes(WINDOW)))

    def ticks():
        fields = Path(f"/proc/{mux.process.pid}/stat").read_text().split()
        return int(fields[13]) + int(fields[14])

    before = ticks()
    # A second of its work would be 100 ticks.
    assert not wait_for_frame(mux.wire, 1.0)
    assert ticks() - before < 50


def wait_for_frame(wire: Wire, seconds: float) -> bool:
    wire.sock.settimeout(seconds)
    try:
        while True:
            if wire.receive().type != CREDIT:
                return True
    except TimeoutError:
        return False
    finally:
        wire.sock.settimeout(PATIENCE)


# -- its guards, and sessions drawn at random ----------------------------------------

GUARDS = {
    "a guest's first frame answers this program's": "",
    "a frame's unused byte is zero": "second byte",
    "a type of frame that the guest may not send ends it": "accept",
    "a stream's number is within the table": "stream 300",
    "a stream's number is free before it is opened again": "open before our close",
    "a frame is for a stream that is open": "data behind close",
    "a frame of the guest has a bounded length": "no data",
    "a guest sends no more than its window": "beyond the window",
    "a guest sends nothing behind its end": "data behind the end",
    "a guest ends a stream once": "ended twice",
    "a guest gives no more credit than the largest window": "credit overflow",
}
"""Guards in C, and the script of ``HOSTILE`` that shows each one missing."""


def test_each_guard_of_the_program_has_a_script():
    marked = re.findall(r"/\* guard: (.*) \*/", SOURCE.read_text())
    assert sorted(marked) == sorted(GUARDS)


@NEEDS_COMPILER
@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_of_the_program_is_missed_when_it_is_gone(name, tmp_path):
    mark = f"/* guard: {name} */\n\tif ("
    text = SOURCE.read_text()
    assert text.count(mark) == 1
    source, program = tmp_path / "without.c", tmp_path / "without"
    off = "#define if_off(...) if (0 && (__VA_ARGS__))\n"
    source.write_text(off + text.replace(mark, "\tif_off("))
    subprocess.run(["gcc", "-o", program, source], check=True)
    script, reason = frame(CLOSE, 0), "does not answer our HELLO"
    if GUARDS[name]:
        script, reason = HOSTILE[GUARDS[name]]
    with running(program, tmp_path, greet=bool(GUARDS[name])) as mux:
        mux.wire.send(script)
        mux.wire.sock.shutdown(socket.SHUT_WR)
        assert reason not in mux.ended()[1]


@pytest.mark.slow
def test_sessions_drawn_at_random():
    """A few seconds of the fuzz target, always the same ones."""
    done = port_mux_fuzz.play(seconds=120, seed=1, steps=60_000)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["refused"] > 20
    assert counts["bytes"] > 1_000_000
    assert counts["grown"] > 0


# -- its numbers, words and jail ------------------------------------------------------


def test_the_program_and_its_guests_have_the_same_numbers():
    text = SOURCE.read_text()
    for name, value in (
        ("VERSION", VERSION),
        ("HEADER_BYTES", 8),
        ("FRAME_BYTES", MOST + 8),
        ("STREAMS", STREAMS),
        ("WINDOW_BYTES", WINDOW),
        ("LARGE_BYTES", LARGE_WINDOW),
        ("LARGE_STREAMS", LARGE_STREAMS),
    ):
        assert re.search(rf"\b{name} = (\d+),", text)[1] == str(value)
    assert (
        "enum type { HELLO = 1, OPEN, ACCEPT, DATA, SHUTDOWN, CREDIT, CLOSE };" in text
    )


def test_words_of_the_port():
    assert port_words(7, "ser.0", 2) == [
        *("-chardev", "socket,id=streams,fd=7"),
        "-device",
        "virtserialport,bus=ser.0,nr=2,chardev=streams,name=vitrail.streams",
    ]


def test_without_the_program_the_person_reads_what_to_do(monkeypatch):
    monkeypatch.setattr(port_mux, "find_spec", lambda _: None)
    with pytest.raises(SetupError, match="without a C compiler"):
        mux_program()


@NEEDS_JAIL
async def test_it_works_in_its_jail(program, tmp_path):
    mux = await start_port_mux(tmp_path, 70000)
    try:
        wire = Wire(mux.conn)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.settimeout(PATIENCE)
            listener.bind(f"{mux.uds}_{PORT}")
            listener.listen()
            wire.greet()
            wire.send(frame(OPEN, 0, PORT), data(0, b"hello"))
            conn, _ = listener.accept()
            with conn:
                conn.settimeout(PATIENCE)
                assert read(conn, 5) == b"hello"
                peer = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                assert int.from_bytes(peer[:4], "little") == mux.process.pid
        wire.send(frame(9))
        assert await mux.process.wait() == 1
        assert mux.process.words == "the guest sent a frame of type 9"
    finally:
        await mux.end()


JAILED = """
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <errno.h>
int main(int argc, char **argv)
{
    char path[4096];
    (void)argc;
    snprintf(path, sizeof path, "%s_new", argv[2]);
    int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    dprintf(2, "file %s, ", file < 0 ? "refused" : "made");
    dprintf(2, "inet %s, ", socket(AF_INET, SOCK_STREAM, 0) < 0 ? "refused" : "made");
    dprintf(2, "unix %s, ", socket(AF_UNIX, SOCK_STREAM, 0) < 0 ? "refused" : "made");
    dprintf(2, "home %s", access("/root", F_OK) < 0 && access("/home", F_OK) < 0
            ? "missing" : "there");
    return 0;
}
"""


@NEEDS_COMPILER
@NEEDS_JAIL
async def test_its_jail_has_no_files_and_no_network(tmp_path):
    source, tool = tmp_path / "tool.c", tmp_path / "tool"
    source.write_text(JAILED)
    subprocess.run(["gcc", source, "-o", tool], check=True)
    mux = await start_port_mux(tmp_path, 70000, program=tool)
    try:
        assert await mux.process.wait() == 0
        words = "file refused, inet refused, unix made, home missing"
        assert mux.process.words == words
    finally:
        await mux.end()


async def test_a_missing_program_leaves_nothing_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises((SetupError, UpstreamError)):
        await start_port_mux(tmp_path, 70000, program=Path("/nonexistent"))
    assert len(os.listdir("/proc/self/fd")) == before
