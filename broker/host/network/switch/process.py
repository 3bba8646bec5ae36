"""The process of a switch: sandboxes that share a network, or a provider and its clients.

    QEMU, or a box's cable ═ stream of frames ═ switch ═ stream ═ another one

It is ``packet_guard switch``.  Its arguments are the descriptor of a socket to the host's process and the first three
octets of the switch's addresses.  Each message on that socket is a new port, with the
descriptor of its stream (``a length, a frame``, as QEMU's).  A port lasts as long as its
stream.  The switch ends with its socket.

One thread, no files, and the filter of system calls of ``frameguard``: it makes no
socket.  For each port it holds the beginning of one frame and what the port has not
read; more is dropped, as on every network.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import Counter, deque
from typing import NoReturn

from broker.core import limits
from broker.core.fair_share import may_take
from broker.core.stderr_log import log_stderr
from broker.helpers.filters.descriptor_filter import keep_descriptors_only
from broker.host.network.frameguard.ethernet_frames import FrameError
from broker.host.network.frameguard.veth import LENGTH, take_frames
from broker.host.network.switch.frames import LanSwitch, SwitchPort
from broker.host.network.switch.switch_ports import unpack_port

_MESSAGE_BYTES = 512
_TURN_BYTES = 1 << 14
"""Of one port, before the others have their turn: a millisecond of smallest frames."""


class SwitchStream:
    """The stream of one port."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.untrusted_data = bytearray()
        """The beginning of a frame."""
        self.unsent = bytearray()
        """The rest of one frame."""
        self._waiting: dict[int, deque[bytes]] = {}
        self._held: Counter[int] = Counter()

    def queue(self, sender: int, frame: bytes) -> None:
        """Queue a frame of another port; drop it if the queue is full."""
        # guard: a port that does not read holds few frames
        if may_take(self._held[sender], self._held.total(), limits.FRAMES_READ_BYTES):
            data = LENGTH.pack(len(frame)) + frame
            self._waiting.setdefault(sender, deque()).append(data)
            self._held[sender] += len(data)

    @property
    def waits(self) -> bool:
        """Return whether frames wait to be written."""
        return bool(self.unsent or self._waiting)

    def read(self) -> list[bytes]:
        """Read the port's socket; return complete frames.

        Raises FrameError and OSError at the stream's end.
        """
        untrusted_data = os.read(self.fd, _TURN_BYTES)
        if not untrusted_data:
            raise ConnectionResetError
        self.untrusted_data += untrusted_data
        return take_frames(self.untrusted_data)

    def write(self) -> None:
        """Write queued frames to the port, one of each sender in turn.

        Raises OSError at the stream's end.
        """
        try:
            while self.waits:
                if not self.unsent:
                    self.unsent += self._next()
                del self.unsent[: os.write(self.fd, self.unsent)]
        except BlockingIOError:
            return

    def _next(self) -> bytes:
        """Dequeue a frame of the next sender; senders take turns."""
        sender, frames = next(iter(self._waiting.items()))
        del self._waiting[sender]
        data = frames.popleft()
        # guard: senders to a port take turns
        if frames:
            self._waiting[sender] = frames
        self._held[sender] -= len(data)
        self._held += Counter()  # without those who have nothing
        return data


class SwitchProcess:
    """Carries frames between ports until the host's socket ends."""

    def __init__(self, control: socket.socket, network: bytes) -> None:
        self._control = control
        self._sender = -1
        """Whose frame is carried now."""
        self._streams: dict[int, SwitchStream] = {}
        self._switch = LanSwitch(network, self._queue)
        self._poll = select.poll()
        self._poll.register(control.fileno(), select.POLLIN)

    def _queue(self, number: int, frame: bytes) -> None:
        self._streams[number].queue(self._sender, frame)

    def run(self) -> None:
        """Switch frames between the ports until the host closes the control socket."""
        while True:
            for fd, happened in self._poll.poll():
                if fd == self._control.fileno():
                    if not self._take_port():
                        return
                elif fd in self._streams:  # not closed meanwhile
                    self._serve(fd, happened)
            for stream in list(self._streams.values()):
                self._write(stream)

    def _take_port(self) -> bool:
        """Add the port that the host sent; return False when its socket has ended."""
        data, fds, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, 1)
        if not data:
            return False
        # guard: a port whose descriptor was lost is not the end of the others
        if not fds:
            log_stderr("a sandbox has no network: its port has no descriptor")
            return True
        (fd,) = fds
        replaced = self._switch.join(SwitchPort(fd, *unpack_port(data)))
        if replaced is not None:
            self._close(replaced)
        self._streams[fd] = SwitchStream(fd)
        self._poll.register(fd, select.POLLIN)
        return True

    def _serve(self, fd: int, happened: int) -> None:
        """Read a port's frames into the switch, or write; close a gone port."""
        try:
            if happened & select.POLLIN:
                now, self._sender = time.monotonic(), fd
                for untrusted_frame in self._streams[fd].read():
                    self._switch.take(fd, untrusted_frame, now)
            elif happened & ~select.POLLOUT:
                self._close(fd)
        except BlockingIOError:
            return
        # guard: a port's mistake ends this port
        except Exception as error:  # noqa: BLE001 -- also ours: the others go on
            if not isinstance(error, FrameError | OSError):
                log_stderr(f"cannot forward a frame: {_where(error)}")
            self._close(fd)

    def _write(self, stream: SwitchStream) -> None:
        """Write a port's queued frames; close it on an error."""
        try:
            stream.write()
        except OSError:
            self._close(stream.fd)
            return
        more = select.POLLOUT if stream.waits else 0
        self._poll.modify(stream.fd, select.POLLIN | more)

    def _close(self, fd: int) -> None:
        self._switch.leave(fd)
        self._poll.unregister(fd)
        del self._streams[fd]
        os.close(fd)


def _where(error: Exception) -> str:
    """Return the exception and its place, without reading source files as a traceback does."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    line = f"{at.tb_frame.f_code.co_qualname}, line {at.tb_lineno}" if at else ""
    return f"{type(error).__name__} in {line}"


def switch_frames(control: str, network: str) -> NoReturn:
    """Run a switch's process: confine it, then switch frames."""
    octets = bytes(map(int, network.split(".")))
    switch = SwitchProcess(socket.socket(fileno=int(control)), octets)
    keep_descriptors_only("recvmsg")
    switch.run()
    os._exit(0)  # the interpreter's own end needs system calls that it gave up
