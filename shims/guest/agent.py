"""The connection to the broker's agent port: framing, queue, reconnection."""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import time
import traceback
from typing import TYPE_CHECKING, List, Optional

from shims.guest.address import Address
from shims.guest.loop import Timer, log
from shims.guest.protocol import (
    CONTROL_PIECE_BYTES,
    FRAME_BYTES,
    PIECE_BYTES,
    MessageError,
    decode,
)

if TYPE_CHECKING:
    from shims.guest.guest import Guest

AGENT_QUEUE = 262144  # bytes on their way to the broker; beyond, output waits
RECONNECT_SECONDS = 1.0
FIRST_RECONNECT_SECONDS = 0.05
SILENCE_SECONDS = 6.0  # the broker pings every two seconds
FIRST_SILENCE_SECONDS = 60.0  # before it has ever pinged


# The broker pings its agents. A broker that is killed cannot close its guests'
# connections, and the kernel does it in its place: with a reset, where bytes were
# unread. vhost-device-vsock 0.3 drops a connection on a reset without notifying its
# guest, so an agent waited forever for a broker that had been replaced. Agents
# therefore hear a ping every two seconds and look for a new broker after six of
# silence; that costs a wake-up every two seconds in each guest. The ping names the
# worker (a random word): with another one, display streams from before are dead, and
# the agent ends them. A broker that has not pinged yet on a connection gets twice as
# long with each attempt, up to a minute: otherwise a viewer on a loaded machine never
# finished starting. Silence alone ends no window: a laptop that was asleep looks the
# same. It also says how many display streams the broker has: a killed *pump* leaves
# streams of which the guest hears nothing in the same way, and after four pings with
# none the agent ends its side. Streams that wait for a decision are counted too (the
# broker sends the worker their number); otherwise a question about a window would be
# withdrawn after eight seconds.
class Agent:
    """The connection to the broker: framing, queue, reconnection."""

    def __init__(self, guest: "Guest", address: Address) -> None:
        self._guest = guest
        self._loop = guest.loop
        self._address = address
        self._socket: Optional[socket.socket] = None
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._wait = FIRST_RECONNECT_SECONDS
        self._last_error = 0
        self._patience: Optional[Timer] = None
        self._serving = ""
        self._heard = False  # a ping, on this connection
        self._unheard = 0  # connections in a row that ended without one
        self.lost_at = time.monotonic()

    @property
    def connected(self) -> bool:
        """Return whether messages can be sent now."""
        return self._socket is not None

    @property
    def has_room(self) -> bool:
        """Return whether the broker takes messages as fast as we make them."""
        return self.connected and len(self._outgoing) < AGENT_QUEUE

    def open(self) -> None:
        """Connect, now and again until it works."""
        self._address.connect(self._loop, self._opened)

    def send(self, kind: str, **fields: object) -> None:
        """Queue a message; lost when there is no connection."""
        if self._socket is None:
            return
        body = json.dumps(dict(fields, type=kind)).encode()
        self._outgoing += struct.pack("<I", len(body)) + body
        self._flush()

    def pinged(self, serving: str) -> None:
        """Note a ping; cut all streams where another worker serves us."""
        if self._serving and serving != self._serving:
            # A killed broker cannot end its streams, and vhost-device-vsock
            # drops those with bytes under way without notifying its guest.
            self._guest.cut_all()
        self._serving = serving
        self._heard, self._unheard = True, 0
        self.expect()

    def expect(self) -> None:
        """Begin to wait: lose the broker if it says nothing for long."""
        if self._patience is not None:
            self._patience.cancel()
        seconds = SILENCE_SECONDS
        if not self._serving:
            seconds = FIRST_SILENCE_SECONDS
        elif not self._heard:
            # It may only be slow to begin; it must not have to start over for
            # each of our attempts forever.
            seconds = min(seconds * 2**self._unheard, FIRST_SILENCE_SECONDS)
        self._patience = self._loop.later(seconds, lambda: self._silent(seconds))

    def _silent(self, seconds: float) -> None:
        if not self._heard:
            self._unheard = min(self._unheard + 1, 8)
        self._lost(f"the broker sent nothing for {seconds:.0f} s")

    def _opened(self, sock: Optional[socket.socket], code: int) -> None:
        """Take a new connection into use, or plan the next try."""
        if sock is None:
            if code != self._last_error:
                log(f"cannot connect to {self._address.text}: {os.strerror(code)}")
            self._last_error = code
            self._again()
            return
        self._socket = sock
        self._heard = False
        self._last_error = 0
        self._wait = FIRST_RECONNECT_SECONDS
        self._incoming.clear()
        self._outgoing.clear()
        self._watch()
        self._guest.agent_connected()

    def _again(self) -> None:
        self._loop.later(self._wait, self.open)
        self._wait = min(self._wait * 2, RECONNECT_SECONDS)

    def _lost(self, why: str) -> None:
        """Close the broken connection and plan the next one."""
        if self._socket is None:
            return
        log(f"lost the connection to the broker: {why}")
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self.lost_at = time.monotonic()
        self._guest.programs.lift_windows()
        self._wait = RECONNECT_SECONDS
        self._again()

    def _watch(self) -> None:
        assert self._socket is not None
        events = selectors.EVENT_READ
        if self._outgoing:
            events |= selectors.EVENT_WRITE
        self._loop.watch(self._socket.fileno(), events, self._ready)

    def _ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush()
        if events & selectors.EVENT_READ and self._socket is not None:
            self._read()

    def _flush(self) -> None:
        """Send queued frames."""
        if self._socket is None:
            return
        full = not self.has_room
        try:
            while self._outgoing:
                sent = self._socket.send(
                    memoryview(self._outgoing)[:CONTROL_PIECE_BYTES].tobytes()
                )
                del self._outgoing[:sent]
        except BlockingIOError:
            pass  # the rest goes when the socket takes more: _watch asks for that
        except OSError as error:
            self._lost(str(error))
            return
        self._watch()
        if full and self.has_room:
            self._loop.later(0, self._guest.programs.push_all)

    def _read(self) -> None:
        """Read frames of the broker and act on them."""
        assert self._socket is not None
        try:
            data = self._socket.recv(PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(str(error))
            return
        if not data:
            self._lost("the broker closed the connection")
            return
        self._incoming += data
        try:
            for body in self._frames():
                self._guest.obey(decode(body))
        except MessageError as error:
            self._lost(f"invalid message: {error}")
        except Exception:
            log("internal error: " + traceback.format_exc())
            self._lost("internal error")

    def _frames(self) -> List[bytes]:
        """Return the complete frames that were received; raises MessageError."""
        frames = []
        while len(self._incoming) >= 4:
            (size,) = struct.unpack_from("<I", self._incoming)
            if not 0 < size <= FRAME_BYTES:
                raise MessageError(f"invalid frame size: {size} bytes")
            if len(self._incoming) < 4 + size:
                break
            frames.append(bytes(self._incoming[4 : 4 + size]))
            del self._incoming[: 4 + size]
        return frames
