"""Pictures of a source of the desktop's PipeWire, for programs of a sandbox.

A jailed process for each use takes them (``broker.session.video.pipewire_video``).
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import trio

from broker.authority.audit import event_log
from broker.authority.permit import Permit
from broker.core.errors import UpstreamError
from broker.core.fair_share import may_take
from broker.core.lease import Lease
from broker.core.sliding_window import SlidingWindow
from broker.ipc.audit import schema
from broker.ipc.host_viewer import HeldTask
from broker.ipc.session.media_orders import TakeCamera, TakeScreen
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.orders.session_orders import Renewed, UserSession
from broker.viewer.uses.use_signs import UseKind, UseSigns
from broker.wire.row import Empty, Row

USES = 4
"""Of all sandboxes at one time, for each kind; a sandbox has one."""
OPENED_PER_MINUTE = 20
"""By one record: each is a process, and two events in the log."""
ENDED_SECONDS = 60.0
"""How long a sandbox is refused after the user took it back."""
START_SECONDS = 10.0
"""Until the first picture."""

Carry = Callable[[socket.socket], Awaitable[None]]
VideoEvent = Callable[
    ..., schema.CameraOn | schema.CameraOff | schema.ScreenOn | schema.ScreenOff
]


@dataclass(frozen=True)
class VideoSource:
    """A node of PipeWire, and the order for its pictures."""

    title: str
    """Escaped."""
    row: Row[Any, Empty]
    order: Callable[[int, int], TakeCamera | TakeScreen]
    """Return the order for pictures of so many pixels, a request of the row."""
    fds: Sequence[int] = ()
    """The order's; whoever yields the source closes them."""
    warrant: bytes = b""
    """The order's, where it needs one."""
    facts: Mapping[str, str | int] = field(default_factory=dict)
    """Of it, for the event."""
    seen: Callable[[], None] = lambda: None
    """Called when there is a picture."""
    renewed: Renewed | None = None
    """Of a permit that the order for pictures holds."""
    shown: str = ""
    """The title in the user's language; empty: it is a name."""


@dataclass(eq=False)
class VideoUse(HeldTask):
    """A sandbox that uses a source, or is about to."""

    lease: Lease
    permit: Permit
    colour: str = ""
    """The sandbox's."""
    title: str = ""


class VideoUses(ABC):
    """The uses of one kind of source by one viewer's sandboxes."""

    noun: ClassVar[str]
    kind: ClassVar[UseKind]
    on: ClassVar[VideoEvent]
    off: ClassVar[VideoEvent]
    """Events of a begin and an end."""

    def __init__(
        self, log: event_log.EventLog, session: UserSession, signs: UseSigns
    ) -> None:
        self.session = session
        self.signs = signs
        self._log = log
        self._uses: dict[str, VideoUse] = {}
        self._ended: dict[str, float] = {}
        self._opened: dict[str, SlidingWindow] = {}

    @abstractmethod
    def source(self, use: VideoUse) -> AbstractAsyncContextManager[VideoSource]:
        """Have a source while the block runs.  Raises VitrailError."""

    def uses(self) -> list[VideoUse]:
        """Return the present uses, oldest first."""
        return [use for use in self._uses.values() if use.title]

    def refuse_a_while(self, lease: Lease) -> None:
        """Reject a record's next requests: the user has revoked access."""
        self._ended[lease.record] = trio.current_time() + ENDED_SECONDS

    def check_ended(self, lease: Lease) -> None:
        """Raise ShareableError if the user has just revoked access."""
        now = trio.current_time()
        if now < self._ended.get(lease.record, now):
            raise ShareableError(f"the user revoked access to {self.noun}")

    def check_pace(self, lease: Lease) -> None:
        """Count an opening of the camera or screen.  Raises ShareableError for too many."""
        new = SlidingWindow(OPENED_PER_MINUTE, 60.0)
        window = self._opened.setdefault(lease.record, new)
        # guard: the camera is opened so many times a minute
        if not window.take(trio.current_time()):
            raise ShareableError(
                f"cannot open {self.noun}: the sandbox opened it {OPENED_PER_MINUTE} times within "
                "a minute",
                hint="wait a minute",
            )

    async def take_back(self, sandbox: str) -> VideoUse | None:
        """End a sandbox's use, and refuse its record for a while; return the use.

        Returns the use, when nothing of it is open any more; None: there was none.
        """
        use = self._uses.get(sandbox)
        if use is not None:
            # guard: a camera that was taken back is not opened again at once
            self.refuse_a_while(use.lease)
            await use.take_back("the user revoked access")
        return use

    async def serve(
        self,
        permit: Permit,
        size: tuple[int, int],
        carry: Carry,
        colour: str = "",
    ) -> None:
        """Bring pictures to the permit's sandbox with ``carry``, to the end of its use.

        Raises VitrailError.
        """
        lease = permit.request.lease
        name = lease.sandbox
        self.check_ended(lease)
        # guard: a sandbox opens the camera once
        if name in self._uses:
            raise ShareableError(
                f"cannot open {self.noun}: the sandbox already uses it"
            )
        own = sum(use.lease.record == lease.record for use in self._uses.values())
        if not may_take(own, len(self._uses), USES):
            raise ShareableError(f"cannot open {self.noun}: too many sandboxes use it")
        self.check_pace(lease)
        self._log.check_share(lease)
        use = self._uses[name] = VideoUse(lease, permit, colour)
        try:
            with use.scope:
                async with self.source(use) as source:
                    await self._open(use, source, size, carry)
            if use.scope.cancelled_caught:
                raise ShareableError(f"the user revoked access to {self.noun}")
        finally:
            del self._uses[name]
            use.over.set()

    async def _open(
        self, use: VideoUse, source: VideoSource, size: tuple[int, int], carry: Carry
    ) -> None:
        """Record and show a use, open the source, and carry its pictures."""
        async with self.recorded(use.lease, source.facts):
            use.title = source.title
            name, title = use.lease.sandbox, source.shown or source.title
            # guard: who uses the camera is shown
            self.signs.show(self.kind, name, active=True, source=title)
            try:
                async with pictures(self.session, source, size) as far:
                    await carry(far)
            finally:
                self.signs.show(self.kind, name, active=False)

    @asynccontextmanager
    async def recorded(
        self, lease: Lease, facts: Mapping[str, str | int], stream: int = 0
    ) -> AsyncIterator[None]:
        """Record begin and end of a use around the block."""
        whose, began = event_log.of(lease), trio.current_time()
        # guard: that a sandbox sees is recorded before it does
        # guard: the log records that a sandbox shares its window
        await self._log.require(self.on(**whose, stream=stream, **facts))
        try:
            yield
        finally:
            seconds = trio.current_time() - began
            over = self.off(**whose, stream=stream, seconds=seconds)
            with trio.CancelScope(shield=True):
                await self._log.note(over)


# -- the process that takes the pictures -------------------------------------------------


@asynccontextmanager
async def pictures(
    session: UserSession, source: VideoSource, size: tuple[int, int]
) -> AsyncIterator[socket.socket]:
    """Start taking pictures of a source; yield the socket on which they arrive.

    Raises SetupError, UpstreamError, RefusedError.
    """
    async with session.carrying_out(
        source.row, source.order(*size), source.fds, warrant=source.warrant
    ) as begun:
        (fd,) = begun.fds
        with socket.socket(fileno=fd) as near:
            near.setblocking(False)  # noqa: FBT003 -- as the pump has its sockets
            try:
                # guard: a camera without pictures is not waited for
                with trio.fail_after(START_SECONDS):
                    await trio.lowlevel.wait_readable(near)
            except trio.TooSlowError as error:
                raise UpstreamError(f"{source.title} does not send pictures") from error
            source.seen()
            async with begun.held(source.renewed) if source.renewed else nullcontext():
                yield near
