"""A real compositor, a filter, and our end of waypipe's wire before both.

Programs are started through a real ``waypipe server``, as in a sandbox.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from broker.cli.headless_sway import HeadlessCompositor
from broker.core.streams.wayland_rules import WindowRules
from broker.helpers.compositor_connection import connect_compositor
from broker.helpers.process.spawn import DEVNULL, Child, spawn
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.worker import readiness
from broker.jail.worker.wayland.waypipe_connection import StreamConnection
from broker.jail.worker.wayland.waypipe_memory import ArenaFile, StreamMachine
from tests.kit.accept_loop import serve
from tests.kit.eventually import eventually
from tests.kit.listening import can_be_connected
from tests.kit.vm.newer_suite import newer
from tests.kit.vm.suite_root import inside, suite_root
from tests.kit.wayland.compositor import desktop
from tests.kit.wayland.service import WaylandService, serve_client
from tests.kit.wayland.stand import CONFIG, FRAME, SIZE, kill_children

SERVER = ("waypipe", "--no-gpu", "--compress", "none")
# waypipe's server leaves its command when it is ended.
ALONE = (
    "bwrap", "--dev-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "--die-with-parent", "--",
)  # fmt: skip
SUITES = ("", "trixie", "sid")
"""waypipe 0.8.4, 0.9.2 and the one in Rust; "" is this machine's."""


class Wire:
    """``path`` takes waypipe streams; ``connections`` are those so far."""

    def __init__(self, comp: HeadlessCompositor, path: str) -> None:
        self.comp, self.path = comp, path
        self.machine = StreamMachine()
        self.arena = -1
        """Descriptor of the sandbox's arena; -1: it has none."""
        self.connections: list[StreamConnection] = []
        self.ends: list[Exception] = []
        self.children: list[Child] = []

    def run(
        self, *argv: str, server: Sequence[str] = SERVER, output=DEVNULL, **env: str
    ) -> Child:
        """Start a program with a separate waypipe server."""
        child = spawn(
            [*server, "--socket", self.path, "server", "--", *argv],
            env={**self.comp.environment, "GDK_BACKEND": "wayland", **env},
            stdout=output,
            stderr=DEVNULL,
        )
        self.children.append(child)
        return child

    def stream(self) -> socket.socket:
        """A stream of the test's own, as a hostile sandbox would open it."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.path)
        sock.settimeout(60)
        return sock


@asynccontextmanager
async def server_of(suite: str, streams: Path):
    """The waypipe server of a suite ("" is this machine's), for programs of here.

    Gives the display that they connect to; each connection is a stream to
    ``streams``.
    """
    display = streams.with_name(f"{streams.name}.{suite or 'own'}")
    beginning: Sequence[str] = ALONE
    if suite:
        root = await trio.to_thread.run_sync(suite_root, suite)
        beginning = inside(root, str(streams.parent))
    child = spawn(
        [*beginning, *SERVER, "--socket", streams, "--display", display,
         "server", "--", "sleep", "100000"],
        env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(streams.parent)},
        stdout=DEVNULL,
        stderr=DEVNULL,
    )  # fmt: skip

    try:
        await eventually(lambda: can_be_connected(display))
        yield display
    finally:
        with trio.CancelScope(shield=True):
            await child.stop()
        display.unlink(missing_ok=True)


@asynccontextmanager
async def wire(
    rules: WindowRules | None = None,
    *,
    size: tuple[int, int] = SIZE,
    config: str = CONFIG,
    kind: str = "",
):
    """Start everything; afterwards nothing is left open or counted.

    ``kind`` is a compositor of a newer Debian, in the place of this one's sway.
    """
    rules = rules or WindowRules("work", color=FRAME)
    screen = newer(kind, config) if kind else desktop(size=size, config_extra=config)
    readiness.prepare()  # lives as long as this run of trio
    async with screen as comp:
        readiness.prepare()  # it keeps a descriptor of its own
        before = set(os.listdir("/proc/self/fd"))
        path = str(comp.display.with_name("waypipe"))
        it = Wire(comp, path)
        sandbox = Sandbox(rules.name)

        def make(*args, **options) -> StreamConnection:
            if it.arena >= 0:
                options["arena"] = ArenaFile(os.dup(it.arena))
            it.connections.append(StreamConnection(*args, **options))
            return it.connections[-1]

        service = WaylandService(
            rules,
            sandbox,
            it.machine,
            partial(connect_compositor, comp.display),
            it.ends.append,
            make=make,
        )
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    serve, listener, partial(serve_client, service=service)
                )
                try:
                    yield it
                finally:
                    kill_children(it.children)
                    nursery.cancel_scope.cancel()
        assert not any(sandbox.totals.values())
        assert it.machine.touched == 0
        assert set(os.listdir("/proc/self/fd")) <= before
