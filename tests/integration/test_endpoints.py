"""Endpoints as people write them, on real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from broker.core import limits
from broker.core.errors import PeerError, SetupError, UpstreamError, VitrailError
from broker.core.services import CID_ANY
from broker.net import listeners
from broker.net.addresses import (
    HybridEndpoint,
    UnixEndpoint,
    VsockEndpoint,
    parse_connect,
    parse_listen,
)
from broker.net.endpoints import connect
from broker.net.listeners import open_listener


@pytest.fixture
def folder(tmp_path_factory):
    """A folder with a short name: pytest's own are too long for sockets."""
    path = Path("/tmp") / f"vt-{os.getpid()}"
    path.mkdir(mode=0o700)
    yield path
    for entry in path.iterdir():
        entry.unlink()
    path.rmdir()


# -- reading ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("unix:/run/x", UnixEndpoint(Path("/run/x"))),
        ("unix:x:y", UnixEndpoint(Path("x:y"))),
        ("vsock:3:6500", VsockEndpoint(3, 6500)),
        ("vsock:4294967294:4294967294", VsockEndpoint(4294967294, 4294967294)),
        ("hybrid:/run/vm.vsock:6500", HybridEndpoint(Path("/run/vm.vsock"), 6500)),
        ("hybrid:/a:b:1", HybridEndpoint(Path("/a:b"), 1)),
    ],
)
def test_endpoints_and_their_text(text, endpoint):
    assert parse_connect(text) == parse_listen(text) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize("text", ["vsock:6500", "vsock:any:6500"])
def test_any_machine_is_for_listening_only(text):
    assert parse_listen(text) == VsockEndpoint(CID_ANY, 6500)
    with pytest.raises(SetupError, match="does not name a machine") as caught:
        parse_connect(text)
    assert "CID 2 is the host" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix",
        "unix:",
        "unix:a\0b",
        "tcp:localhost:1",
        "/run/x",
        "vsock:",
        "vsock:3:",
        "vsock:x:1",
        "vsock:-1:1",
        "vsock:1_0:1",
        "vsock:٣:1",
        "vsock:3:4294967295",
        "vsock:4294967295:1",
        "vsock:3:" + "1" * 5000,
        "hybrid:/run/x",
        "hybrid::5",
        "hybrid:/run/x:port",
    ],
)
def test_anything_else_is_refused_with_the_forms(text):
    for parse in (parse_connect, parse_listen):
        with pytest.raises(SetupError) as caught:
            parse(text)
        assert "unix:PATH" in caught.value.hint


def test_a_path_of_107_bytes_and_one_more():
    assert limits.SOCKET_PATH_BYTES == 107
    assert parse_listen("unix:/" + "x" * 106).path.name == "x" * 106
    for text in ("unix:/" + "x" * 107, "unix:/" + "ü" * 54):
        with pytest.raises(SetupError, match="too long"):
            parse_listen(text)
    # where a hybrid endpoint listens the port is part of the path
    assert parse_listen("hybrid:/" + "x" * 101 + ":1234").port == 1234
    with pytest.raises(SetupError, match="too long"):
        parse_listen("hybrid:/" + "x" * 102 + ":1234")


# -- UNIX --------------------------------------------------------------------------


@asynccontextmanager
async def listening(text: str, **options):
    listener = await open_listener(parse_listen(text), **options)
    try:
        yield listener
    finally:
        listener.close()


async def both(text: str, listener):
    """Connect and accept; returns the two plain, non-blocking sockets."""
    there = await connect(parse_connect(text), deadline=30)
    with trio.fail_after(30):
        here = await listener.accept()
    return there, here


async def test_unix_both_ways(folder):
    text = f"unix:{folder}/s"
    async with listening(text) as listener:
        there, here = await both(text, listener)
        with there, here:
            for sock in (there, here):
                assert sock.gettimeout() == 0
                assert not sock.get_inheritable()
            there.send(b"hi")
            assert here.recv(10) == b"hi"
        assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o600
    assert not (folder / "s").exists()


async def test_the_mode_is_ours_from_the_first_moment(folder, monkeypatch):
    """Whatever the umask is, and without touching it."""
    old = os.umask(0)
    try:
        async with listening(f"unix:{folder}/s"):
            assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o600
            assert os.umask(0) == 0
    finally:
        os.umask(old)


async def test_a_dead_programs_socket_is_replaced(folder):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{folder}/s")
        dead.listen()
    async with listening(f"unix:{folder}/s") as listener:
        there, here = await both(f"unix:{folder}/s", listener)
        there.close()
        here.close()


async def test_a_live_programs_socket_is_not(folder):
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(f"{folder}/s")
        live.listen()
        before = (folder / "s").stat().st_ino
        with pytest.raises(SetupError, match="is in use") as caught:
            await open_listener(parse_listen(f"unix:{folder}/s"))
        assert "choose another path" in caught.value.hint
        assert (folder / "s").stat().st_ino == before


async def test_a_live_socket_with_a_full_queue_lives(folder):
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(f"{folder}/s")
        live.listen(0)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(f"{folder}/s")
            with pytest.raises(SetupError, match="is in use"):
                await open_listener(parse_listen(f"unix:{folder}/s"))
    assert (folder / "s").is_socket()


async def test_a_file_that_is_no_socket_is_never_removed(folder):
    (folder / "s").write_text("precious")
    with pytest.raises(SetupError, match="is not a socket"):
        await open_listener(parse_listen(f"unix:{folder}/s"))
    assert (folder / "s").read_text() == "precious"


async def test_a_link_is_not_followed_to_a_victim(folder):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{folder}/victim")
    (folder / "s").symlink_to(folder / "victim")
    with pytest.raises(SetupError, match="is not a socket"):
        await open_listener(parse_listen(f"unix:{folder}/s"))
    assert (folder / "victim").is_socket()


async def test_closing_leaves_a_successors_socket_alone(folder):
    listener = await open_listener(parse_listen(f"unix:{folder}/s"))
    (folder / "s").unlink()
    async with listening(f"unix:{folder}/s") as successor:
        listener.close()
        there, here = await both(f"unix:{folder}/s", successor)
        there.close()
        here.close()


async def test_connecting_as_fast_as_we_accept_delays_no_other(folder):
    """Taking a connection that waits already lets the others run, too."""
    listener = await open_listener(parse_listen(f"unix:{folder}/s"))
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as busy:
            busy.connect(f"{folder}/s")
            with trio.testing.assert_checkpoints():
                (await listener.accept()).close()
    listener.close()


async def test_two_who_replace_a_stale_socket_at_once(folder):
    """One wins, the other is told so; never both, never none."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{folder}/s")
    outcome: list[object] = []

    async def one() -> None:
        try:
            outcome.append(await open_listener(parse_listen(f"unix:{folder}/s")))
        except SetupError as error:
            outcome.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(one)
    winners = [one for one in outcome if isinstance(one, listeners.Listener)]
    assert len(winners) == 1
    assert all("in use" in str(one) for one in outcome if one not in winners)
    winners[0].close()


async def test_another_programs_lock_is_waited_for(folder, autojump_clock):
    import fcntl

    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(SetupError, match="locked"):
            await open_listener(parse_listen(f"unix:{folder}/s"))
    finally:
        os.close(fd)
    async with listening(f"unix:{folder}/s"):
        pass


@pytest.mark.parametrize(
    ("path", "says", "hint"),
    [
        ("missing/s", "No such file", "create the directory"),
        ("file/s", "Not a directory", "is a file"),
    ],
)
async def test_listening_where_one_cannot(folder, path, says, hint):
    (folder / "file").write_text("")
    with pytest.raises(SetupError, match=says) as caught:
        await open_listener(parse_listen(f"unix:{folder}/{path}"))
    assert hint in caught.value.hint


async def test_connecting_to_nothing(folder):
    with pytest.raises(UpstreamError, match="No such file") as caught:
        await connect(parse_connect(f"unix:{folder}/s"))
    assert "start the program" in caught.value.hint
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{folder}/s")
    with pytest.raises(UpstreamError, match="refused") as caught:
        await connect(parse_connect(f"unix:{folder}/s"))
    assert "no process listens" in caught.value.hint


async def test_a_full_queue_is_waited_for(folder):
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(f"{folder}/s")
        busy.listen(0)
        first = await connect(parse_connect(f"unix:{folder}/s"))
        with first:
            with pytest.raises(UpstreamError, match="did not answer within"):
                await connect(parse_connect(f"unix:{folder}/s"), deadline=0.1)
            async with trio.open_nursery() as nursery:
                got: list[socket.socket] = []

                async def late() -> None:
                    got.append(await connect(parse_connect(f"unix:{folder}/s")))

                nursery.start_soon(late)
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert not got
                busy.accept()[0].close()
            got[0].getpeername()  # connected, not merely writable
            got[0].close()


async def test_nothing_leaks_when_connecting_fails(folder):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(VitrailError):
            await connect(parse_connect(f"unix:{folder}/s"))
        with pytest.raises(VitrailError):
            await open_listener(parse_listen(f"unix:{folder}/no/s"))
    assert len(os.listdir("/proc/self/fd")) == before


# -- hybrid vsock --------------------------------------------------------------------


async def vmm(folder, nursery, answer: bytes, *, keep: bool = True):
    """A VMM's side of its vsock socket; yields the received bytes."""
    listener = await open_listener(parse_listen(f"unix:{folder}/vm"))
    heard: list[bytes] = []

    async def serve() -> None:
        conn = await listener.accept()
        with conn:
            await trio.lowlevel.wait_readable(conn)
            heard.append(conn.recv(1000))
            for start in range(0, len(answer), 3):
                conn.send(answer[start : start + 3])
                await trio.testing.wait_all_tasks_blocked(0.001)
            if keep:
                await trio.lowlevel.wait_readable(conn)
                with contextlib.suppress(ConnectionResetError):  # hung up on
                    heard.append(conn.recv(1000))
        listener.close()

    nursery.start_soon(serve)
    return heard


async def test_the_hybrid_hand_shake_reads_nothing_beyond_it(folder):
    async with trio.open_nursery() as nursery:
        heard = await vmm(folder, nursery, b"OK 1073741824\nfirst bytes of the guest")
        with await connect(parse_connect(f"hybrid:{folder}/vm:6500")) as sock:
            assert heard == [b"CONNECT 6500\n"]
            data = b""
            while len(data) < 24:
                await trio.lowlevel.wait_readable(sock)
                data += sock.recv(100)
            assert data == b"first bytes of the guest"
            sock.send(b"ours")
    assert heard == [b"CONNECT 6500\n", b"ours"]


async def test_a_closed_port_of_the_guest(folder):
    async with trio.open_nursery() as nursery:
        await vmm(folder, nursery, b"", keep=False)
        with pytest.raises(UpstreamError, match="port 6500") as caught:
            await connect(parse_connect(f"hybrid:{folder}/vm:6500"))
        assert "whether the guest and its service" in caught.value.hint


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        (b"OK 1\n", True),
        (b"OK " + b"1" * 28 + b"\n", True),  # 32 bytes: the limit
        (b"OK " + b"1" * 29 + b"\n", False),
        (b"OK\n", False),
        (b"NO 5\n", False),
        (b"\x1b[2J\n", False),
    ],
)
async def test_what_counts_as_an_answer(folder, answer, accepted):
    assert limits.HYBRID_ANSWER_BYTES == 32
    async with trio.open_nursery() as nursery:
        await vmm(folder, nursery, answer)
        if accepted:
            (await connect(parse_connect(f"hybrid:{folder}/vm:1"))).close()
        else:
            with pytest.raises(PeerError, match="does not speak hybrid") as caught:
                await connect(parse_connect(f"hybrid:{folder}/vm:1"))
            assert "\x1b" not in str(caught.value)


async def test_a_silent_vmm_costs_a_deadline(folder):
    before = len(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{folder}/vm")
        silent.listen()
        with pytest.raises(UpstreamError, match=r"did not answer within 0\.1 s"):
            await connect(parse_connect(f"hybrid:{folder}/vm:1"), deadline=0.1)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_listening_for_a_guests_connections(folder):
    """The VMM connects to the path with the port after it."""
    async with listening(f"hybrid:{folder}/vm:6501") as listener:
        assert (folder / "vm_6501").is_socket()
        there, here = await both(f"unix:{folder}/vm_6501", listener)
        there.close()
        here.close()
    assert not (folder / "vm_6501").exists()


# -- vsock ---------------------------------------------------------------------------


def _vsock_listens() -> bool:
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
            sock.bind((CID_ANY, 54321))
    except OSError:
        return False
    return True


@pytest.mark.machine
@pytest.mark.skipif(not _vsock_listens(), reason="no AF_VSOCK in this kernel")
async def test_a_vsock_port_in_use():
    async with listening("vsock:54321"):
        with pytest.raises(SetupError, match="address is in use") as caught:
            await open_listener(parse_listen("vsock:any:54321"))
        assert "choose another address" in caught.value.hint


@pytest.mark.machine
@pytest.mark.skipif(not _vsock_listens(), reason="no AF_VSOCK in this kernel")
async def test_a_machine_that_is_not_there():
    with pytest.raises(UpstreamError, match="cannot connect to vsock:4242:1") as caught:
        await connect(parse_connect("vsock:4242:1"), deadline=5)
    assert caught.value.hint


async def test_a_kernel_without_vsock(monkeypatch):
    real = socket.socket

    def without(family=-1, *args, **options):
        if family == socket.AF_VSOCK:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *args, **options)

    monkeypatch.setattr(socket, "socket", without)
    for attempt in (connect, open_listener):
        with pytest.raises(SetupError, match="no vsock") as caught:
            await attempt(VsockEndpoint(3, 1))
        assert "modprobe vsock" in caught.value.hint
