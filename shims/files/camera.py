"""``org.freedesktop.portal.Camera``: the camera of the user's desktop, in the sandbox.

A program that has asked for it finds a source of video at the PipeWire of the guest.
While a program takes pictures from that, they are asked of the broker, whose rules
decide; before its yes, and after a no, they are black.  Source: the documentation of
XDG Desktop Portal.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
from typing import TYPE_CHECKING

from shims.files.bus_calls import BUS_OBJECTS
from shims.files.bus_messages import SENDER, BusMessage
from shims.files.bus_service import (
    CallError,
    PortalPart,
    request_handle,
)
from shims.files.calling import desktop_call, start_thread
from shims.files.connection import BrokerConnection
from shims.files.desktop_entries import which
from shims.files.protocol import TransferError, frame, tell
from shims.files.video_node import VideoNode

if TYPE_CHECKING:
    import subprocess
    from typing import Any, ClassVar, List, Optional, Set, Tuple

    from shims.files.bus_service import Respond, Values

CAMERA = "org.freedesktop.portal.Camera"
CAMERA_SERVICE = BUS_OBJECTS[CAMERA].service
CAMERA_SIZES = {"640x480": (640, 480), "1280x720": (1280, 720)}  # as the broker's
CAMERA_RATE = 30
CAMERA_NODE = (
    "media.class=Video/Source media.role=Camera node.name=vitrail.camera "
    'node.description="Camera of the desktop"'
)
CAMERA_ALLOWED, CAMERA_DENIED = 0, 2
LINGER_SECONDS = 2.0  # a program that starts again has the same pictures
BLACK_SECONDS = 0.2
SERVER_SECONDS = 10.0
# Started programs end with this process, however that ends.
ENDS_WITH_INPUT = '"$0" </dev/null & read -r _; kill $!; wait'


def pipewire_remote() -> socket.socket:
    """Connect to the PipeWire of this session.  Raises OSError."""
    folder = os.environ.get("PIPEWIRE_RUNTIME_DIR") or os.environ["XDG_RUNTIME_DIR"]
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.connect(f"{folder}/{os.environ.get('PIPEWIRE_REMOTE', 'pipewire-0')}")
    except OSError:
        made.close()
        raise
    return made


def give_remote(call: BusMessage) -> Tuple[Any, ...]:
    """Reply to a program with a connection.  Raises CallError."""
    try:
        call.given.append(pipewire_remote().detach())
    except (OSError, KeyError):
        raise CallError(
            "portal.Error.Failed", "PipeWire is no longer running"
        ) from None
    return (0,)


class PipeWireServers:
    """The PipeWire of the image, started where none runs, for all nodes of this process."""

    def __init__(self) -> None:
        import threading

        self._lock = threading.Lock()
        self._servers: List[subprocess.Popen[bytes]] = []
        self._users: List[object] = []

    def hold(self, user: object) -> None:
        """Start the camera's PipeWire server for a user, or share it.

        Raises TransferError.
        """
        with self._lock:
            self._users.append(user)
            try:
                self._start()
            except (TransferError, OSError):
                self._users.remove(user)
                self._stop()
                raise

    def release(self, user: object) -> None:
        """Stop it with its last user."""
        with self._lock:
            if user in self._users:
                self._users.remove(user)
                self._stop()

    def _start(self) -> None:
        """Start PipeWire and its session manager here, unless they run.

        Raises TransferError.
        """
        with contextlib.suppress(OSError, KeyError):
            pipewire_remote().close()
            return
        import subprocess

        until = time.monotonic() + SERVER_SECONDS
        for program in ("pipewire", "wireplumber"):
            if not which(program):
                raise TransferError(f"the camera requires {program}, which is missing")
            words = ["sh", "-c", ENDS_WITH_INPUT, program]
            self._servers.append(subprocess.Popen(words, stdin=subprocess.PIPE))
            while True:
                try:
                    pipewire_remote().close()
                    break
                except (OSError, KeyError):
                    if time.monotonic() > until:
                        raise TransferError("PipeWire did not start") from None
                time.sleep(0.05)

    def _stop(self) -> None:
        while self._servers and not self._users:
            server = self._servers.pop()
            if server.stdin is not None:
                server.stdin.close()
            server.wait()


@functools.lru_cache(maxsize=None)
def pipewire_servers() -> PipeWireServers:
    """Return those of this process."""
    return PipeWireServers()


class CameraNode:
    """The source of video, and the broker's pictures while a program takes it."""

    def __init__(self) -> None:
        """Create the camera's node in PipeWire.  Raises TransferError."""
        import threading

        self._size = os.environ.get("VITRAIL_CAMERA", "")
        if self._size not in CAMERA_SIZES:
            self._size = next(iter(CAMERA_SIZES))
        width, height = CAMERA_SIZES[self._size]
        self._bytes = width * height * 3 // 2
        self._black = bytes([16]) * (width * height) + bytes([128]) * (
            width * height // 2
        )
        self._lock = threading.Lock()
        self._asking: Optional[socket.socket] = None
        self._pictures = False
        """Whether they come from the broker."""
        self._turn = 0
        """Of the call to the broker: what an earlier one still does counts no more."""
        self._over = False
        pipewire_servers().hold(self)
        try:
            self._node = VideoNode(CAMERA_NODE, width, height, CAMERA_RATE)
            self._node.number()  # programs find it from now on
        except TransferError:
            pipewire_servers().release(self)
            raise
        start_thread(self._run)

    @property
    def failed(self) -> bool:
        """Return whether the server has gone."""
        return self._node.failed

    def close(self) -> None:
        """Release it, and the programs that were started for it."""
        self._over = True
        self._node.changed.set()
        self._hang_up()

    def _run(self) -> None:
        """Ask the broker for pictures while a program takes them; once each time."""
        node, asked = self._node, False
        while not self._over and not node.failed:
            if node.wanted and not asked:
                asked = True
                start_thread(functools.partial(self._receive, self._turn))
            if node.wanted:
                if not self._pictures:
                    node.show(self._black)
                node.changed.wait(BLACK_SECONDS)
            elif asked:
                node.changed.wait(LINGER_SECONDS)
                if not node.wanted:
                    self._hang_up()
                    asked = False
            else:
                node.changed.wait()
            node.changed.clear()
        self._hang_up()
        node.close()
        pipewire_servers().release(self)

    def _hang_up(self) -> None:
        """End the call for pictures, even before it has begun."""
        with self._lock, contextlib.suppress(OSError):
            self._turn += 1
            asking, self._asking, self._pictures = self._asking, None, False
            if asking is not None:
                asking.shutdown(socket.SHUT_RDWR)

    def _receive(self, turn: int) -> None:
        """Show the broker's pictures, to the end of the call."""
        try:
            connection = BrokerConnection("VITRAIL_CALL")
            with connection.socket:
                with self._lock:
                    if turn != self._turn:
                        return
                    self._asking = connection.socket
                connection.send(frame(desktop_call(CAMERA_SERVICE, self._size)))
                connection.wait("go")
                while True:
                    picture = connection.reader.read(self._bytes)
                    if len(picture) < self._bytes:
                        return
                    with self._lock:
                        if turn != self._turn:
                            return  # the node may have been closed
                        self._pictures = True
                        self._node.show(picture)
        except (TransferError, OSError) as error:
            tell(f"vitrail: cannot use the camera: {error}")
        finally:
            with self._lock:
                if turn == self._turn:
                    self._asking, self._pictures = None, False


class PortalCamera(PortalPart):
    """The portal's camera; ``respond`` is called with a program, a handle and a code."""

    interface = CAMERA
    facts: ClassVar[Values] = {
        "version": ("u", 1),
        "IsCameraPresent": ("b", True),
    }

    def __init__(self, respond: Respond) -> None:
        import threading

        super().__init__(respond, desktop_call(CAMERA_SERVICE, "offered"))
        self._users: Set[str] = set()
        self._asked: List[Tuple[str, str]] = []
        self._lock, self._starting = threading.Lock(), threading.Lock()
        self._node: Optional[CameraNode] = None

    def busy(self) -> int:  # type: ignore[explicit-override]
        """See ``BusInterface``."""
        return len(self._users) + len(self._asked)

    def running(self) -> int:  # type: ignore[explicit-override]
        """See ``BusInterface``."""
        return len(self._asked)

    def _ask(self, call: BusMessage) -> Tuple[Any, ...]:
        """Reply to a program that asks for the camera; ask for it in a thread."""
        ask = call.text(SENDER), request_handle(call)
        with self._lock:
            self._asked.append(ask)
        # In a thread: a PipeWire that starts asks this portal something itself.
        call.after.append(lambda: start_thread(lambda: self._grant(ask)))
        return (ask[1],)

    def _remote(self, call: BusMessage) -> Tuple[Any, ...]:
        # guard: a program gets the camera that it has asked for
        if call.text(SENDER) not in self._users:
            raise CallError("portal.Error.NotAllowed", "call AccessCamera first")
        return give_remote(call)

    def _grant(self, ask: Tuple[str, str]) -> None:
        """Create the camera's node, which may take seconds, and respond."""
        code = CAMERA_ALLOWED
        with self._starting:
            try:
                if self._node is None or self._node.failed:
                    self._node = CameraNode()
            except (TransferError, OSError) as error:
                tell(f"vitrail: cannot use the camera: {error}")
                code = CAMERA_DENIED
            with self._lock:
                left = ask not in self._asked  # meanwhile
                if not left:
                    self._asked.remove(ask)
                    if code == CAMERA_ALLOWED:
                        self._users.add(ask[0])
                self._close_unused()
        if not left:
            self._respond(*ask, code, {})

    def forget_program(self, sender: str) -> None:  # type: ignore[explicit-override]
        """See ``BusInterface``: the camera goes with the last program."""
        with self._lock:
            self._asked = [ask for ask in self._asked if ask[0] != sender]
            self._users.discard(sender)
            self._close_unused()

    def _close_unused(self) -> None:
        if self._node is not None and not self._users and not self._asked:
            self._node.close()
            self._node = None
