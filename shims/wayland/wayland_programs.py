"""Accepts programs at the Wayland socket; the command line."""

from __future__ import annotations

import argparse
import contextlib
import gc
import mmap
import os
import selectors
import socket
import sys
from typing import List, Optional, Set

from shims.wayland.arena_places import ArenaMemory
from shims.wayland.client_stream import ClientStream
from shims.wayland.gpu_memory import Gpu
from shims.wayland.ready_loop import ReadyLoop

STREAMS = 64
"""Programs at one time; the others wait in the socket's backlog."""


class WaylandServer:
    """All programs that are connected."""

    def __init__(
        self, display: str, path: str, memory: Optional[ArenaMemory], *, gpu: bool
    ) -> None:
        """Listen at ``path``, the socket whose connections the agent carries."""
        self.loop = ReadyLoop()
        self._gpu: Optional[Gpu] = None
        if gpu:
            try:
                self._gpu = Gpu(self.loop)
            except OSError as error:
                print(f"wayland: cannot use the GPU: {error}", file=sys.stderr)
        self._path, self._memory = path, memory
        self._streams: Set[ClientStream] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(0)
        self._listener.bind(display)
        self._listener.listen(STREAMS)
        self._watch()

    def close(self) -> None:
        """End all connections."""
        for stream in [*self._streams]:
            stream.close()
        self._listener.close()

    def _watch(self) -> None:
        events = selectors.EVENT_READ if len(self._streams) < STREAMS else 0
        self.loop.watch(self._listener.fileno(), events, self._accept)

    def _accept(self, _events: int) -> None:
        """Accept a program, with a stream to the host."""
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        client.settimeout(0)
        host = socket.socket(socket.AF_UNIX)
        try:
            host.connect(self._path)
        except OSError as error:
            print(f"wayland: {self._path}: {error.strerror}", file=sys.stderr)
            client.close()
            host.close()
            return
        host.settimeout(0)
        self._streams.add(
            ClientStream(self.loop, client, host, self._memory, self._gone, self._gpu)
        )
        self._watch()

    def _gone(self, stream: ClientStream) -> None:
        self._streams.discard(stream)
        self._watch()


def open_arena(fd: int, base: int) -> ArenaMemory:
    """Map the arena behind a descriptor.  Raises OSError."""
    size = os.lseek(fd, 0, os.SEEK_END)
    if not size:  # a device of memory (devdax) does not say
        (size,) = device_sizes(fd)
    return ArenaMemory(memoryview(mmap.mmap(fd, size)), base)


def device_sizes(fd: int) -> List[int]:
    """Return the size of a character device of memory, from sysfs.  Raises OSError."""
    number = os.fstat(fd).st_rdev
    place = f"/sys/dev/char/{os.major(number)}:{os.minor(number)}/size"
    with open(place, encoding="ascii") as file:
        return [int(file.read())]


def main(argv: List[str]) -> int:
    """Serve programs at the Wayland socket until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--display", required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--arena", type=int, default=-1)
    parser.add_argument("--base", type=int, default=0)
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args(argv)
    memory = None if options.arena < 0 else open_arena(options.arena, options.base)
    server = WaylandServer(options.display, options.socket, memory, gpu=options.gpu)

    def stop(_events: int) -> None:
        if not os.read(0, 4096):
            server.loop.stop()

    os.set_blocking(0, False)
    server.loop.watch(0, selectors.EVENT_READ, stop)
    gc.freeze()
    with contextlib.suppress(KeyboardInterrupt):
        server.loop.run()
    server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
