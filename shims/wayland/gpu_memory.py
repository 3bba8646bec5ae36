"""What this machine's GPU drew, as bytes: pictures of programs are read back.

The process that draws is outside of the machine and may end or hang at any time; a call
to the kernel then does not return.  So all calls are made by one thread, and whoever
waits for it gives up after a while: the GPU is lost then, for good.

The process of ``wayland_programs`` runs this, in a machine with a GPU; the agent does not.

Sources: the kernel's include/uapi/drm/virtgpu_drm.h and drm.h.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import mmap
import os
import queue
import select
import selectors
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING, Callable, Deque, Dict, Optional, Tuple

if TYPE_CHECKING:
    from shims.wayland.ready_loop import ReadyLoop

GPU_NODE = "/dev/dri/renderD128"
LOST = "the GPU is lost"
"""Begins the line on standard error by which the agent knows."""
GPU_SECONDS = 10.0
"""For one picture; a driver of the host gives up a hung job sooner, or within this.  A
second longer for one with all that were asked for before it."""
_GEM_CLOSE = 0x40086409
_HANDLE_TO_FD = 0xC00C642D
_FD_TO_HANDLE = 0xC00C642E
_MAP = 0xC0106441
_CREATE = 0xC0386444
_INFO = 0xC0106445
_FROM_HOST = 0xC02C6446
_TEXTURE_2D, _BGRX, _RENDER_TARGET = 2, 2, 2

Done = Callable[[str], None]
"""Called with "", or with the reason."""


class GpuPicture:
    """Memory of the GPU with one picture, in rows."""

    def __init__(self, gpu: "Gpu", fd: int, offset: int, stride: int) -> None:
        """Own ``fd``, which a program says is its dma-buf."""
        self._gpu = gpu
        self.fd, self.offset, self.stride = fd, offset, stride
        self.width = self.size = 0
        """In pixels and bytes; 0 until a buffer is made of it."""
        self.handle = 0
        self.view: Optional[mmap.mmap] = None
        """Its bytes: those of the last read."""

    def copy(self, into: memoryview, start: int) -> int:
        """Copy bytes from ``start`` on; returns how many."""
        if self.view is None:
            return 0
        begin = self.offset + start
        with memoryview(self.view) as view, view[begin : begin + len(into)] as data:
            into[: len(data)] = data
            return len(data)

    def drop(self) -> None:
        """Close it, when nothing reads it any more."""
        self._gpu.drop(self)


class Gpu:
    """The render node of this machine."""

    def __init__(self, loop: "ReadyLoop") -> None:
        """Open the GPU's node and start the reading thread.

        Raises OSError without a GPU.
        """
        self._node = os.open(GPU_NODE, os.O_RDWR | os.O_CLOEXEC)
        self.device = os.fstat(self._node).st_rdev
        self.lost = ""
        """Why nothing is drawn any more; "" while it is."""
        self._loop = loop
        self._jobs: "queue.SimpleQueue[Callable[[], None]]" = queue.SimpleQueue()
        self._waiting: "Deque[Tuple[float, Done]]" = collections.deque()
        """With the time of asking; the oldest is first."""
        self._answers: Deque[str] = collections.deque()
        self._uses: Dict[int, int] = {}
        self._probe = GpuPicture(self, -1, 0, 16)
        answered, self._answer = os.pipe()
        loop.watch(answered, selectors.EVENT_READ, lambda _: self._take(answered))
        threading.Thread(target=self._work, daemon=True).start()

    # -- for the streams

    def check(self, done: Done) -> None:
        """Find out whether the GPU still works."""
        self._ask(self._check, done)

    def read(self, picture: GpuPicture, top: int, bottom: int, done: Done) -> None:
        """Bring rows of a picture into this machine's memory."""
        self._ask(lambda: self._read(picture, top, bottom), done)

    def drop(self, picture: GpuPicture) -> None:
        """Close a picture, when nothing reads it any more."""
        self._jobs.put(lambda: self._close(picture))

    def _ask(self, job: Callable[[], None], done: Done) -> None:
        """Run a job in the thread; ``done`` gets its error, or ""."""
        # guard: a lost GPU is waited for no more
        if self.lost:
            done(self.lost)
            return

        def run() -> None:
            reason = ""
            try:
                job()
            except TimeoutError as error:
                reason = f"{LOST}: {error}"
            except (OSError, ValueError) as error:
                reason = f"cannot read a GPU buffer: {error}"
            self._answers.append(reason)
            os.write(self._answer, b"x")

        self._waiting.append((time.monotonic(), done))
        if len(self._waiting) == 1:
            self._await()
        self._jobs.put(run)

    def _await(self) -> None:
        # guard: slow pictures of one program delay others by a bounded time
        late = self._waiting[0][0] + GPU_SECONDS + 1 if self._waiting else None
        self._loop.alarm(late, lambda: self._lose(f"{LOST}: it does not answer"))

    def _take(self, answered: int) -> None:
        """Read the thread's answer and call its job's ``done``."""
        os.read(answered, 1)
        reason = self._answers.popleft()
        if self.lost:
            return
        _, done = self._waiting.popleft()
        self._await()
        if reason.startswith(LOST):
            self._lose(reason)
        done(reason)

    def _lose(self, reason: str) -> None:
        """Give the GPU up; fail all jobs."""
        self.lost = reason
        print(f"wayland: {reason}", file=sys.stderr, flush=True)
        waiting = [*self._waiting]
        self._waiting.clear()
        self._await()
        for _, done in waiting:
            done(reason)

    # -- the thread

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            with contextlib.suppress(OSError):
                job()

    def _call(self, request: int, form: str, *values: int) -> "tuple[int, ...]":
        data = bytearray(struct.pack(form, *values))
        fcntl.ioctl(self._node, request, data)
        return struct.unpack(form, data)

    def _check(self) -> None:
        """Read a probe in the thread, to see whether the GPU answers."""
        probe = self._probe
        if probe.fd < 0:
            shape = (_TEXTURE_2D, _BGRX, _RENDER_TARGET, 4, 4, 1, 1, 0, 0, 0, 0, 0)
            handle = self._call(_CREATE, "14I", *shape, 64, 0)[10]
            probe.fd = self._call(_HANDLE_TO_FD, "IIi", handle, os.O_CLOEXEC, 0)[2]
            probe.width, probe.handle = 4, handle
        self._bring(probe, 0, 4)

    def _read(self, picture: GpuPicture, top: int, bottom: int) -> None:
        if picture.view is None:
            self._open(picture)
        self._bring(picture, top, bottom)

    def _open(self, picture: GpuPicture) -> None:
        """Import and map a picture, in the thread."""
        # The same memory has the same number, whoever passes it.
        handle = self._call(_FD_TO_HANDLE, "IIi", 0, 0, picture.fd)[0]
        self._uses[handle] = self._uses.get(handle, 0) + 1
        picture.handle = handle
        size = self._call(_INFO, "4I", handle, 0, 0, 0)[2]
        if picture.offset + picture.size > size:
            raise ValueError(
                f"{picture.size} bytes at {picture.offset} exceed {size} bytes"
            )
        place = self._call(_MAP, "QII", 0, handle, 0)[0]
        picture.view = mmap.mmap(self._node, size, prot=mmap.PROT_READ, offset=place)

    def _bring(self, picture: GpuPicture, top: int, bottom: int) -> None:
        """Read rows of a picture back, in the thread."""
        begin = picture.offset + top * picture.stride
        box = (0, top, 0, picture.width, bottom - top, 1)
        # The kernel takes no stride: rows are those of the resource.
        self._call(_FROM_HOST, "11I", picture.handle, *box, 0, begin, 0, 0)
        # A dma-buf can be read when nobody writes to it any more.
        done = select.poll()
        done.register(picture.fd, select.POLLIN)
        if not done.poll(GPU_SECONDS * 1000):
            raise TimeoutError("the GPU did not finish a buffer in time")

    def _close(self, picture: GpuPicture) -> None:
        """Close a picture, in the thread."""
        os.close(picture.fd)
        if picture.view is not None:
            picture.view.close()
            picture.view = None
        if picture.handle:
            self._uses[picture.handle] -= 1
            if not self._uses[picture.handle]:
                del self._uses[picture.handle]
                self._call(_GEM_CLOSE, "II", picture.handle, 0)
