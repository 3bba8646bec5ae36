"""Recorded sessions: the bytes of both sides, for replay.

A filter's answers depend only on its input and the order of that, so the
compositor's recorded bytes name the ids that the same filter gives out again.
One record: side (c or s), number of descriptors, length, bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from broker.core.streams.wayland_rules import WindowRules
from broker.jail.wayland.filter import WaylandFilter
from broker.jail.wayland.sandbox import Sandbox
from tests.kit.wayland.machine import FakeMachine

_HEAD = struct.Struct("<cBI")
NOT_SHOWN = frozenset(
    {
        "zwp_tablet_manager_v2",
        "zxdg_exporter_v1",
        "zxdg_importer_v1",
        "org_kde_kwin_server_decoration_manager",
    }
)
"""Globals of the compositor that no application had when these were recorded: with them
the names of the others would be different ones."""
RULES = WindowRules("work", deny=NOT_SHOWN)


def pack(chunks: list[tuple[str, bytes, int]]) -> bytes:
    """Chunks as a compressed file."""
    parts = [_HEAD.pack(s.encode(), n, len(d)) + d for s, d, n in chunks]
    return zlib.compress(b"".join(parts), 9)


def unpack(data: bytes) -> Iterator[tuple[str, bytes, int]]:
    """The chunks of such a file."""
    data = zlib.decompress(data)
    pos = 0
    while pos < len(data):
        side, fds, size = _HEAD.unpack_from(data, pos)
        pos += _HEAD.size
        yield side.decode(), data[pos : pos + size], fds
        pos += size


def load(path: Path) -> list[tuple[str, bytes, int]]:
    return list(unpack(path.read_bytes()))


def drain(core: WaylandFilter) -> None:
    """Send everything nowhere, as a shell with endless sockets would."""
    for queue in (core.up, core.down):
        if queue.fd_count:
            for fd in queue.drain_fds():
                core.machine.close(fd)
        else:
            queue.data.clear()


def crop_by_viewports(core: WaylandFilter) -> None:
    """Make a filter crop as where the compositor has a GPU (scene/buffer_part.py).

    Sessions are recorded and replayed so, on a sway that draws with the CPU: parts of
    buffers depend on when the compositor releases them.
    """
    core.globals.host[1 << 31] = ("zwp_linux_dmabuf_v1", 3)


def without_time(core: WaylandFilter) -> None:
    """Make a filter ask the same whenever it is asked: a session has no times."""
    core.restless_seconds = 0.0


def replay(chunks: list[tuple[str, bytes, int]]) -> WaylandFilter:
    """Feed a session to a new filter; it must not fault."""
    machine = FakeMachine()
    core = WaylandFilter(RULES, Sandbox("work"), machine)
    crop_by_viewports(core)
    without_time(core)
    for side, data, fds in chunks:
        feed = core.from_client if side == "c" else core.from_server
        feed(data, [machine.fd() for _ in range(fds)] if fds else (), 0.0)
        drain(core)
        while core.paused:
            core.from_client(b"", [], 0.0)
            drain(core)
    return core
