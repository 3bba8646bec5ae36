"""Dropped frames of mpv, which counts them itself, told by its IPC socket.

The counts are those of mpv(1), "frame-drop-count" (pictures that were too late for
the output) and "decoder-frame-drop-count".  A film is played once: mpv begins to count
again where it starts from the beginning.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import trio

from broker.cli.headless_sway import HeadlessCompositor
from broker.helpers.process.spawn import DEVNULL, spawn
from tests.bench.wayland.firefox import FRAMES_A_SECOND, LEAD_SECONDS, Played
from tests.bench.wayland.peers import Peer
from tests.kit.eventually import NeverError, eventually

_COUNTS = ("frame-drop-count", "decoder-frame-drop-count")
_MOST = 65536


class _Ipc:
    """mpv's JSON IPC: a request and its answer, events between them left out."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._data = b""

    async def number(self, name: str) -> float:
        """Return a property; 0 where mpv has none yet."""
        request = {"command": ["get_property", name], "request_id": 1}
        await self._stream.send_all(json.dumps(request).encode() + b"\n")
        while True:
            answer = json.loads(await self._line())
            if answer.get("request_id") == 1 and "error" in answer:
                return float(answer.get("data") or 0)

    async def _line(self) -> bytes:
        while b"\n" not in self._data:
            got = await self._stream.receive_some(_MOST)
            if not got:
                raise RuntimeError("mpv ended")
            self._data += got
        line, self._data = self._data.split(b"\n", 1)
        return line

    async def dropped(self) -> int:
        """Return how many frames were not shown so far."""
        return int(sum([await self.number(name) for name in _COUNTS]))


async def play(
    comp: HeadlessCompositor, peer: Peer, place: Path, profile: Path, seconds: float
) -> Played | None:
    """Play the clip of ``place`` and count; None where it does not play."""
    ipc = profile / "ipc"
    child = spawn(
        ["mpv", "--no-config", "--vo=wlshm", "--hwdec=no", "--ao=null", "--really-quiet", f"--input-ipc-server={ipc}", str(place / "clip.webm")],
        env={**comp.environment, "HOME": str(place), "WAYLAND_DISPLAY": str(peer.path)},
        stdout=DEVNULL,
        stderr=DEVNULL,
    )  # fmt: skip
    try:
        await eventually(ipc.exists)
        async with await trio.open_unix_socket(str(ipc)) as stream:
            mpv = _Ipc(stream)

            async def started() -> bool:
                return await mpv.number("time-pos") >= LEAD_SECONDS

            await eventually(started, deadline=60)
            return await _count(mpv, peer, seconds)
    except (NeverError, OSError, RuntimeError):
        return None
    finally:
        await child.stop()


async def _count(mpv: _Ipc, peer: Peer, seconds: float) -> Played:
    first, at = await mpv.dropped(), await mpv.number("time-pos")
    began, cpu = time.monotonic(), peer.cpu()
    still, last, since = 0.0, at, began
    while (now := time.monotonic()) < began + seconds:
        await trio.sleep(0.1)
        position = await mpv.number("time-pos")
        if position > last:
            still, last, since = max(still, now - since), position, now
    due = round((last - at) * FRAMES_A_SECOND)
    lost = await mpv.dropped() - first
    took = time.monotonic() - began
    return Played(due, lost, took, (peer.cpu() - cpu) / took, still)
