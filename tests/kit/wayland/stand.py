"""A real compositor with a filter before it, for one test.

``async with stand() as it`` gives a headless sway and a filtered socket.
Clients are blocking: run them in a thread with ``it.client(function)``, which
hands them a started ``Window``; they may call ``it.look()`` for a screenshot.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import trio
from PIL import Image

from broker.cli.headless_sway import HeadlessCompositor
from broker.core.names import SandboxName
from broker.core.streams.wayland_rules import WindowRules
from broker.helpers.compositor_connection import connect_compositor
from broker.helpers.process.spawn import DEVNULL, Child, spawn
from broker.ipc import worker as messages
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.worker import readiness
from broker.jail.worker.wayland.connection import (
    WaylandConnection,
)
from broker.jail.worker.wayland.files_and_pipes import RealMachine
from broker.jail.worker.wayland.waypipe_connection import StreamConnection
from broker.jail.worker.wayland.waypipe_memory import StreamMachine
from broker.viewer.workers.pool import WAYLAND_SOCKET, Workers
from broker.viewer.workers.process import Worker
from tests.kit.accept_loop import serve
from tests.kit.eventually import ready
from tests.kit.listening import takes_connections
from tests.kit.vm import newer_suite
from tests.kit.wayland.client import Window
from tests.kit.wayland.compositor import desktop, pixels, windows
from tests.kit.wayland.input import Pointer
from tests.kit.wayland.service import WaylandService, serve_client

FRAME = 0xD01010
GUEST = 0x00FF00
NEWEST_KWIN = "newest-kwin"
"""KWin 6, of a suite newer than Debian 13."""
SIZE = (1280, 800)
BORDER = 4
TRANSACTION = 0.2
"""Seconds that sway waits for a client's acknowledgement before it shows a change."""
CONFIG = "default_border none\ndefault_floating_border none\nfor_window [title=.*] floating enable\n"


async def unchanged(
    comp: HeadlessCompositor, seconds: float = 1.5 * TRANSACTION
) -> Image.Image:
    """The screen once it has been the same for so long, and at least thrice."""
    same, last, since = 0, await pixels(comp), trio.current_time()
    with trio.fail_after(60):
        while same < 3 or trio.current_time() < since + seconds:
            await trio.sleep(0.03)
            image = await pixels(comp)
            same += 1
            if image.tobytes() != last.tobytes():
                same, last, since = 0, image, trio.current_time()
    return last


def kill_children(children: list[Child]) -> None:
    """End those that a failed test left: they must cause no warnings in the next one."""
    for child in children:
        if child.returncode is None:
            child.kill_now()


class Stand:
    """``path`` is the filtered socket, ``comp`` its compositor."""

    def __init__(
        self, comp: HeadlessCompositor, path: Path, service: WaylandService
    ) -> None:
        self.comp, self.path, self.service = comp, path, service
        self.wire = path
        """Where waypipe servers connect to; for the same sandbox."""
        self.sandbox = service.sandbox
        self.ends: list[Exception] = []
        self.children: list[Child] = []
        self.spots: list[tuple[int, int]] = []
        """Where a pointer's image may cover part of a frame."""
        self.scale = 1.0

    async def client(self, function: Callable[[Window], Any], **start: Any) -> Any:
        """Run a hostile or honest client in a thread; it ends with the call."""

        def inside() -> Any:
            with Window(self.path).start(**start) as client:
                return function(client)

        return await trio.to_thread.run_sync(inside)

    def look(self) -> Image.Image:
        """A screenshot, from a client's thread."""
        return trio.from_thread.run(pixels, self.comp)

    def settled(self) -> Image.Image:
        """A screenshot that has not changed for a while, and at least thrice.

        sway shows a window's first picture and each move when the client has
        acknowledged the configure event, or 200 ms later when it has not, as a
        client that waits here cannot; no event says when.
        """
        return trio.from_thread.run(unchanged, self.comp)

    def tree(self) -> list[dict[str, Any]]:
        """sway's windows, from a client's thread."""
        return windows(trio.from_thread.run(self.comp.tree))

    def order(self, text: str) -> None:
        """A sway command, from a client's thread."""
        trio.from_thread.run(self.comp.command, text)

    def run(self, *argv: str, **env: str) -> Child:
        """Start a program on the filtered socket."""
        child = spawn(
            argv,
            env={
                **self.comp.environment,
                "GDK_BACKEND": "wayland",
                **env,
                "WAYLAND_DISPLAY": str(self.path),
            },
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        self.children.append(child)
        return child


@asynccontextmanager
async def stand(
    rules: WindowRules | None = None,
    *,
    size: tuple[int, int] = SIZE,
    config: str = CONFIG,
):
    """Start both; afterwards nothing of the filter's is left open."""
    readiness.prepare()  # lives as long as this run of trio
    async with desktop(size=size, config_extra=config) as comp:
        before = set(os.listdir("/proc/self/fd"))
        async with filtered(comp, rules) as it:
            yield it
        assert set(os.listdir("/proc/self/fd")) <= before


@asynccontextmanager
async def filtered(
    comp: HeadlessCompositor,
    rules: WindowRules | None = None,
    *,
    behind: Path | None = None,
    make: Callable[..., WaylandConnection] = WaylandConnection,
):
    """A filtered socket before a compositor that runs.

    ``comp`` takes the pictures; ``behind`` is the display that windows go to
    when that is another one, shown on it.
    """
    rules = rules or WindowRules("work", color=FRAME)
    path = comp.display.with_name(f"filtered-{rules.name}")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    ends: list[Exception] = []
    machine = RealMachine()
    sandbox = Sandbox(rules.name)
    service = WaylandService(
        rules,
        sandbox,
        machine,
        lambda: connect_compositor(behind or comp.display),
        ends.append,
        make=make,
    )
    it = Stand(comp, path, service)
    it.ends = ends
    streams = StreamMachine()
    it.wire = path.with_name(f"{path.name}.streams")
    wire = socket.socket(socket.AF_UNIX)
    wire.bind(str(it.wire))
    wire.listen()
    decoded = replace(service, machine=streams, make=StreamConnection)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, listener, partial(serve_client, service=service))
        nursery.start_soon(serve, wire, partial(serve_client, service=decoded))
        try:
            yield it
        finally:
            kill_children(it.children)
            nursery.cancel_scope.cancel()
            listener.close()
            wire.close()
    assert not any(sandbox.totals.values())
    assert machine.copied == 0
    assert streams.touched == 0


class JailedStand(Stand):
    """The filter is where it belongs: in the jailed worker of a sandbox."""

    def __init__(self, comp: HeadlessCompositor, path: Path, worker: Worker) -> None:
        self.comp, self.path, self.worker = comp, path, worker
        self.children = []
        self.said: list[messages.FromWorker] = []
        self.listener: Callable[[Any], Awaitable[None]] | None = None
        self.closing = False

    async def hear(self) -> None:
        async for message in self.worker.messages:
            self.said.append(message)
            if self.listener is not None:
                await self.listener(message)

    def closed(self) -> list[messages.WaylandClosed]:
        """Return its messages about ended connections."""
        return [m for m in self.said if isinstance(m, messages.WaylandClosed)]


@asynccontextmanager
async def jailed(
    comp: HeadlessCompositor, workers: Workers, rules: WindowRules | None = None
):
    """A worker's socket before a compositor that runs."""
    rules = rules or WindowRules("work", color=FRAME)
    place = comp.display.parent / f"jailed-{rules.name}"
    place.mkdir(mode=0o700)
    worker = await workers.open_worker(
        SandboxName(rules.name), place, comp.display, rules=rules
    )
    it = JailedStand(comp, place / WAYLAND_SOCKET, worker)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.hear)
        try:
            yield it
        finally:
            kill_children(it.children)
            for ended in it.closed():
                print(f"{rules.name}: {ended}")  # shown where the test fails
            it.closing = True
            await worker.close()
            nursery.cancel_scope.cancel()


class Nested:
    """A compositor that is shown on another one; ``display`` is its socket."""

    def __init__(self, outer: HeadlessCompositor, display: Path, child: Child) -> None:
        self.outer, self.display, self.child = outer, display, child
        self.mouse: Pointer | None = None
        """The person's, where a test has one."""
        self.environment = {**outer.environment, "WAYLAND_DISPLAY": str(display)}


def screen_for(kind: str):
    """A running sway for a nested compositor: KWin 6 needs a newer one than ours."""
    if kind == NEWEST_KWIN:
        return newer_suite.newer("sway", CONFIG, suite=newer_suite.NEWEST)
    return desktop(config_extra=CONFIG)


_KWIN = (
    "--socket", "nested", "--no-lockscreen", "--width", "1200", "--height", "760",
    "--no-global-shortcuts",
)  # fmt: skip


def _argv(kind: str, outer: Path, directory: Path) -> list[str]:
    if kind == NEWEST_KWIN:
        program = ("kwin_wayland", "--wayland-display", str(outer), *_KWIN)
        return newer_suite.argv(
            newer_suite.compositor_root(newer_suite.NEWEST), directory, *program
        )
    if kind == "weston":
        return [
            "weston", "--backend=wayland-backend.so", "--use-pixman", "--width=1200",
            "--height=760", "--socket=nested", "--no-config", "--idle-time=0",
        ]  # fmt: skip
    # KWin's file has capabilities that an ordinary user may not always gain;
    # a copy has none and needs none.
    copy = directory / "kwin_wayland"
    shutil.copyfile(shutil.which("kwin_wayland") or "", copy)
    copy.chmod(0o700)
    return [str(copy), "--wayland-display", str(outer), *_KWIN]


_NO_TITLE_BARS = """[General]
count=1
rules=1
[1]
Description=no title bars
noborder=true
noborderrule=2
"""


def _undecorated(directory: Path) -> str:
    """Settings with which KWin draws no title bars, nor has Qt draw them; their folder.

    Whether it has a theme for them is the machine's matter: plasma-framework brings one.
    """
    folder = directory / "kwin-settings"
    folder.mkdir(exist_ok=True)
    (folder / "kwinrulesrc").write_text(_NO_TITLE_BARS)
    return str(folder)


@asynccontextmanager
async def nested(comp: HeadlessCompositor, kind: str, **more: str):
    """Start weston or KWin as a window of a running sway, which takes the pictures.

    ``more`` goes into its environment.
    """
    directory = comp.display.parent
    argv = await trio.to_thread.run_sync(_argv, kind, comp.display, directory)
    if kind != "weston":
        more.setdefault("XDG_CONFIG_HOME", _undecorated(directory))
    child = spawn(
        argv,
        env={
            **comp.environment,
            **more,
            "KWIN_COMPOSE": "Q",
            "XDG_RUNTIME_DIR": str(directory),
        },
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    display = directory / "nested"
    try:

        async def shown() -> bool:
            return takes_connections(display) and bool(windows(await comp.tree()))

        await ready(child, shown)
        yield Nested(comp, display, child)
    finally:
        with trio.CancelScope(shield=True):
            await child.stop()
