"""A hostile machine beside an honest one, and a count of all that could leak.

``async with siege() as s`` boots both in a separate world.  The honest one
has a window with a shell in it, the hostile one only does what the test tells
it.  ``s.unharmed()`` around an attack counts before and after.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.kit.eventually import NeverError, eventually
from tests.kit.wayland.compositor import steady, wait_window, windows
from tests.kit.world import World, descriptors, record, world

# A header that waypipe accepts: version 16, no compression, no dmabuf.
HEADER = bytes.fromhex("84090100") + bytes(12)
MEMORY_GROWTH = 24 << 20
PICTURES = 6
"""Buffers and strips that a living window may have more at one time than another."""

# The prelude of every attack from inside a guest.
GUEST = """
import errno, os, resource, signal, socket, struct, sys, time
AGENT, DISPLAY = (2, 6500), (2, 6501)
HEADER = bytes.fromhex("84090100") + bytes(12)
def vsock(timeout=60):
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    return sock
def connected(address, timeout=60):
    sock = vsock(timeout)
    sock.connect(address)
    return sock
def end_of(sock):
    try:
        return "end" if sock.recv(100) == b"" else "bytes"
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return errno.errorcode[error.errno]
"""


@dataclass
class Siege:
    """Both machines, running."""

    world: World
    hostile: str
    victim: str
    _counter: itertools.count = field(default_factory=lambda: itertools.count(1))
    _since: int = 0
    """The newest event when ``unharmed`` began: earlier ones are another test's."""

    async def attack(self, code, deadline=120, *, check=True):
        """Run Python in the hostile guest, to its end; returns its output."""
        with trio.fail_after(deadline):
            status, said = await self.world.output(
                self.hostile, "python3", "-c", GUEST + code
            )
        if check:
            assert status == 0, said.decode()
        return said.decode().strip()

    async def answers(self, deadline=60):
        """Type into the victim's window until its shell has answered."""
        title = f"alive-{next(self._counter)}"

        async def typed():
            await self.world.comp.type_text(f" printf \\\\033]2\\;{title}\\\\007\n")
            with trio.move_on_after(4):
                return await wait_window(self.world.comp, title=title)
            return []

        await eventually(typed, deadline=deadline)

    async def keeps_answering(self, times):
        """Answer several times in a row, while something else continues."""
        for _ in range(times):
            await self.answers()

    def events(self, kind, **wanted):
        """Events of the hostile one since ``unharmed`` began."""
        found = self.world.events(kind, sandbox=self.hostile, **wanted)
        return [e for e in found if e["sequence"] > self._since]

    def refusals(self, text, **wanted):
        """Refused streams of the hostile one whose reason has this text in it."""
        found = self.events("stream.refused", **wanted)
        return [e for e in found if text in e.get("reason", "")]

    async def wait_refusal(self, text, deadline=60, **wanted):
        async def look():
            return self.refusals(text, **wanted)

        return (await eventually(look, deadline=deadline))[-1]

    @asynccontextmanager
    async def unharmed(self, *, deadline=60):
        """The victim answers before and after, and nothing is left over."""
        await self.answers()
        before = await calm(self.world)
        self._since = end_of_log(self.world)
        shown = window_ids(await self.world.comp.tree())
        resident = await memory(self.world)
        yield
        await settled(self.world, before, deadline=deadline)
        await self.answers()
        assert window_ids(await self.world.comp.tree()) == shown
        grown = await memory(self.world) - resident
        assert grown < MEMORY_GROWTH, f"the broker has {grown >> 20} MiB more"


def window_ids(tree):
    return sorted(node["id"] for node in windows(tree))


async def census(w: World):
    """Count the resources that could leak, as a flat table: {resource: number}."""
    status = await w.status()
    table = Counter({"tasks": status.tasks, "leases": len(status.leases)})
    for process in status.processes:
        who = f"{process.role} {process.sandbox}".strip()
        kinds = Counter()
        with suppress(OSError):
            kinds = descriptors(process.pid)
        for kind, number in kinds.items():
            if who == "pump" and kind == "pipe":
                continue  # it keeps some for the next stream; a limit bounds them
            table[f"{who}: {kind}"] += number
    for stream in status.streams:
        table[f"stream {stream.sandbox} {stream.service}"] += 1
    for words in w.processes().values():
        table[f"process {words.split()[0]} {_role(words)}"] += 1
    table.update(sockets(w.base))
    return table


async def calm(w: World):
    """The count once nothing is under way that it would count, too."""
    return await steady(lambda: census(w))


def _role(words):
    found = re.findall(r"broker\.[a-z_.]+|server|client", words)
    return found[0] if found else ""


def sockets(base: Path):
    """UNIX sockets with a name below ``base``, as the kernel lists them."""
    said = subprocess.run(
        ["ss", "-xaH"], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    names = [line.split()[4] for line in said.splitlines()]
    # Our own look at the control socket comes and goes.
    mine = [n for n in names if n.startswith(str(base)) and "control" not in n]
    return Counter(f"socket {name}" for name in mine)


async def settled(w: World, before, *, deadline=60):
    """Wait until all counts are as before; the failure lists the differences."""
    found = {}

    async def same():
        now = await census(w)
        found.clear()
        drawing = _pictures(before) & _pictures(now)
        for key in before.keys() | now.keys():
            bound = PICTURES if key in drawing else 0
            if abs(now[key] - before[key]) > bound:
                found[key] = (before[key], now[key])
        return not found

    try:
        await eventually(same, deadline=deadline)
    except NeverError:
        raise AssertionError(f"before and after differ: {found}") from None
    assert descriptors(await w.pid_of("pump"))["pipe"] <= 2 * 64 + 8


def _pictures(table):
    """Where the pictures of windows that are open are counted.

    A program that is resized or typed into changes its buffers, and does not go
    back to as many as it began with: only their order of size is to be held.
    """
    streams = [key.split() for key in table if key.startswith("stream ")]
    shown = [sandbox for _, sandbox, service in streams if "Display" in service]
    return {f"worker {sandbox}: /memfd" for sandbox in shown}


async def memory(w: World):
    """The broker's own memory in bytes (VmRSS)."""
    text = Path(f"/proc/{await w.broker_pid()}/status").read_text()
    return int(re.search(r"VmRSS:\s*(\d+)", text)[1]) << 10


@asynccontextmanager
async def siege(*, display="allow", **other):
    """Boot a hostile machine and a victim with a window."""
    records = {
        "hostile": record(display=display, colour="red"),
        "victim": record(colour="green"),
        **other,
    }
    async with world(records) as w:
        names = {}

        async def boot_hostile():
            last, _ = await w.run("hostile", "sleep", "100000", window=False)
            names["hostile"] = last.started.sandbox

        async def boot_victim():
            last, _ = await w.run("victim", "foot", "-T", "victim", "sh")
            names["victim"] = last.started.sandbox
            await wait_window(w.comp, title="victim")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(boot_hostile)
            nursery.start_soon(boot_victim)
        made = Siege(w, names["hostile"], names["victim"])
        if display == "allow":
            # Its worker has had a display stream then.
            await made.attack("connected(DISPLAY).send(HEADER)")
            await w.wait_event(
                "stream.closed", sandbox=made.hostile, service="vitrail.Display"
            )
        else:
            await made.attack("pass")
        yield made


def end_of_log(w: World):
    """The number of the newest event: later ones have a higher one."""
    return max((e["sequence"] for e in w.events()), default=0)


def ourselves():
    """This test as a process that may connect for a foreign machine."""
    return os.getpid()
