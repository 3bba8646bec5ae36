"""Pictures of a source of the desktop's PipeWire, for programs of a sandbox.

A jailed process for each use (GStreamer) takes them, makes each one of the size that was
asked for, and writes them one after the other: what reaches the sandbox has no
header, and nothing of the sandbox is read.  A picture that the sandbox has not taken when
the next one comes is dropped.
"""

from __future__ import annotations

import os
import socket
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import trio

from broker.authority.audit import event_log
from broker.core.errors import SetupError, UpstreamError
from broker.core.fair_share import may_take
from broker.core.lease import Lease
from broker.core.sliding_window import SlidingWindow
from broker.helpers import box_filters
from broker.helpers.process.jail_libraries import library_words
from broker.helpers.process.spawn import DEVNULL, spawn
from broker.helpers.process.tool_jail import python_words
from broker.ipc.audit import schema
from broker.ipc.sealed_memfd import sealed
from broker.net.session_bus import OpenBus
from broker.viewer.opening.failures import ToldError
from broker.viewer.sound.indicator import Indicator, Wording
from shims.bundle import files_tool

RATE = 30
"""Pictures a second at most."""
USES = 4
"""Of all sandboxes at one time, for each kind; a sandbox has one."""
OPENED_PER_MINUTE = 20
"""By one record: each is a process, and two events in the log."""
ENDED_SECONDS = 60.0
"""How long a sandbox is refused after the user took it back."""
START_SECONDS = 10.0
"""Until the first picture."""
_MEMORY_BYTES = 1 << 30
_SIDE = 8192
"""Pixels; a source of more is not opened."""
_PROGRAM = "/usr/bin/gst-launch-1.0"
_PLUGINS = ("coreelements", "pipewire", "videorate", "videoconvertscale")
_OLDER_PLUGINS = ("videoconvert", "videoscale")
"""In the place of the last one, before GStreamer 1.22."""
_HINT = "install pipewire-bin, gstreamer1.0-tools, -plugins-base and -pipewire"

Carry = Callable[[socket.socket], Awaitable[None]]
VideoEvent = Callable[
    ..., schema.CameraOn | schema.CameraOff | schema.ScreenOn | schema.ScreenOff
]


@dataclass(frozen=True)
class VideoSource:
    """A node of PipeWire, and how a process reaches it."""

    title: str
    """Escaped."""
    element: str
    """The option of GStreamer's pipewiresrc that names it; of our numbers."""
    shown: tuple[int, ...]
    """The objects that the process sees; empty: as its connection has been narrowed."""
    connect: Callable[[], Awaitable[socket.socket]]
    """Return a connection, which is the caller's.  Raises VitrailError."""
    steady: bool = True
    """Whether it has a rate of its own, without which videorate (GStreamer 1.22) fails."""
    form: str = "I420"
    """Of the pictures that a sandbox gets; GStreamer's name."""
    facts: Mapping[str, str | int] = field(default_factory=dict)
    """Of it, for the event."""
    seen: Callable[[], None] = lambda: None
    """Called when there is a picture."""


@dataclass(eq=False)
class VideoUse:
    """A sandbox that uses a source, or is about to."""

    lease: Lease
    colour: str = ""
    """The sandbox's."""
    warrant: bytes = b""
    """Of its permit."""
    title: str = ""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    over: trio.Event = field(default_factory=trio.Event)


class VideoUses(ABC):
    """The uses of one kind of source by one viewer's sandboxes."""

    noun: ClassVar[str]
    wording: ClassVar[Wording]
    on: ClassVar[VideoEvent]
    off: ClassVar[VideoEvent]
    """Events of a begin and an end."""

    def __init__(self, log: event_log.EventLog, bus: OpenBus) -> None:
        self.indicator = Indicator(bus, self.wording)
        self._log = log
        self._uses: dict[str, VideoUse] = {}
        self._ended: dict[str, float] = {}
        self._opened: dict[str, SlidingWindow] = {}

    @abstractmethod
    def source(self, use: VideoUse) -> AbstractAsyncContextManager[VideoSource]:
        """Have a source while the block runs.  Raises VitrailError."""

    async def run(self) -> None:
        """Show who uses them, until cancelled."""
        await self.indicator.run()

    def uses(self) -> list[VideoUse]:
        """Return those of now, oldest first."""
        return [use for use in self._uses.values() if use.title]

    def refuse_a_while(self, lease: Lease) -> None:
        """Refuse what a record asks for next: the user has said no."""
        self._ended[lease.record] = trio.current_time() + ENDED_SECONDS

    def check_ended(self, lease: Lease) -> None:
        """Raise ToldError where the user has said no a moment ago."""
        now = trio.current_time()
        if now < self._ended.get(lease.record, now):
            raise ToldError(f"the user has taken {self.noun} back")

    def check_pace(self, lease: Lease) -> None:
        """Count a use.  Raises ToldError for a record that has too many."""
        new = SlidingWindow(OPENED_PER_MINUTE, 60.0)
        window = self._opened.setdefault(lease.record, new)
        # guard: the camera is opened so many times a minute
        if not window.take(trio.current_time()):
            raise ToldError(
                f"{self.noun} was opened {OPENED_PER_MINUTE} times a minute"
            )

    async def end(self, sandbox: str) -> VideoUse | None:
        """Take it from a sandbox; returns when nothing of it is open any more."""
        use = self._uses.get(sandbox)
        if use is not None:
            # guard: a camera that was taken back is not opened again at once
            self.refuse_a_while(use.lease)
            use.scope.cancel()
            await use.over.wait()
        return use

    async def serve(
        self,
        lease: Lease,
        size: tuple[int, int],
        carry: Carry,
        colour: str = "",
        warrant: bytes = b"",
    ) -> None:
        """Have ``carry`` bring pictures to a sandbox, which is permitted, to the end.

        Raises VitrailError.
        """
        name = lease.sandbox
        self.check_ended(lease)
        # guard: a sandbox opens the camera once
        if name in self._uses:
            raise ToldError(f"the sandbox already uses {self.noun}")
        own = sum(use.lease.record == lease.record for use in self._uses.values())
        if not may_take(own, len(self._uses), USES):
            raise ToldError(f"too many sandboxes use {self.noun}")
        self.check_pace(lease)
        self._log.check_share(lease)
        use = self._uses[name] = VideoUse(lease, colour, warrant)
        try:
            with use.scope:
                async with self.source(use) as source:
                    await self._open(use, source, size, carry)
            if use.scope.cancelled_caught:
                raise ToldError(f"the user has taken {self.noun} back")
        finally:
            del self._uses[name]
            use.over.set()

    async def _open(
        self, use: VideoUse, source: VideoSource, size: tuple[int, int], carry: Carry
    ) -> None:
        async with self.recorded(use.lease, source.facts):
            use.title = source.title
            # guard: who uses the camera is shown
            self.indicator.show(use.lease.sandbox, active=True, source=source.title)
            try:
                async with pictures(source, size) as far:
                    await carry(far)
            finally:
                self.indicator.show(use.lease.sandbox, active=False)

    @asynccontextmanager
    async def recorded(
        self, lease: Lease, facts: Mapping[str, str | int], stream: int = 0
    ) -> AsyncIterator[None]:
        """Record a use while the block runs: its begin, and its end."""
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
    source: VideoSource, size: tuple[int, int]
) -> AsyncIterator[socket.socket]:
    """Take pictures while the block runs; yields where they come, one after the other.

    Raises SetupError, UpstreamError.
    """
    with ExitStack() as ours:
        server = ours.enter_context(await source.connect())
        near, far = (ours.enter_context(end) for end in socket.socketpair())
        tool, rules = sealed([files_tool()]), sealed([box_filters.box_filter()])
        ours.callback(os.close, tool)
        ours.callback(os.close, rules)
        words = [
            # What a camera can have it take
            *("prlimit", f"--as={_MEMORY_BYTES}:{_MEMORY_BYTES}", "--core=0:0", "--"),
            *("bwrap", "--seccomp", str(rules), *jail_words()),
        ]
        if source.shown:
            words += [*python_words(), f"/proc/self/fd/{tool}", "narrowed"]
            words += map(str, (server.fileno(), *source.shown))
        words += pipeline(source, size, server.fileno(), far.fileno())
        fds = (rules, tool, server.fileno(), far.fileno())
        child = spawn(words, name="video", pass_fds=fds, stderr=DEVNULL, stdout=DEVNULL)
        try:
            far.close()
            server.close()
            near.setblocking(False)  # noqa: FBT003 -- as the pump has its sockets
            # guard: a camera without pictures is not waited for
            with trio.fail_after(START_SECONDS):
                await trio.lowlevel.wait_readable(near)
            source.seen()
            yield near
        except trio.TooSlowError as error:
            raise UpstreamError(f"{source.title} gives no picture") from error
        finally:
            # guard: the camera is closed with its permission
            await child.kill_and_wait()


def pipeline(
    source: VideoSource, size: tuple[int, int], server: int, out: int
) -> Iterator[str]:
    """Return GStreamer's command line; only our numbers are in it.

    Raises SetupError where a part is not installed.
    """
    width, height = size
    side = f"[1,{_SIDE}]"
    yield from (_PROGRAM, "--no-fault", f"--gst-plugin-load={','.join(_plugins())}")
    yield from ("pipewiresrc", f"fd={server}", source.element)
    # Times of a camera may be those of its clock.
    yield from ("do-timestamp=true", "!")
    # No picture of 2^31 pixels is taken
    yield from (f"video/x-raw,width={side},height={side}", "!")
    if source.steady:
        yield from ("videorate", "drop-only=true", f"max-rate={RATE}", "!")
    yield from ("videoconvert", "!", "videoscale", "add-borders=true", "!")
    form = f"video/x-raw,format={source.form},width={width},height={height}"
    yield from (f"{form},pixel-aspect-ratio=1/1", "!")
    # guard: pictures that are not taken are dropped
    yield from ("queue", "leaky=downstream", "max-size-buffers=2", "!")
    yield from ("fdsink", f"fd={out}", "sync=false")


def _plugins() -> list[str]:
    """Return the files of the plugins, and no others: most decode something."""
    own = sysconfig.get_config_var("MULTIARCH") or ""
    for place in (Path("/usr/lib", own), Path("/usr/lib64"), Path("/usr/lib")):
        folder = place / "gstreamer-1.0"
        if (folder / "libgstpipewire.so").exists() and os.access(_PROGRAM, os.X_OK):
            names = [*_PLUGINS, *_OLDER_PLUGINS]
            files = [folder / f"libgst{name}.so" for name in names]
            return [str(file) for file in files if file.exists()]
    raise SetupError("GStreamer's part for PipeWire is not installed", hint=_HINT)


def jail_words() -> Iterator[str]:
    """Return bubblewrap's words: libraries and programs to read, and two descriptors."""
    yield from ("--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1")
    yield from ("--cap-drop", "ALL", "--clearenv", "--setenv", "LC_ALL", "C.UTF-8")
    # No plugin is looked for, and no list of them is written.
    for name in ("GST_PLUGIN_SYSTEM_PATH_1_0", "GST_PLUGIN_PATH_1_0"):
        yield from ("--setenv", name, "")
    yield from ("--setenv", "GST_REGISTRY_DISABLE", "yes")
    yield from library_words()
    yield from ("--ro-bind", "/usr", "/usr", "--proc", "/proc")
    yield from ("--dev-bind", "/dev/null", "/dev/null", "--chdir", "/")
    yield from ("--remount-ro", "/", "--")
