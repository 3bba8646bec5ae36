"""Where the whole way is measured: hybrid vsock, and AF_VSOCK by two kernels."""

from __future__ import annotations

import math
import os
import random
import shlex
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from broker.helpers.process.spawn import PIPE, spawn
from broker.host.images.store import ImageSpec
from broker.net.link.keys import PinnedPeer
from broker.net.link.wire_types import Role
from tests.bench.relay.way_report import (
    BESIDE,
    CPU,
    DIRECT,
    MEASURES,
    ORDERED,
    OURS,
    PEERS,
    SIDES,
    SOCAT,
)
from tests.kit.eventually import eventually
from tests.kit.link.three_machines import HOST, VIEWER, Guest, lab
from tests.kit.link.two_brokers import two
from tests.kit.relay import mode as relay_mode
from tests.kit.vm.brokers import CTL, SCREEN, pin, set_up, until_there
from tests.kit.world import record

HERE = Path(__file__).parent
CLIENT = (HERE / "way_client.py").read_text()
SINK = (HERE / "way_sink.py").read_text()
RAW = record("persistent", display="none", top='audio = "raw"\n')
FOREIGN = 'class = "persistent"\naudio = "raw"\n[label]\ncolour = "green"\n'
PIECES = 3584
LARGEST = 16384
"""A write in the application's machine: vhost-device-vsock 0.3 loses what a kernel 6.12
sends above 32 KiB (docs/images.md)."""
SOCAT_PORT, DIRECT_PORT, AUDIO_PORT = 7100, 7102, 6502
APP = 20
KINDS = ("up", "down", "ping", "setup")
BROKER = "/tmp/relay_mode.py"
ORDER = "/tmp/mode"

Raw = dict[str, dict[str, Any]]
Client = Callable[[int, int, tuple[str, ...]], Awaitable[bytes]]
"""(peer's CID, its port, measures and amounts) -> what the load printed."""
Order = Callable[[str, str], Awaitable[None]]
"""(side, mode): new streams of that broker are moved so."""
Cpu = Callable[[str], float]
"""Seconds of processor time that the processes of a peer have taken until now."""


WARM = ("up", "131072", "down", "131072", "ping", "10", "setup", "2")


@dataclass(frozen=True)
class Length:
    """How much is measured."""

    repetitions: int
    quick: bool = False
    """Less in a repetition."""
    seconds: float = math.inf
    """After which no further repetition begins."""
    beside: bool = False
    """No hop is ordered to splice or to copy."""


def amounts(*, quick: bool, hybrid: bool) -> tuple[str, ...]:
    """How much of each in a repetition: measure, amount, measure, …"""
    bulk = (4 if quick else 16) << (20 if hybrid else 18)
    pings, setups = (60, 10) if quick else (300, 40)
    of = {"up": bulk, "down": bulk, "ping": pings, "setup": setups}
    return tuple(word for kind in KINDS for word in (kind, str(of[kind])))


async def measure(
    client: Client,
    order: Order,
    cid: int,
    words: tuple[str, ...],
    length: Length,
    cpu: Cpu | None = None,
) -> dict[str, dict[str, list[float]]]:
    """All peers within each repetition, in a different order.

    Each is warmed up first: an emulator translates code again that it has not run for a
    while, and the first measurement after "no relay" paid for it.
    """
    peers = BESIDE if length.beside else PEERS
    raw: dict[str, dict[str, list[float]]] = {
        peer: {name: [] for name in MEASURES} for peer in peers
    }
    bulk = words[:4]  # up and down
    began = trio.current_time()
    for number in range(length.repetitions):
        if trio.current_time() - began > length.seconds and number:
            break
        for peer in random.Random(number).sample(peers, len(peers)):
            for side in SIDES:
                where, mode = ORDERED.get(peer, ("", "auto"))
                await order(side, mode if side == where else "auto")
            port = {SOCAT: SOCAT_PORT, DIRECT: DIRECT_PORT}.get(peer, AUDIO_PORT)
            at = VIEWER if (peer, cid) == (DIRECT, HOST) else cid
            await client(at, port, WARM)
            before = cpu(peer) if cpu else 0.0
            said = (await client(at, port, bulk)).decode().splitlines()
            if cpu and peer in {OURS, SOCAT}:
                used = cpu(peer) - before
                size = sum(map(int, bulk[1::2]))
                raw[peer].setdefault(CPU, []).append(used / (size / 1e9))
            said += (await client(at, port, words[4:])).decode().splitlines()
            for kind, line in zip(KINDS, said, strict=True):
                found = [float(word) for word in line.split()]
                for name, (of, place) in MEASURES.items():
                    if of == kind:
                        raw[peer][name].append(found[place])
        print(f"repetition {number + 1}", file=sys.stderr, flush=True)
    return raw


def socat_time(pid: int) -> float:
    """Seconds of a socat, and of its processes that have ended (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def pump_time(pid: int) -> float:
    """Seconds of a process if it is a broker's pump, or else 0."""
    process = Path(f"/proc/{pid}")
    if not (process / "comm").read_text().startswith("vitrail-pump"):
        return 0.0
    return int((process / "schedstat").read_text().split()[0]) / 1e9


def taken(lines: str) -> str:
    """What a broker's streams were moved by when it could choose."""
    rows = [line.split() for line in lines.splitlines()]
    # Pairs, because the directions may differ.
    found = {" / ".join(row[1:]) for row in rows if row[0] == "auto"}
    for mode in {row[0] for row in rows} - {"auto"}:  # and an order is an order
        assert {tuple(row[1:]) for row in rows if row[0] == mode} == {(mode, mode)}
    return ", ".join(sorted(found))


# -- hybrid vsock: host and viewer on this machine ---------------------------------


@asynccontextmanager
async def running(*words: str) -> AsyncIterator[int]:
    child = spawn(list(words), stdout=PIPE)
    try:
        yield child.pid
    finally:
        await child.kill_and_wait()
        assert child.popen.stdout is not None
        child.popen.stdout.close()


async def there(path: Path) -> None:
    await eventually(path.exists, deadline=20)


async def hybrid(length: Length) -> dict[str, Any]:
    async with two({"app": RAW}, start=False) as t:
        sides = {"host": t.host, "viewer": t.viewer}
        for name, side in sides.items():
            side.module = "tests.kit.relay.mode"
            side.words = [name, str(side.base / "mode"), *side.words]
        await t.viewer.start()
        await t.host.start()
        await t.up()
        code, _ = await t.viewer.output("app", "true")
        assert code == 0
        sound = t.viewer.paths.runtime.parent / "pulse/native"
        vsock = t.host.paths.sandbox("app") / "vsock/vm.vsock"
        second = t.host.base / "hop"
        fork = "mode=600,fork"
        socat = ("socat", f"UNIX-LISTEN:{vsock}_{SOCAT_PORT},{fork}")
        places = (f"unix:{sound}", f"unix:{vsock}_{DIRECT_PORT}")
        async with (
            running(sys.executable, "-c", SINK, str(1 << 16), *places),
            running(*socat, f"UNIX-CONNECT:{second}") as near,
            running(
                *("socat", f"UNIX-LISTEN:{second},{fork}", f"UNIX-CONNECT:{sound}")
            ) as far,
        ):
            for path in (sound, second, Path(f"{vsock}_{SOCAT_PORT}")):
                await there(path)

            async def client(cid: int, port: int, words: tuple[str, ...]) -> bytes:
                python = ("python3", "-c", CLIENT)
                argv = (*python, str(cid), str(port), str(LARGEST), *words)
                code, said = await t.viewer.output("app", *argv)
                assert code == 0, said.decode()
                return said

            async def order(side: str, mode: str) -> None:
                await trio.Path(sides[side].base / "mode").write_text(mode)

            def cpu(peer: str) -> float:
                # socat has a process for each connection, which has ended by now.
                if peer == SOCAT:
                    return sum(map(socat_time, (near, far)))
                ours = {**t.host.processes(), **t.viewer.processes()}
                return sum(map(pump_time, ours))

            words = amounts(quick=length.quick, hybrid=True)
            values = await measure(client, order, 2, words, length, cpu)
            auto = {
                name: taken((side.base / "mode.took").read_text())
                for name, side in sides.items()
            }
            return {"values": values, "auto": auto}


# -- AF_VSOCK: three machines ---------------------------------------------------------


async def vsock(length: Length, *, kernel: ImageSpec | None = None) -> dict[str, Any]:
    async with lab(kernel) as made:
        host, viewer, app = (
            Guest("host", HOST),
            Guest("viewer", VIEWER),
            Guest("app", APP),
        )
        await made.connect(host, viewer, app, group="g1")
        async with trio.open_nursery() as nursery:
            for guest in made.guests:
                nursery.start_soon(made.boot, guest)
        await _brokers(host, viewer)
        sound = "/run/user/vit/pulse/native"
        sink = f"{PIECES} unix:{sound} vsock:{DIRECT_PORT}"
        await _background(viewer, f"python3 -c {shlex.quote(SINK)} {sink}")
        await until_there(viewer, f"test -S {sound}")
        few = f"socat -b {PIECES}"
        listen = f"VSOCK-LISTEN:{SOCAT_PORT},fork"
        await _background(viewer, f"{few} {listen} UNIX-CONNECT:{sound}")
        there = f"VSOCK-CONNECT:{VIEWER}:{SOCAT_PORT}"
        await _background(host, f"{few} {listen} {there}")
        await app.write("/tmp/client.py", CLIENT)

        async def client(cid: int, port: int, words: tuple[str, ...]) -> bytes:
            line = f"{cid} {port} {PIECES} {' '.join(words)}"
            said = await app.run(f"python3 /tmp/client.py {line}", deadline=300)
            return said.encode()

        async def order(side: str, mode: str) -> None:
            guest = host if side == "host" else viewer
            await guest.run(f"echo {mode} > {ORDER}")

        words = amounts(quick=length.quick, hybrid=False)
        values = await measure(client, order, HOST, words, length)
        auto = {g.name: taken(await g.run(f"cat {ORDER}.took")) for g in (host, viewer)}
        release = (await host.run("uname -r")).strip()
        return {"values": values, "auto": auto, "kernel": release}


async def _background(guest: Guest, command: str) -> None:
    await guest.run(f"setsid {command} >/tmp/out 2>&1 &")


async def _brokers(host: Guest, viewer: Guest) -> None:
    peer = f'[launch]\nkind = "external"\n[peer]\ncid = {APP}\n'
    pieces = f"pieces = {PIECES}\n"
    at_host = await set_up(
        host, f'connect = "vsock:{VIEWER}:6499"\n{pieces}', FOREIGN + peer
    )
    at_viewer = await set_up(
        viewer, f'listen = "vsock:any:6499"\npeer_cid = {HOST}\n{pieces}', FOREIGN
    )
    await pin(host, PinnedPeer("screen", Role.VIEWER, at_viewer))
    await pin(viewer, PinnedPeer("desk", Role.HOST, at_host))
    for guest in (viewer, host):
        await guest.write(BROKER, Path(relay_mode.__file__).read_text())
        words = f"PYTHONPATH=/srv setsid python3 {BROKER} {guest.name} {ORDER}"
        await guest.run(
            f"{words} >/tmp/broker.log 2>&1 &",
            env=SCREEN if guest is viewer else {},
        )
        await until_there(guest, "grep ready /tmp/broker.log")
    await _background(host, f"{CTL} lease acquire app --cid {APP}")
    await until_there(host, f"{CTL} status --json | grep -q '\"leases\": *1'")


WAYS: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
    "hybrid vsock": hybrid,
    "AF_VSOCK, Debian 12": vsock,
    "AF_VSOCK, Debian 13": partial(vsock, kernel=ImageSpec()),
}
