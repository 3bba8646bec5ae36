"""The peers between a client and the compositor, each in separate processes."""

from __future__ import annotations

import os
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from broker.cli.headless_sway import HeadlessCompositor
from broker.core.names import SandboxName
from broker.helpers.process.spawn import DEVNULL, Child, spawn
from broker.viewer.workers.pool import WAYLAND_SOCKET
from broker.viewer.workers.process import Worker
from tests.kit.eventually import eventually
from tests.kit.workers import open_workers

ROOT = Path(__file__).resolve().parents[3]
_FILTER = "tests.kit.wayland.filter_process"
# waypipe's server leaves its command when it is ended.
_ALL_ENDS = (
    "bwrap", "--dev-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--die-with-parent", "--",
)  # fmt: skip
_SCHED = 2
"""CPUCLOCK_SCHED of the kernel: nanoseconds of all threads, past ones too."""
_WAYPIPE = ("waypipe", "--no-gpu", "--compress", "none", "--socket")


class Process(Protocol):
    """Something with a process id; its children count with it."""

    @property
    def pid(self) -> int: ...


@dataclass(frozen=True)
class Half:
    """A process of a worker: its keeper, or the jailed half."""

    pid: int


@dataclass(frozen=True)
class Peer:
    """``path`` is where clients connect; ``children`` are the processes between."""

    name: str
    path: Path
    children: tuple[Process, ...]

    def cpu(self) -> float:
        """CPU seconds so far of all processes between, threads and forks too."""
        return sum(cpu_of(child.pid) for child in self.children)


def cpu_of(pid: int) -> float:
    """CPU seconds of a process and of its descendants so far.

    By the process's own clock (clock_getcpuclockid(3)): what proc(5) tells is
    counted by whom each tick meets, and who wakes for a tenth of one, with the
    screen's frames, is met too often or too seldom.
    """
    try:
        total = time.clock_gettime(~pid << 3 | _SCHED)
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    # With the time of children that have ended.
    total += sum(int(fields[i]) for i in (13, 14)) / os.sysconf("SC_CLK_TCK")
    return total + sum(cpu_of(int(child)) for child in below)


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(p for child in below for p in family(int(child)))]


def memory_of(pid: int) -> int:
    """Private memory of a process, KiB."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has ended, and its parent has not looked yet
    lines = [line.split() for line in rollup.splitlines()]
    return sum(int(f[1]) for f in lines if f[0] in {"Private_Clean:", "Private_Dirty:"})


async def _there(path: Path) -> None:
    async def look() -> bool:
        return path.is_socket()

    await eventually(look)


async def _filter(
    comp: HeadlessCompositor, name: str, *more: str
) -> tuple[Path, Child]:
    path = comp.display.with_name(name)
    child = spawn(
        [
            sys.executable,
            "-m",
            _FILTER,
            "--sandbox",
            "bench",
            "--listen",
            str(path),
            *more,
        ],
        env={**comp.environment, "PYTHONPATH": str(ROOT)},
        stderr=DEVNULL,
    )
    await _there(path)
    return path, child


@asynccontextmanager
async def filter_before(comp: HeadlessCompositor, name: str):
    """A separate filter before a compositor: its socket, its process."""
    path, child = await _filter(comp, name)
    try:
        yield path, child
    finally:
        with trio.CancelScope(shield=True):
            await child.stop()


async def _waypipe(
    comp: HeadlessCompositor, name: str, behind: Path
) -> tuple[Path, list[Child]]:
    wire = comp.display.with_name(f"{name}.wire")
    viewer = spawn(
        [*_WAYPIPE, str(wire), "client"],
        env={**comp.environment, "WAYLAND_DISPLAY": str(behind)},
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    await _there(wire)
    path, server = await _waypipe_server(comp, name, wire)
    return path, [viewer, server]


async def _waypipe_server(
    comp: HeadlessCompositor, name: str, wire: Path
) -> tuple[Path, Child]:
    path = comp.display.with_name(name)
    server = spawn(
        [
            *_ALL_ENDS,
            *_WAYPIPE,
            str(wire),
            "--display",
            str(path),
            "server",
            "--",
            # waypipe leaves its program when it is ended itself.
            *("setpriv", "--pdeathsig", "KILL", "--", "sleep", "100000"),
        ],
        env={**comp.environment, "WAYLAND_DISPLAY": "none"},
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    await _there(path)
    return path, server


@asynccontextmanager
async def own_end(comp: HeadlessCompositor):
    """What a sandbox has by default: waypipe's server, our end of its wire, the filter."""
    children: list[Child] = []
    try:
        wire, decoding = await _filter(comp, "b-own.wire", "--waypipe")
        children.append(decoding)
        path, server = await _waypipe_server(comp, "b-own", wire)
        children.append(server)
        yield Peer("waypipe, our end", path, (decoding, server))
    finally:
        with trio.CancelScope(shield=True):
            for child in reversed(children):
                await child.stop()


@asynccontextmanager
async def all_peers(comp: HeadlessCompositor):
    """direct, filter, jailed worker, waypipe, waypipe with filter, all running."""
    children: list[Child] = []
    place = comp.display.with_name("b-worker")
    place.mkdir(mode=0o700)
    async with open_workers() as workers, trio.open_nursery() as nursery:
        worker = await workers.open_worker(SandboxName("bench"), place, comp.display)
        nursery.start_soon(_hear, worker)
        jailed = place / WAYLAND_SOCKET
        # The jailed half is the fork server's child, not the keeper's.
        halves = (Half(worker.keeper_pid), Half(worker.inner_pid))
        async with _others(comp, children) as peers:
            direct, *rest = peers
            yield [direct, rest[0], Peer("worker", jailed, halves), *rest[1:]]
        nursery.cancel_scope.cancel()


async def _hear(worker: Worker) -> None:
    async for _ in worker.messages:
        pass


@asynccontextmanager
async def _others(comp: HeadlessCompositor, children: list[Child]):
    try:
        front, core = await _filter(comp, "b-filter")
        children.append(core)
        inner, second = await _filter(comp, "b-inner")
        children.append(second)
        plain, pair = await _waypipe(comp, "b-waypipe", comp.display)
        children += pair
        both, other = await _waypipe(comp, "b-both", inner)
        children += other
        yield [
            Peer("direct", comp.display, ()),
            Peer("filter", front, (core,)),
            Peer("waypipe", plain, tuple(pair)),
            Peer("waypipe+filter", both, (second, *other)),
        ]
    finally:
        with trio.CancelScope(shield=True):
            for child in reversed(children):
                await child.stop()
