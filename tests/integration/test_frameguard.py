"""The frame filter as the process it is, between two real sockets."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import trio

from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import run_tool
from broker.host.network.passt import guard_args
from broker.host.processes.tracked import spawn_helper
from tests.broker.host.network.test_flow_filter import udp
from tests.kit.eventually import eventually

MACS = bytes(12)


def frame(target: str, size: int = 60, *, proto: int = 6) -> bytes:
    head = bytes([0x45]) + bytes(8) + bytes([proto]) + bytes(6)
    packet = head + IPv4Address(target).packed
    body = (MACS + b"\x08\x00" + packet).ljust(size, b"x")
    return struct.pack(">I", len(body)) + body


def datagram(receiver: str, sender: str = "10.0.2.15") -> bytes:
    """From and to port 7001."""
    body = udp(b"x", (7001, 7001), sender=sender, receiver=receiver)
    return struct.pack(">I", len(body)) + body


class Guard:
    def __init__(self):
        self.qemu, outer = socket.socketpair()
        inner, self.passt = socket.socketpair()
        with outer, inner:
            fds = (outer.fileno(), inner.fileno())
            self.process = spawn_helper("frameguard", guard_args(*fds), pass_fds=fds)
        self.qemu = trio.SocketStream(trio.socket.from_stdlib_socket(self.qemu))
        self.passt = trio.SocketStream(trio.socket.from_stdlib_socket(self.passt))

    async def receive(self, stream, size):
        got = bytearray()
        with trio.fail_after(60):
            while len(got) < size:
                chunk = await stream.receive_some(1 << 20)
                assert chunk, f"closed after {len(got)} bytes: {self.process.words}"
                got += chunk
        return bytes(got)

    async def close(self):
        await trio.aclose_forcefully(self.qemu)
        await trio.aclose_forcefully(self.passt)
        await self.process.end(0)
        self.process.close()


@pytest.fixture
async def guard():
    it = Guard()
    yield it
    await it.close()


async def test_good_frames_pass_and_bad_ones_do_not(guard):
    good = frame("198.51.100.1")
    await guard.qemu.send_all(frame("127.0.0.1") + good + frame("0.0.0.0") + good)
    assert await guard.receive(guard.passt, 2 * len(good)) == good + good
    answers = frame("10.0.2.15", 1514) * 200
    await guard.passt.send_all(frame("10.0.2.15", proto=17) + answers)
    assert await guard.receive(guard.qemu, len(answers)) == answers, "not the datagram"


async def test_it_can_do_nothing_else(guard):
    await guard.qemu.send_all(frame("198.51.100.1"))
    await guard.receive(guard.passt, 64)
    pid = guard.process.pid
    status = Path(f"/proc/{pid}/status").read_text()
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status
    if os.access(f"/proc/{pid}/fd", os.R_OK):
        kinds = [
            os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")
        ]
        assert sum(kind.startswith("socket:") for kind in kinds) == 4


async def test_frames_sent_while_it_was_stopped_are_dropped(guard):
    """A burst of them, as of a guest in a lockdown, has passt of 2023 loop for ever."""
    good = frame("198.51.100.1")
    await guard.qemu.send_all(good)
    await guard.receive(guard.passt, len(good))
    guard.process.kill(signal.SIGSTOP)
    await eventually(lambda: guard.process.stopped)
    await guard.qemu.send_all(frame("198.51.100.2") * 100)
    guard.process.kill(signal.SIGCONT)

    async def passes():
        await guard.qemu.send_all(good)
        with trio.move_on_after(1):
            return await guard.passt.receive_some(1 << 20)
        return None

    got = await eventually(passes)
    assert got == good * (len(got) // len(good))


@pytest.mark.parametrize("side", ["qemu", "passt"])
async def test_the_end_of_either_side_is_its_end(guard, side):
    await guard.qemu.send_all(frame("198.51.100.1"))
    await guard.receive(guard.passt, 64)
    await trio.aclose_forcefully(getattr(guard, side))
    with trio.fail_after(30):
        assert await guard.process.wait() == 0


@pytest.mark.parametrize("side", ["qemu", "passt"])
async def test_malformed_frame_ends_guard(guard, side):
    await getattr(guard, side).send_all(b"\xff\xff\xff\xff")
    with trio.fail_after(60):
        assert await guard.process.wait() == 0


async def test_a_side_that_does_not_read_holds_the_other_back(guard):
    sent = 0
    big = frame("198.51.100.1", 65000) * 4
    with trio.move_on_after(1):
        while True:
            await guard.qemu.send_all(big)
            sent += len(big)
    assert sent < 8 << 20, "it buffered without end"
    resident = int(Path(f"/proc/{guard.process.pid}/statm").read_text().split()[1])
    assert resident * os.sysconf("SC_PAGESIZE") < 64 << 20
    # The other direction is not held up by it.
    answers = frame("10.0.2.15", 1000) * 100
    await guard.passt.send_all(answers)
    assert await guard.receive(guard.qemu, len(answers)) == answers


@pytest.mark.alone
async def test_bulk_is_carried_fast_enough_for_a_browser(guard):
    stream = frame("198.51.100.1", 1514) * 20000
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guard.qemu.send_all, stream)
        assert len(await guard.receive(guard.passt, len(stream))) == len(stream)
    rate = len(stream) / (trio.current_time() - started)
    print(f"{rate / 1e6:.0f} MB/s upwards in frames of 1514 bytes")
    assert rate > 10e6


# -- addresses that come while it runs ------------------------------------------------

UNSHARE = ["unshare", "--user", "--map-root-user", "--net"]


async def test_an_address_that_this_machine_gets_is_closed_at_once():
    try:
        await run_tool([*UNSHARE, "true"])
    except Exception as error:
        pytest.skip(f"no network namespace to be had: {error}")
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed")
    argv = [*UNSHARE, *our_program("tests.integration.test_frameguard")]
    said = await run_tool(argv, deadline=30)
    assert said.decode().split() == ["answered", "open", "closed", "open", "silent"]


async def _addresses_come_and_go() -> None:
    guard = Guard()
    wanted, marker = frame("198.51.100.7"), frame("198.51.100.8")

    async def state() -> str:
        await guard.qemu.send_all(wanted + marker)
        got = await guard.receive(guard.passt, len(marker))
        while not got.endswith(marker):
            got += await guard.receive(guard.passt, 1)
        return "open" if got.startswith(wanted) else "closed"

    async def answer() -> str:
        """Send an answer of the host to the guest's datagram, and say what comes."""
        came, last = datagram("10.0.2.15", sender="198.51.100.7"), frame("10.0.2.15")
        await guard.passt.send_all(came + last)
        got = await guard.receive(guard.qemu, len(last))
        while not got.endswith(last):
            got += await guard.receive(guard.qemu, 1)
        return "answered" if got.startswith(came) else "silent"

    async def becomes(expected: str) -> None:
        async def reached() -> bool:
            return await state() == expected

        await eventually(reached)
        print(expected)

    await guard.qemu.send_all(datagram("198.51.100.7") + marker)
    await guard.receive(guard.passt, len(datagram("198.51.100.7") + marker))
    print(await answer())
    await becomes("open")
    await run_tool(["ip", "address", "add", "198.51.100.7/24", "dev", "lo"])
    await becomes("closed")
    await run_tool(["ip", "address", "del", "198.51.100.7/24", "dev", "lo"])
    await becomes("open")
    print(await answer())
    await guard.close()


if __name__ == "__main__":
    trio.run(_addresses_come_and_go)
