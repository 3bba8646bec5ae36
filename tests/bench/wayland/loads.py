"""What clients do in the benchmark: wait, animate, play, scroll, be resized."""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass
from pathlib import Path

from tests.kit.wayland.client import Client, Window, memfd


@dataclass
class Shown:
    """How an animation went.  ``late`` are frames shown after their time."""

    fps: float
    late: int
    frames: int


def pings(path: Path, rounds: int) -> list[float]:
    """Round trips of wl_display.sync, microseconds."""
    took = []
    with Client(path).start() as client:
        for _ in range(rounds):
            start = time.perf_counter()
            client.roundtrip()
            took.append((time.perf_counter() - start) * 1e6)
            client.events.clear()
    return took


class _Swap:
    """Two buffers in one pool whose bytes the client changes, as toolkits do."""

    def __init__(self, client: Window, width: int, height: int) -> None:
        self.client, self.width, self.height = client, width, height
        self.size = width * height * 4
        fd = memfd(self.size * 2)
        self.map = mmap.mmap(fd, self.size * 2)
        pool = client.make(
            client.shm, "create_pool", "wl_shm_pool", None, self.size * 2, fds=[fd]
        )
        os.close(fd)
        self.buffers = [
            client.make(pool, "create_buffer", "wl_buffer", None, self.size * n, width, height, width * 4, 1)
            for n in (0, 1)
        ]  # fmt: skip
        self.turn = 0

    def draw(self, rows: int) -> None:
        """Change ``rows`` rows of the next buffer; attach it."""
        self.turn ^= 1
        stride, start = self.width * 4, self.size * self.turn
        data = os.urandom(1024) * (stride * rows // 1024 + 1)
        self.map[start : start + stride * rows] = data[: stride * rows]
        self.client.send(self.surface, "attach", self.buffers[self.turn], 0, 0)
        self.client.send(self.surface, "damage_buffer", 0, 0, self.width, rows)

    surface = 0


def animation(
    path: Path, seconds: float, size: tuple[int, int], rows: int = 0
) -> Shown:
    """Draw at every frame callback, ``rows`` new rows each (0: all)."""
    with Window(path).start() as client:
        surface, _, _ = client.show(*size, 0xFF00FF00)
        swap = _Swap(client, *size)
        swap.surface = surface
        count, start = 0, time.monotonic()
        while time.monotonic() - start < seconds:
            swap.draw(rows or size[1])
            client.shown(surface)
            client.events.clear()
            count += 1
        return Shown(count / (time.monotonic() - start), 0, count)


def video(path: Path, seconds: float, size: tuple[int, int] = (1280, 720)) -> Shown:
    """A picture every 1/30 s; one that is shown a whole interval late is late."""
    interval = 1 / 30
    with Window(path).start() as client:
        surface, _, _ = client.show(*size, 0xFF00FF00)
        swap = _Swap(client, *size)
        swap.surface = surface
        start, count, late = time.monotonic(), 0, 0
        while (now := time.monotonic()) - start < seconds:
            due = start + count * interval
            if now < due:
                time.sleep(due - now)
            swap.draw(size[1])
            client.shown(surface)
            client.events.clear()
            count += 1
            late += time.monotonic() - due > 2 * interval
        return Shown(count / (time.monotonic() - start), late, count)


def resize(path: Path, seconds: float) -> Shown:
    """Another size at every frame callback, as while a person drags an edge."""
    with Window(path).start() as client:
        surface, xdg, _ = client.show(400, 300, 0xFF00FF00)
        count, start = 0, time.monotonic()
        while time.monotonic() - start < seconds:
            w, h = 400 + count % 100 * 4, 300 + count % 100 * 3
            client.send(xdg, "set_window_geometry", 0, 0, w, h)
            buffer = client.paint(surface, w, h, 0xFF00FF00)
            client.shown(surface)
            client.send(buffer, "destroy")
            client.events.clear()
            count += 1
        return Shown(count / (time.monotonic() - start), 0, count)
