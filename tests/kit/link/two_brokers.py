"""Two brokers on one machine: a host and a viewer, each with a separate home.

``async with two()`` gives both, paired, on a UNIX socket between them; the
viewer has a headless sway, the host starts real machines.
"""

from __future__ import annotations

import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

from broker.cli.link.pairing.pinned import pin
from broker.cli.run.start import ensure_broker
from broker.core.errors import VitrailError
from broker.core.paths import find_paths
from broker.helpers.process.spawn import spawn
from broker.net.link.keys import PinnedPeer
from broker.net.link.wire_types import Role
from broker.net.link_service.key_store import LinkStore
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.wayland.compositor import desktop, short_directory
from tests.kit.world import World, _all_gone, processes, record, the_image


@dataclass
class Side(World):
    """One of the two brokers."""

    module: str = ""
    words: list[str] = field(default_factory=list)

    async def start(self):
        assert await ensure_broker(
            self.paths, environ=self.environ, module=self.module, words=self.words
        )

    async def link(self):
        return (await self.status()).link

    async def wait_link(self, state="up", deadline=60):
        async def look():
            link = await self.link()
            return link if link.state == state else None

        return await eventually(look, deadline=deadline)

    async def kill(self):
        """As the kernel's memory killer would."""
        pid = await self.broker_pid()
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        await trio.lowlevel.wait_readable(pidfd)
        os.close(pidfd)


@dataclass
class Two:
    host: Side
    viewer: Side
    socket: object
    transport: Transport | None = None

    async def up(self):
        """Wait until both ends say that the link is up."""
        await self.host.wait_link()
        await self.viewer.wait_link()


def make_side(base, comp, role, words):
    """A broker's directories and environment, with a record directory."""
    environ = {
        **os.environ,
        "XDG_RUNTIME_DIR": str(base / "run"),
        "XDG_STATE_HOME": str(base / "state"),
        "XDG_CONFIG_HOME": str(base / "config"),
        "XDG_CONFIG_DIRS": str(base / "none"),
        "XDG_CACHE_HOME": str(find_paths().cache.parent),
    }
    environ.pop("WAYLAND_DISPLAY", None)
    if role == "viewer" and comp is not None:
        environ["WAYLAND_DISPLAY"] = str(comp.display)
    (base / "run").mkdir(mode=0o700, parents=True)
    paths = find_paths(environ)
    module = f"broker.programs.{role}"
    return Side(base, comp, environ, paths, module=module, words=words)


def pair(host, viewer):
    """Pin each one's key at the other, as 'brokerctl pair' does."""
    at_host, at_viewer = LinkStore(host.paths), LinkStore(viewer.paths)
    pin(at_host, PinnedPeer("screen", Role.VIEWER, at_viewer.identity().public))
    pin(at_viewer, PinnedPeer("desk", Role.HOST, at_host.identity().public))


class Transport:
    """A transport for the link, like a VMM's process: socat between two sockets."""

    def __init__(self, near, far):
        self._words = [
            "socat",
            "-t60",
            f"UNIX-LISTEN:{near},fork",
            f"UNIX-CONNECT:{far}",
        ]
        self._near = near
        self._child = None

    async def start(self):
        self._child = spawn(self._words)

        async def listens():
            return takes_connections(self._near)

        await eventually(listens)

    async def kill(self):
        """All of it at once, with every stream of the link."""
        # One process for each connection, in a separate process group.
        with suppress(ProcessLookupError):  # it was killed before
            os.killpg(self._child.pid, signal.SIGKILL)
        await self._child.wait()
        self._near.unlink(missing_ok=True)


@asynccontextmanager
async def transport(near, far):
    """The link goes through a separate process, which can be killed."""
    made = Transport(near, far)
    await made.start()
    try:
        yield made
    finally:
        with trio.CancelScope(shield=True):
            await made.kill()


@asynccontextmanager
async def two(records=None, *, start=True, image=True, paired=True, carried=False):
    """Host and viewer; ``records`` maps names to texts, for both.

    ``carried``: the link goes through a process (``Transport``).
    """
    if image:
        await the_image()
    async with desktop() as comp, AsyncExitStack() as stack:
        with short_directory() as base:
            path, near = base / "link", base / "near"
            dialled = near if carried else path
            host = make_side(base / "h", comp, "host", ["--connect", f"unix:{dialled}"])
            viewer = make_side(base / "v", comp, "viewer", ["--listen", f"unix:{path}"])
            for name, text in (records or {"app": record()}).items():
                host.write_record(name, text)
                viewer.write_record(name, text)
            if paired:
                pair(host, viewer)
            made = Two(host, viewer, path)
            if carried:
                made.transport = await stack.enter_async_context(transport(near, path))
            try:
                if start:
                    await viewer.start()
                    await host.start()
                    await made.up()
                yield made
                for side in (host, viewer):
                    with suppress(VitrailError):
                        await side.shutdown()
                await _all_gone(base)
                for side in (host, viewer):
                    assert not list((side.paths.runtime / "sandboxes").glob("*"))
            finally:
                for pid in processes(base):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                for side in (host, viewer):
                    log = side.paths.state / "broker.log"
                    if log.exists():
                        print(f"{side.module}:\n" + log.read_text())
