"""A worker's part of files and links, with the guest's real program."""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from broker.core.limits import transfer as limits
from broker.core.services import PORTS
from broker.core.ssh_agent import KeyRefused, ListKeys
from broker.core.transfer.entries import Directory, End, FileEntry, entry_frame
from broker.core.transfer.quota import Quota
from broker.helpers.process.spawn import PIPE, spawn
from broker.ipc import transfer as messages
from broker.ipc.guest.file_requests import (
    CopyFiles,
    Go,
    OpenFile,
    OpenUrl,
    Reply,
    Take,
    TransferProgress,
    TransferRefused,
    decode_reply,
)
from broker.jail.worker.transfer import WorkerTransfers
from shims.files import doors
from shims.files import protocol as files_protocol
from tests.kit.shims import files_program

SHIM = Path(files_program())
_M = messages


class Broker:
    """Plays the broker towards one worker's ``WorkerTransfers``."""

    def __init__(self, nursery, base):
        self.say, self.said = trio.open_memory_channel(100)
        self.transfers = WorkerTransfers(self.say.send, lambda: None)
        self.nursery = nursery
        self.door = socket.socket(socket.AF_UNIX)
        self.door.bind(str(base / "door"))
        self.door.listen()
        self.door.settimeout(0)
        self.address = f"unix:{base}/door"
        self.streams = 0

    async def accept(self):
        """Give the worker the next connection."""
        await trio.lowlevel.wait_readable(self.door)
        self.hand_over(self.door.accept()[0])

    def hand_over(self, sock, *, agent=False):
        self.streams += 1
        self.order(_M.TransferStream(self.streams, agent), sock.detach())

    def order(self, message, *fds):
        self.transfers.obey(message, fds, self.nursery)

    async def hear(self, kind):
        """The next message of a kind."""
        with trio.fail_after(30):
            while True:
                message = await self.said.receive()
                if isinstance(message, kind):
                    return message

    def send_to(self, fd, *, single=False, size=1 << 30, files=1000):
        order = _M.TransferSend(self.streams, Quota(size, size, files, single))
        self.order(order, fd)


@asynccontextmanager
async def broker(tmp_path):
    async with trio.open_nursery() as nursery:
        made = Broker(nursery, tmp_path)
        try:
            yield made
        finally:
            made.door.close()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def guest(b, *words, cwd="/"):
    """The guest's program; yields a function that waits for code and output."""
    env = dict.fromkeys(
        ("VITRAIL_OPEN_URL", "VITRAIL_OPEN_FILE", "VITRAIL_COPY"), b.address
    )
    env |= {"PATH": os.environ["PATH"], "HOME": str(cwd)}
    argv = [sys.executable, "-I", str(SHIM), *words]
    child = spawn(argv, env=env, cwd=cwd, stdout=PIPE, stderr=PIPE)

    async def ended():
        with trio.fail_after(30):
            code = await child.wait()
        return code, child.popen.stdout.read() + child.popen.stderr.read()

    try:
        yield ended
    finally:
        await child.kill_and_wait()
        child.popen.stdout.close()
        child.popen.stderr.close()


@asynccontextmanager
async def raw(b, *, agent=False):
    """A program that says what a test wants."""
    mine, theirs = socket.socketpair()
    b.hand_over(theirs, agent=agent)
    mine.settimeout(0)
    with trio.socket.from_stdlib_socket(mine) as sock:
        yield sock


def frame(**message):
    return files_protocol.frame(message)


async def reply(sock) -> Reply:
    """The next reply to a raw program."""
    with trio.fail_after(30):
        (size,) = struct.unpack("<I", await exactly(sock, 4))
        return decode_reply(await exactly(sock, size))


async def exactly(sock, size):
    data = b""
    while len(data) < size:
        more = await sock.recv(size - len(data))
        assert more
        data += more
    return data


def tree(folder):
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


# -- links ----------------------------------------------------------------------------


async def test_an_address_reaches_the_broker_in_its_canonical_form(tmp_path):
    async with broker(tmp_path) as b, guest(b, "xdg-open", "HTTPS://A.b") as ended:
        await b.accept()
        asked = await b.hear(_M.TransferAsked)
        assert asked.ask == OpenUrl("https://a.b/")
        b.order(_M.TransferWait(1, "starting \x1b[1mweb"))
        b.order(_M.TransferFinish(1))
        code, out = await ended()
        assert code == 0
        assert b"starting \\x1b[1mweb" in out
        closed = await b.hear(_M.TransferClosed)
        assert closed.reason == "done"
        assert closed.from_guest > 0


@pytest.mark.parametrize("url", ["javascript:alert(1)", "https://a@b/", "--help"])
async def test_a_bad_address_does_not_reach_the_broker(tmp_path, url):
    async with broker(tmp_path) as b, guest(b, "xdg-open", "--", url) as ended:
        await b.accept()
        code, out = await ended()
        assert code == 1
        assert out.startswith(b"vitrail: ")
        await b.hear(_M.TransferClosed)
        with pytest.raises(trio.WouldBlock):
            b.said.receive_nowait()


async def test_a_refusal_is_told(tmp_path):
    async with broker(tmp_path) as b, guest(b, "vitrail-open", "https://a.b") as ended:
        await b.accept()
        await b.hear(_M.TransferAsked)
        b.order(_M.TransferFinish(1, "denied: no rule"))
        assert await ended() == (1, b"vitrail: denied: no rule\n")


async def test_a_program_that_hangs_up_ends_its_request(tmp_path):
    async with broker(tmp_path) as b:
        async with raw(b) as sock:
            await sock.send(frame(type="open-url", url="https://a.b/"))
            await b.hear(_M.TransferAsked)
        assert "did not wait" in (await b.hear(_M.TransferClosed)).reason


# -- files ----------------------------------------------------------------------------


async def test_files_and_directories_go_through_both_workers(tmp_path):
    """Sender, its worker, a pipe, the receiver's worker, receiver."""
    home = tmp_path / "home"
    source = tmp_path / "s"
    (source / "d/e").mkdir(parents=True)
    (source / "d/e/big").write_bytes(os.urandom(3_000_000))
    (source / "d/empty").touch()
    (source / "link").symlink_to("/etc/passwd")
    home.mkdir()
    read, write = os.pipe2(os.O_CLOEXEC)
    async with broker(tmp_path) as b:
        words = ("vitrail-copy", str(source), "other")
        async with guest(b, *words) as sent:
            await b.accept()
            asked = await b.hear(_M.TransferAsked)
            assert asked.ask == CopyFiles("s", 5, 3_000_000, "other")
            b.send_to(write)
            async with guest(b, "receive", "0" * 32, cwd=home) as received:
                await b.accept()
                assert (await b.hear(_M.TransferAsked)).ask == Take("0" * 32)
                many = Quota(1 << 30, 1 << 30, 1000)
                b.order(_M.TransferDeliver(2, "work", False, many), read)
                for _ in range(2):
                    passed = await b.hear(_M.TransferPassed)
                    assert (passed.size, passed.files, passed.reason) == (
                        3_000_000, 5, "",
                    )  # fmt: skip
                b.order(_M.TransferFinish(1))
                b.order(_M.TransferFinish(2))
                assert (await received())[0] == 0
                # The link was left out, which the sender reports.
                assert (await sent())[0] == 3
    (source / "link").unlink()
    assert tree(home / "Incoming/work/s") == tree(source)


async def test_a_file_to_be_opened_is_looked_at_before_it_goes_on(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"MZ" + bytes(100_000))
    read, write = os.pipe2(os.O_CLOEXEC)
    path = str(tmp_path / "a.pdf")
    async with broker(tmp_path) as b, guest(b, "vitrail-open", path) as ended:
        await b.accept()
        asked = await b.hear(_M.TransferAsked)
        assert asked.ask == OpenFile("a.pdf", 100_002, "application/pdf")
        b.send_to(write, single=True)
        passed = await b.hear(_M.TransferPassed)
        assert "program" in passed.reason
        b.order(_M.TransferFinish(1, passed.reason))
        assert (await ended())[0] == 1
    assert os.read(read, 100) == b""
    os.close(read)


async def test_a_receiver_that_goes_ends_the_sender(tmp_path):
    (tmp_path / "big").write_bytes(bytes(20_000_000))
    read, write = os.pipe2(os.O_CLOEXEC)
    path = str(tmp_path / "big")
    async with broker(tmp_path) as b, guest(b, "vitrail-copy", path, "x") as ended:
        await b.accept()
        await b.hear(_M.TransferAsked)
        b.send_to(write)
        os.close(read)
        passed = await b.hear(_M.TransferPassed)
        assert passed.reason == "the receiver cancelled the transfer"
        b.order(_M.TransferFinish(1, passed.reason))
        assert await ended() == (1, b"vitrail: the receiver cancelled the transfer\n")


@asynccontextmanager
async def unreceived(tmp_path):
    """A copy that is permitted, and whose receiver has gone."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.close(read)
    async with broker(tmp_path) as b, raw(b) as sock:
        await sock.send(frame(type="copy", name="a", files=1, size=1 << 20, target="x"))
        await b.hear(_M.TransferAsked)
        b.send_to(write)
        yield b, sock


async def test_the_reason_is_not_lost_with_bytes_that_are_on_their_way(tmp_path):
    """A connection that is closed before all is read is reset, over vsock at once."""
    async with unreceived(tmp_path) as (b, sock):
        assert await reply(sock) == Go()
        await sock.send(entry_frame(FileEntry(["a"], 1 << 20)) + bytes(1 << 16))
        passed = await b.hear(_M.TransferPassed)
        b.order(_M.TransferFinish(1, passed.reason))
        while isinstance(last := await reply(sock), TransferProgress):
            pass
        assert last == TransferRefused("the receiver cancelled the transfer")
        assert await sock.recv(1) == b""
        # It has not noticed yet, and is still listened to.
        with trio.fail_after(30):
            for _ in range(64):
                await sock.send(bytes(1 << 16))
        with pytest.raises(trio.WouldBlock):
            b.said.receive_nowait()
        sock.close()
        closed = await b.hear(_M.TransferClosed)
        assert closed.reason == "the receiver cancelled the transfer"


async def test_a_refused_sender_that_does_not_end_is_cut(tmp_path, autojump_clock):
    async with unreceived(tmp_path) as (b, sock):
        await sock.send(entry_frame(FileEntry(["a"], 1 << 20)) + bytes(1 << 16))
        passed = await b.hear(_M.TransferPassed)
        began = trio.current_time()
        b.order(_M.TransferFinish(1, passed.reason))
        await b.hear(_M.TransferClosed)
        took = trio.current_time() - began
        assert took == pytest.approx(limits.TRANSFER_LINGER_SECONDS, abs=0.1)


HOSTILE = {
    "more bytes than it said": (
        [entry_frame(FileEntry(["a"], 3)), b"abcdef", entry_frame(End())],
        "invalid entry length",
    ),
    "a name that walks": ([entry_frame(FileEntry(["a/../b"], 0))], "separator"),
    "too large": ([entry_frame(FileEntry(["a"], 1 << 20))], "larger"),
    "too many": ([entry_frame(Directory([str(n)])) for n in range(20)], "more than"),
    "less bytes than it said": (
        [entry_frame(FileEntry(["a"], 3)), b"ab"],
        "incomplete",
    ),
    "no end": ([entry_frame(Directory(["a"]))], "incomplete"),
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_hostile_sender_is_broken_off(tmp_path, kind):
    parts, reason = HOSTILE[kind]
    read, write = os.pipe2(os.O_CLOEXEC)
    async with broker(tmp_path) as b, raw(b) as sock:
        await sock.send(frame(type="copy", name="a", files=1, size=3, target="x"))
        await b.hear(_M.TransferAsked)
        b.send_to(write, size=1000, files=10)
        assert await reply(sock) == Go()
        await sock.send(b"".join(parts))
        sock.shutdown(socket.SHUT_WR)
        passed = await b.hear(_M.TransferPassed)
        assert reason in passed.reason
        b.order(_M.TransferFinish(1, passed.reason))
        while isinstance(last := await reply(sock), TransferProgress):
            pass
        assert isinstance(last, TransferRefused)
    data = os.read(read, 1 << 16)
    assert entry_frame(End()) not in data
    os.close(read)


async def test_a_hostile_pipe_is_not_believed_either(tmp_path):
    """The sender's worker was taken over."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.write(write, entry_frame(FileEntry([".."], 0)))
    os.close(write)
    async with broker(tmp_path) as b, raw(b) as sock:
        await sock.send(frame(type="take", token="0" * 32))
        await b.hear(_M.TransferAsked)
        b.order(_M.TransferDeliver(1, "work", False, Quota(10, 10, 10)), read)
        assert "'..'" in (await b.hear(_M.TransferPassed)).reason


REQUESTS = {
    "no frame": b"\xff" * 8,
    "empty frame": bytes(4),
    "no JSON": struct.pack("<I", 1) + b"x",
    "unknown": frame(type="run", argv=["sh"]),
    "a path": frame(type="copy", name="../a", files=1, size=1, target="x"),
    "a bad target": frame(type="open-url", url="https://a.b/", target="a b"),
    "a bad token": frame(type="take", token="../x"),
    "a negative size": frame(type="open-file", name="a", size=-1),
    "two requests": frame(type="take", token="0" * 32) * 2,
    "bytes behind it": frame(type="take", token="0" * 32) + b"x",
}


@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_malformed_request_is_refused(tmp_path, kind):
    async with broker(tmp_path) as b, raw(b) as sock:
        await sock.send(REQUESTS[kind])
        assert isinstance(await reply(sock), TransferRefused)
        await b.hear(_M.TransferClosed)
        with pytest.raises(trio.WouldBlock):
            b.said.receive_nowait()


async def test_bytes_before_the_answer_end_it(tmp_path):
    async with broker(tmp_path) as b, raw(b) as sock:
        await sock.send(frame(type="take", token="0" * 32))
        await b.hear(_M.TransferAsked)
        await sock.send(b"x")
        assert "did not wait for the reply" in (await b.hear(_M.TransferClosed)).reason


async def test_a_request_has_its_time(tmp_path, autojump_clock):
    async with broker(tmp_path) as b, raw(b) as sock:
        await sock.send(frame(type="take", token="0" * 32)[:-1])
        began = trio.current_time()
        assert "in time" in (await b.hear(_M.TransferClosed)).reason
        took = trio.current_time() - began
        assert took == pytest.approx(limits.TRANSFER_HEAD_SECONDS, abs=0.1)


async def test_orders_for_an_ended_transfer_close_their_descriptors(tmp_path):
    read, write = os.pipe2(os.O_CLOEXEC)
    async with broker(tmp_path) as b:
        b.order(_M.TransferSend(77, Quota(1, 1, 1)), write)
        assert os.read(read, 1) == b""
    os.close(read)
    with suppress(OSError):
        os.close(write)
        raise AssertionError("it was still open")


def test_the_tables_are_the_guests():
    for variable, kind in doors.SERVICES.items():
        assert doors.PORTS[variable] == PORTS[kind]
    assert json.loads(frame(type="take")[4:]) == {"type": "take"}


# -- programs that know an ssh agent alone ------------------------------------------------

LIST = b"\0\0\0\1\x0b"
FAILED = b"\0\0\0\1\5"


async def test_a_program_of_an_agent_gets_no_message_of_ours(tmp_path):
    """It speaks first, and is answered once the broker has decided."""
    async with broker(tmp_path) as b, raw(b, agent=True) as sock:
        await sock.send(LIST + LIST)
        b.order(_M.TransferWait(1, "starting vault"))
        b.order(_M.TransferServe(1, "agent"))
        for _ in range(2):
            assert (await b.hear(_M.StreamSaid)).message == ListKeys()
            b.order(_M.StreamTell(1, KeyRefused()))
            assert await exactly(sock, len(FAILED)) == FAILED
        b.order(_M.TransferFinish(1))
        await b.hear(_M.TransferClosed)
        assert await sock.recv(100) == b""


async def test_a_program_of_an_agent_that_is_refused_sees_an_end(tmp_path):
    async with broker(tmp_path) as b, raw(b, agent=True) as sock:
        await sock.send(frame(type="call", service="vitrail.SshAgent", argument=""))
        b.order(_M.TransferFinish(1, "no rule"))
        closed = await b.hear(_M.TransferClosed)
        assert (closed.reason, await ended(sock)) == ("no rule", b"")


async def test_a_program_of_an_agent_that_goes_is_not_waited_for(tmp_path):
    async with broker(tmp_path) as b, raw(b, agent=True) as sock:
        await sock.send(LIST)
        sock.close()
        b.order(_M.TransferServe(1, "agent"))
        closed = await b.hear(_M.TransferClosed)
        assert "closed the connection" in closed.reason
    second = tmp_path / "second"
    second.mkdir()
    async with broker(second) as b, raw(b, agent=True) as sock:
        sock.close()
        closed = await b.hear(_M.TransferClosed)
        assert "did not wait" in closed.reason


async def test_a_program_of_an_agent_that_goes_with_an_answer_unread_ends_alone(
    tmp_path,
):
    """Its connection is reset then, which no other one of the worker notices."""
    async with broker(tmp_path) as b, raw(b, agent=True) as other:
        async with raw(b, agent=True) as sock:
            b.order(_M.TransferServe(2, "agent"))
            for _ in range(2):
                await sock.send(LIST)
                assert (await b.hear(_M.StreamSaid)).message == ListKeys()
                b.order(_M.StreamTell(2, KeyRefused()))
            await sock.send(LIST)
            await b.hear(_M.StreamSaid)
        closed = await b.hear(_M.TransferClosed)
        assert "closed the connection" in closed.reason
        await other.send(LIST)
        b.order(_M.TransferServe(1, "agent"))
        assert (await b.hear(_M.StreamSaid)).message == ListKeys()


async def test_a_program_of_an_agent_that_resets_its_connection_ends_alone(tmp_path):
    mine, theirs = socket.socketpair()
    theirs.send(b"unread")
    async with broker(tmp_path) as b:
        b.hand_over(theirs, agent=True)
        mine.close()
        closed = await b.hear(_M.TransferClosed)
        assert "did not wait" in closed.reason


async def ended(sock):
    """The bytes until the end; a reset is one, as the worker has not read all."""
    with suppress(ConnectionResetError):
        return await sock.recv(100)
    return b""
