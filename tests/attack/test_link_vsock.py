"""The link's door on real AF_VSOCK: a squatter, and a flood of half-open handshakes.

``test_link_doors`` has more attacks on a listening viewer, between processes on a
UNIX socket.  Here host and viewer are two machines, and the attackers are programs
of another user in them, whose CIDs are the right ones.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import pytest
import trio

from broker.core.limits import link as limits
from broker.net.link.handshake import SIZES, HandshakeKind
from broker.net.link.keys import PinnedPeer
from broker.net.link.wire_types import HEADER, VERSION, Role
from tests.e2e.test_three_machines import PEER, RECORD
from tests.kit.link.three_machines import HOST, PIECES, VIEWER, siblings
from tests.kit.vm.brokers import (
    CTL,
    PATIENCE,
    SCREEN,
    explained,
    pin,
    set_up,
    start,
    status,
    until_there,
)

HELLO = SIZES[HandshakeKind.HELLO]
FIRST = HEADER.pack(b"VTRL-CTL", VERSION, HandshakeKind.HELLO, Role.HOST)[:11]
# In the viewer's place: silent, repeats the HELLO, or sends an invalid REPLY.
SQUATTER = f"""
import os, socket
listener = socket.socket(socket.AF_VSOCK)
listener.bind((socket.VMADDR_CID_ANY, 6499))
listener.listen(8)
print("squats", flush=True)
number = 0
while True:
    conn, _ = listener.accept()
    conn.settimeout(3)
    heard = b""
    try:
        while len(heard) < {HELLO}:
            more = conn.recv(4096)
            if not more:
                break
            heard += more
        if number % 3 == 1:
            conn.sendall(heard)
        if number % 3 == 2:
            reply = heard[:10] + bytes([2, 2]) + os.urandom(168)
            conn.sendall(reply)
        while more := conn.recv(4096):
            heard += more
    except OSError:
        pass
    conn.close()
    number += 1
    print("heard", heard.hex(), flush=True)
"""

# At least.  An emulated viewer takes twenty to a hundred of them a second: ten
# thousand are minutes, and differ in nothing else.
HALF_OPEN = 2_000
# On the host's machine: silent, a piece of the magic, a stranger's HELLO; the
# last ones stay open, of which the viewer has closed most.
FLOOD = f"""
import os, socket, time
hello = bytes.fromhex("{FIRST.hex()}") + bytes([1]) + os.urandom(72)
words = b"", b"VTRL-CTL"[:5], b"VTRL-CTL", hello[:50]
held, number, full, began = [], 0, 0, time.monotonic()
while number < {HALF_OPEN} or not os.path.exists("/tmp/enough"):
    sock = socket.socket(socket.AF_VSOCK)
    sock.settimeout(60)
    try:
        sock.connect(({VIEWER}, 6499))
    except ConnectionResetError:
        sock.close()
        full += 1  # its queue is
        time.sleep(0.01)
        continue
    number += 1
    try:
        sock.sendall(words[number % 4])
    except OSError:
        pass  # pushed out already
    held.append(sock)
    if len(held) > 500:
        held.pop(0).close()
    if number % 100 == 1:
        print(number, flush=True)
took = round(time.monotonic() - began)
print("flooded", number, "in", took, "s,", full, "found the queue full", flush=True)
time.sleep(3600)
"""


async def begin(guest, name, program):
    """Start a program of the stranger's; returns when it has said something."""
    log = f"/tmp/{name}.log"
    await guest.write(f"/tmp/{name}.py", program, user="mallory")
    await guest.run(f"setsid python3 /tmp/{name}.py >{log} 2>&1 &", user="mallory")
    await until_there(guest, f"test -s {log}")
    return log


async def end(guest, name):
    await guest.run(f"pkill -9 -u mallory -f {name}.py", user="root")


async def link_of(guest):
    return (await status(guest))["link"]


@asynccontextmanager
async def two_machines():
    """Host and viewer, paired and not started; a stranger has an account on both."""
    async with (
        siblings(application=False) as (host, viewer, _),
        explained(host, viewer),
    ):
        for guest in (host, viewer):
            await guest.run("useradd -m mallory", user="root")
        link = f'connect = "vsock:{VIEWER}:6499"\npieces = {PIECES}\n'
        at_host = await set_up(host, link, RECORD + PEER)
        link = f'listen = "vsock:any:6499"\npeer_cid = {HOST}\npieces = {PIECES}\n'
        at_viewer = await set_up(viewer, link, RECORD)
        await pin(host, PinnedPeer("screen", Role.VIEWER, at_viewer))
        await pin(viewer, PinnedPeer("desk", Role.HOST, at_host))
        yield host, viewer


async def is_up(guest):
    await until_there(guest, f'{CTL} status --json | grep -q \'"state": *"up"\'')


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.alone
async def test_a_squatter_on_the_viewers_port():
    """It learns that a host is there, and stops nothing for longer than it is there."""
    async with two_machines() as (host, viewer):
        await squatted(host, viewer)
        await end(viewer, "squatter")
        await start(viewer, "viewer")
        await is_up(host)


async def squatted(host, viewer):
    log = await begin(viewer, "squatter", SQUATTER)
    await start(host, "host")
    await until_there(viewer, f"test $(grep -c heard {log}) -ge 7")
    state = await link_of(host)
    assert state["state"] != "up"
    assert state["problem"], "and says why"

    # The viewer that finds its port taken says so and does not start.
    code, said = await viewer.try_run("python3 -m broker.programs.viewer", env=SCREEN)
    assert code == 1, said
    assert "6499" in said
    assert "in use" in said

    heard = [
        bytes.fromhex(line.removeprefix("heard "))
        for line in (await viewer.run(f"cat {log}")).splitlines()
        if line.startswith("heard ")
    ]
    # One opening each time, with public keys in it; no proof, no preamble, no name.
    assert any(heard)
    for one in heard:
        opening, rest = one[:HELLO], one[HELLO:]
        assert len(opening) in {0, HELLO}
        assert not opening or opening[:11] == FIRST
        # A client that answered something learned at most that it is refused.
        assert not rest or (len(rest), rest[10]) == (
            HEADER.size + 1,
            HandshakeKind.REFUSED,
        )


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.alone
async def test_thousands_of_half_open_handshakes():
    """The host's broker comes in while they come, and while they are open."""
    async with two_machines() as (host, viewer):
        await start(viewer, "viewer")
        pid = (await status(viewer))["pid"]
        count = f"ls -l /proc/{pid}/fd 2>/dev/null | grep -c socket:"
        before = int(await viewer.run(count))
        log = await begin(host, "flood", FLOOD)
        await start(host, "host")
        await is_up(host)
        met = (await host.run(f"tail -1 {log}")).strip()
        print(f"the link is up; the flood is at {met}")
        assert "flooded" not in met, "it goes on until it is told to end"
        epoch = (await link_of(viewer))["epoch"]
        most = max([int(await viewer.run(count)) for _ in range(10)])
        await host.run("touch /tmp/enough")
        said = await until_there(host, f"grep flooded {log}")
        print(f"{said.strip()}; {before} sockets before, {most} at most")
        assert most > before
        assert most <= before + limits.LINK_UNAUTHENTICATED_PER_PEER + 16
        for guest in (host, viewer):
            state = await link_of(guest)
            assert (state["state"], state["epoch"]) == ("up", epoch)

        # Five hundred are still open at their end: a new broker comes in past them.
        await host.run(f"kill -9 {(await status(host))['pid']}")
        await start(host, "host")
        await is_up(host)
        assert (await link_of(viewer))["epoch"] != epoch
        await end(host, "flood")
        said = await viewer.run(f"{CTL} audit --json | grep link.refused")
        found = [json.loads(line) for line in said.splitlines()]
        assert 0 < len(found) < HALF_OPEN / 10, "counted, not each written"
        least = HALF_OPEN - limits.LINK_UNAUTHENTICATED_PER_PEER
        with trio.fail_after(PATIENCE):  # the last of them are told apart one by one
            while (await link_of(viewer))["refused"] < least:
                await trio.sleep(0.3)
