"""``org.freedesktop.portal.ScreenCast``: a screen of the user's desktop, or an own window.

What a program asks for is asked of the broker, whose rules decide, and the user chooses
it in the desktop's own dialog; then the program has a source of video at the PipeWire of
the guest, until its session ends at either side.  A program that asks for windows alone
gets one of the sandbox's own, without a choice.  Source: the documentation of XDG
Desktop Portal.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import struct
from typing import TYPE_CHECKING

from shims.files.bus_calls import BUS_OBJECTS
from shims.files.bus_messages import SENDER, BusMessage
from shims.files.bus_service import (
    CallError,
    PortalOffer,
    PortalPart,
    request_handle,
)
from shims.files.calling import desktop_call, start_thread
from shims.files.camera import give_remote, pipewire_servers
from shims.files.connection import BrokerConnection
from shims.files.protocol import TransferError, frame, tell
from shims.files.video_node import SPA_BGRX, VideoNode

if TYPE_CHECKING:
    from typing import Any, Callable, ClassVar, Dict, Optional, Tuple

    from shims.files.bus_service import Respond, Values

SCREEN_CAST = "org.freedesktop.portal.ScreenCast"
SCREEN_SERVICE = BUS_OBJECTS[SCREEN_CAST].service
SCREEN_SIZES = {"1920x1080": (1920, 1080), "1280x720": (1280, 720)}  # as the broker's
SCREEN_RATE = 30
SCREEN_NODE = (
    "media.class=Video/Source node.name=vitrail.screen "
    'node.description="Screen of the desktop"'
)
SCREEN_OWN = "own"
SOURCE_MONITOR, SOURCE_WINDOW, POINTER_EMBEDDED = 1, 2, 2
SCREEN_SHARED, SCREEN_REFUSED, SCREEN_FAILED = 0, 1, 2
SHOWN_AGAIN_SECONDS = 0.2


class ScreenSession:
    """A session of a program, and its source of video once it has been started."""

    def __init__(self, sender: str, path: str) -> None:
        import threading

        self.sender, self.path = sender, path
        self.started = self.shared = self.own = False
        self._lock, self._new = threading.Lock(), threading.Event()
        self._over = False
        self._asking: Optional[socket.socket] = None
        self._picture = b""

    def share(self, ended: Callable[[], None]) -> Tuple[int, Tuple[int, int]]:
        """Ask the broker for pictures; return the node and its size.

        Waits for the user.  ``ended`` is called once it is over, unless it was closed.
        Raises TransferError, OSError.
        """
        named = SCREEN_OWN if self.own else os.environ.get("VITRAIL_SCREEN", "")
        if not self.own and named not in SCREEN_SIZES:
            named = next(iter(SCREEN_SIZES))
        connection = BrokerConnection("VITRAIL_CALL")
        with self._lock:
            self._asking = connection.socket
        if self._over:
            self._hang_up()  # what follows fails
        try:
            connection.send(frame(desktop_call(SCREEN_SERVICE, named)))
            connection.wait("go")
            width, height = SCREEN_SIZES.get(named, (0, 0))
            if self.own:
                # The worker's: it says how large the window is.
                head = connection.reader.read(8).ljust(8, b"\0")
                width, height = struct.unpack("<II", head)
            number, node = self._make_node(width, height)
        except (TransferError, OSError):
            self._hang_up()
            connection.socket.close()
            raise
        self.shared = True
        start_thread(functools.partial(self._show, node))
        size = width * height * 4
        start_thread(functools.partial(self._receive, connection, size, ended))
        return number, (width, height)

    def _make_node(self, width: int, height: int) -> Tuple[int, VideoNode]:
        """Create the node of a screen or window; return its number and it."""
        if not width * height:
            raise TransferError("the window no longer exists")
        servers = pipewire_servers()
        servers.hold(self)
        try:
            node = VideoNode(SCREEN_NODE, width, height, SCREEN_RATE, SPA_BGRX)
            return node.number(), node
        except TransferError:
            servers.release(self)
            raise

    def _receive(
        self, connection: BrokerConnection, size: int, ended: Callable[[], None]
    ) -> None:
        """Receive pictures to their end; then call ``ended`` unless closed."""
        with contextlib.suppress(OSError):
            while not self._over:
                picture = connection.reader.read(size)
                if len(picture) < size:
                    break
                self._picture = picture
                self._new.set()
        was_over = self._over
        self.close()
        connection.socket.close()
        if not was_over:
            ended()

    def _show(self, node: VideoNode) -> None:
        """Show the last picture in the node, again where nothing changes."""
        while not self._over and not node.failed:
            if self._picture:
                node.show(self._picture)
            self._new.wait(SHOWN_AGAIN_SECONDS)
            self._new.clear()
        # Of a node that failed the program is told, by what ends the pictures.
        # guard: a screen that stands still is not a shared one
        self._hang_up()
        node.close()
        pipewire_servers().release(self)

    def close(self) -> None:
        """End it, also one for which the user is still asked."""
        self._over = True
        self._new.set()
        self._hang_up()

    def _hang_up(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            asking, self._asking = self._asking, None
            if asking is not None:
                asking.shutdown(socket.SHUT_RDWR)


class PortalScreens(PortalPart):
    """The portal's sessions.

    ``respond`` is called with a program, a handle, a code and results; ``closed`` with a
    program and its session, which has ended.
    """

    interface = SCREEN_CAST
    facts: ClassVar[Values] = {
        "version": ("u", 2),
        "AvailableSourceTypes": ("u", 0),
        "AvailableCursorModes": ("u", POINTER_EMBEDDED),
    }

    def __init__(
        self,
        respond: Respond,
        closed: Callable[[str, str], None],
    ) -> None:
        super().__init__(respond, desktop_call(SCREEN_SERVICE, "offered"))
        self._closed = closed
        self._sessions: Dict[str, ScreenSession] = {}
        self._own = PortalOffer(desktop_call(SCREEN_SERVICE, f"offered{SCREEN_OWN}"))

    def busy(self) -> int:  # type: ignore[explicit-override]
        """See ``BusInterface``."""
        return len(self._sessions)

    def offered(self) -> bool:  # type: ignore[explicit-override]
        """See ``BusInterface``."""
        return self._types() > 0

    def properties(self) -> Values:  # type: ignore[explicit-override]
        """See ``BusInterface``."""
        return {**self.facts, "AvailableSourceTypes": ("u", self._types())}

    def _types(self) -> int:
        """What a rule may allow: a window is one of the sandbox's own."""
        found = SOURCE_MONITOR if super().offered() else 0
        return found | (SOURCE_WINDOW if self._own.held() else 0)

    def _create(self, call: BusMessage) -> Tuple[Any, ...]:
        """Create a session for a program; raises CallError."""
        path = request_handle(call, "session")
        if path in self._sessions:
            raise CallError("DBus.Error.InvalidArgs", "the session already exists")
        self._sessions[path] = ScreenSession(call.text(SENDER), path)
        return self._accepted(call, {"session_handle": ("s", path)})

    def _select(self, call: BusMessage) -> Tuple[Any, ...]:
        """Note what a session asks for: screens, or windows alone."""
        session, types = self._session(call), call.body[1].get("types", 1)
        session.own = types == SOURCE_WINDOW or self._types() == SOURCE_WINDOW
        return self._accepted(call, {})

    def _accepted(self, call: BusMessage, results: Values) -> Tuple[Any, ...]:
        """Respond once the reply has been sent."""
        path = request_handle(call)
        to = (call.text(SENDER), path, SCREEN_SHARED, results)
        call.after.append(lambda: self._respond(*to))
        return (path,)

    def _begin(self, call: BusMessage) -> Tuple[Any, ...]:
        """Begin sharing in a thread; raises CallError for a started session."""
        session, path = self._session(call), request_handle(call)
        if session.started:
            raise CallError("portal.Error.NotAllowed", "the session is already started")
        session.started = True
        call.after.append(lambda: start_thread(lambda: self._start(session, path)))
        return (path,)

    def _remote(self, call: BusMessage) -> Tuple[Any, ...]:
        # guard: a program gets the screen that its user has chosen
        if not self._session(call).shared:
            raise CallError("portal.Error.NotAllowed", "the session shares no screen")
        return give_remote(call)

    def _session(self, call: BusMessage) -> ScreenSession:
        found = self._sessions.get(call.body[0])
        # guard: a session is its own program's
        if found is None or found.sender != call.text(SENDER):
            raise CallError("portal.Error.InvalidArgument", "unknown session")
        return found

    def _start(self, session: ScreenSession, path: str) -> None:
        """Share a screen and respond to the program."""
        code, results = SCREEN_FAILED, {}
        try:
            number, size = session.share(functools.partial(self._ended, session))
            kind = SOURCE_WINDOW if session.own else SOURCE_MONITOR
            about = {"size": ("(ii)", size), "source_type": ("u", kind)}
            code, results = (
                SCREEN_SHARED,
                {"streams": ("a(ua{sv})", [(number, about)])},
            )
        except (TransferError, OSError) as error:
            tell(f"vitrail: cannot share the screen: {error}")
            code = SCREEN_REFUSED if isinstance(error, TransferError) else code
        self._respond(session.sender, path, code, results)

    def _ended(self, session: ScreenSession) -> None:
        if self._sessions.pop(session.path, None) is not None:
            self._closed(session.sender, session.path)

    def close(self, sender: str, path: str) -> None:
        """End a session of a program.  Raises CallError."""
        found = self._sessions.get(path)
        if found is None or found.sender != sender:
            raise CallError("DBus.Error.UnknownObject", "the session does not exist")
        del self._sessions[path]
        found.close()

    def forget_program(self, sender: str) -> None:  # type: ignore[explicit-override]
        """See ``BusInterface``."""
        for path, session in list(self._sessions.items()):
            if session.sender == sender:
                self.close(sender, path)
