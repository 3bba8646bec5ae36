"""The link's door on real AF_VSOCK: a squatter, and ten thousand half-open handshakes.

``test_link_doors`` has the same, and more, between two processes on a UNIX
socket; here host, viewer and application are three machines, and the attackers
are programs of another user in them, whose CID is the right one.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import pytest

from broker.core import limits
from broker.link.keys import Peer
from broker.link.terms import Role
from tests.e2e.test_three_machines import PEER, RECORD
from tests.kit.threevm import HOST, PIECES, VIEWER, siblings
from tests.kit.vmbrokers import CTL, SCREEN, explained, pin, set_up, start, until_there

HELLO = 84
CONNECTIONS = 10_000
# In the viewer's place: silent, says the HELLO back, or what is no REPLY of anyone's.
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
# On the host's machine: nobody's handshakes, and the last ones are kept open.
FLOOD = f"""
import socket
held, failed = [], 0
for number in range({CONNECTIONS}):
    sock = socket.socket(socket.AF_VSOCK)
    sock.settimeout(20)
    try:
        sock.connect(({VIEWER}, 6499))
        if number % 2:
            sock.sendall(b"VTRL-CTL"[: number % 9])
    except OSError:
        failed += 1
    held.append(sock)
    if len(held) > 200:
        held.pop(0).close()
    if number % 500 == 0:
        print(number, flush=True)
print("flooded", failed, flush=True)
import time
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
    said = await guest.run(f"{CTL} status --json")
    return json.loads(said)["link"]


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
        await pin(host, Peer("screen", Role.VIEWER, at_viewer))
        await pin(viewer, Peer("desk", Role.HOST, at_host))
        yield host, viewer


async def is_up(guest):
    await until_there(guest, f'{CTL} status --json | grep -q \'"state": *"up"\'')


@pytest.mark.long
@pytest.mark.timeout(1800)
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
    assert code == 1
    assert "6499" in said
    assert "in use" in said

    heard = [
        bytes.fromhex(line.split()[1])
        for line in (await viewer.run(f"cat {log}")).splitlines()
        if line.startswith("heard ")
    ]
    # One opening each time, with public keys in it; no proof, no preamble, no name.
    assert {len(one) for one in heard} <= {0, HELLO}
    assert all(one[:8] == b"VTRL-CTL" and one[10] == 1 for one in heard if one)
    await start(viewer, "viewer")
    await until_there(host, f'{CTL} status --json | grep -q \'"state": *"up"\'')


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_ten_thousand_half_open_handshakes():
    """Few are held, the rest is closed at once; the link and its host stay."""
    async with two_machines() as (host, viewer):
        await start(viewer, "viewer")
        await start(host, "host")
        await is_up(host)
        epoch = (await link_of(viewer))["epoch"]
        await flooded(host, viewer, epoch)
        # And then the door is open again: a new host's broker comes in by it.
        pid = json.loads(await host.run(f"{CTL} status --json"))["pid"]
        await host.run(f"kill -9 {pid}")
        await start(host, "host")
        await is_up(host)
        assert (await link_of(viewer))["epoch"] != epoch


async def flooded(host, viewer, epoch):
    pid = json.loads(await viewer.run(f"{CTL} status --json"))["pid"]
    count = f"ls -l /proc/{pid}/fd | grep -c socket:"
    before = int(await viewer.run(count))
    log = await begin(host, "flood", FLOOD)
    most = 0
    while "flooded" not in (said := await host.run(f"tail -1 {log}")):
        most = max(most, int(await viewer.run(count)))
    print(f"{said.strip()} of {CONNECTIONS} not connected; {most} sockets at most")
    assert most <= before + limits.LINK_UNAUTHENTICATED_PER_PEER + 8
    for guest in (host, viewer):
        state = await link_of(guest)
        assert (state["state"], state["epoch"]) == ("up", epoch)
    await end(host, "flood")
    events = await viewer.run(f"{CTL} audit --json | grep link.refused")
    found = [json.loads(line) for line in events.splitlines()]
    assert 0 < len(found) < 500, "counted, not each written"
    assert sum(event.get("count", 1) for event in found) > CONNECTIONS / 2
