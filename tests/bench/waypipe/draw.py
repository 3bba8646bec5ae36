"""A client that draws at every frame callback: the bench runs it through waypipe.

    python -m tests.bench.waypipe.draw KIND SECONDS

``all``: every byte of 1280x800 changes; ``comb``: one word in 32, the worst
case for spans: prints how many frames were shown, in how long, and p50 and p99
of the time from a frame's commit to the compositor's next answer, us.
``sync`` asks the compositor one thing after the other: prints p50 and p99, us;
``ping`` the same, a hundred times a second.  ``many`` opens ``CONNECTIONS``
that do nothing, and says so.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from contextlib import ExitStack

from tests.kit.wayland.client import Client, Window, memfd

WIDTH, HEIGHT = 1280, 800
SIZE = WIDTH * HEIGHT * 4
CONNECTIONS = 16


def pictures(kind: str) -> list[bytes]:
    """Two pictures, or four, that follow each other."""
    if kind == "all":
        return [bytes([shade]) * SIZE for shade in (40, 90, 140, 190)]
    out = []
    for shade in (40, 90, 140, 190):
        picture = bytearray(b"\x30" * SIZE)
        for byte in range(4):
            picture[byte::128] = bytes([shade]) * (SIZE // 128)
        out.append(bytes(picture))
    return out


def sync(display: str, seconds: float, rest: float) -> None:
    """Round trips of wl_display.sync, with a rest between them."""
    took = []
    with Client(display).start() as client:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            start = time.perf_counter()
            client.roundtrip()
            took.append((time.perf_counter() - start) * 1e6)
            client.events.clear()
            time.sleep(rest)
    print(*cuts(took))


def many(display: str, seconds: float) -> None:
    """Connections of applications that have begun, and nothing more."""
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(Client(display).start()).roundtrip()
        print(CONNECTIONS, flush=True)
        time.sleep(seconds)


def cuts(took: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    found = statistics.quantiles(took, n=100)
    return found[49], found[98]


def main() -> None:
    kind, seconds = sys.argv[1], float(sys.argv[2])
    display = os.path.join(os.environ["XDG_RUNTIME_DIR"], os.environ["WAYLAND_DISPLAY"])
    if kind == "many":
        many(display, seconds)
        return
    if kind in {"sync", "ping"}:
        sync(display, seconds, 0.01 if kind == "ping" else 0)
        return
    shown_of = pictures(kind)
    with Window(display).start() as client:
        surface, _, _ = client.show(64, 64, 0xFF00FF00)
        fds, buffers = [], []
        for _ in range(2):
            fd = memfd(SIZE)
            pool = client.make(
                client.shm, "create_pool", "wl_shm_pool", None, SIZE, fds=[fd]
            )
            buffers.append(
                client.make(
                    pool, "create_buffer", "wl_buffer", None,
                    0, WIDTH, HEIGHT, WIDTH * 4, 0,
                )
            )  # fmt: skip
            fds.append(fd)
        took = []
        frames, start = 0, time.monotonic()
        while time.monotonic() - start < seconds:
            os.pwrite(fds[frames % 2], shown_of[frames % 4], 0)
            client.send(surface, "attach", buffers[frames % 2], 0, 0)
            client.send(surface, "damage", 0, 0, WIDTH, HEIGHT)
            callback = client.make(surface, "frame", "wl_callback")
            began = time.perf_counter()
            client.send(surface, "commit")
            client.roundtrip()
            took.append((time.perf_counter() - began) * 1e6)
            client.wait(lambda e, mine=callback: e[0] == mine and e[2] == "done")
            client.events.clear()
            frames += 1
        print(frames, time.monotonic() - start, *cuts(took))


if __name__ == "__main__":
    main()
