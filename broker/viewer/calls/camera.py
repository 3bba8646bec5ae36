"""``vitrail.Camera``: pictures of the user's camera, for programs of a sandbox.

They come from a camera's node of the session's PipeWire.  A jailed process for each use
(GStreamer) takes them, makes each one I420 of the size that was asked for, and writes
them one after the other: what reaches the sandbox has no header, and nothing of the
sandbox is read.  Its connection to PipeWire sees that node alone (``shims.files.video_node``).
A picture that the sandbox has not taken when the next one comes is dropped.
"""

from __future__ import annotations

import os
import socket
import sysconfig
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import msgspec
import trio

from broker.authority.audit import event_log
from broker.core import limits
from broker.core.decoding import UNREADABLE
from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.fair_share import may_take
from broker.core.lease import Lease
from broker.core.sliding_window import SlidingWindow
from broker.helpers import box_filters
from broker.helpers.process.spawn import DEVNULL, run_tool, spawn
from broker.helpers.process.tool_jail import library_words, python_words
from broker.ipc.audit import schema
from broker.ipc.sealed_memfd import sealed
from broker.net.endpoints import UnixEndpoint, connect
from broker.viewer.opening.failures import ToldError
from broker.viewer.sound.indicator import Indicator, Wording
from shims.bundle import files_tool

SIZES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"640x480": (640, 480), "1280x720": (1280, 720)}
)
"""The sizes that a sandbox may ask for, in pixels."""
RATE = 30
"""Pictures a second at most."""
USES = 4
"""Of all sandboxes at one time; a sandbox has one."""
OPENED_PER_MINUTE = 20
"""By one record: each is a process, and two events in the log."""
ENDED_SECONDS = 60.0
"""How long a sandbox is refused after the user took the camera back."""
START_SECONDS = 10.0
"""Until the first picture."""
_MEMORY_BYTES = 1 << 30
_SIDE = 8192
"""Pixels; a camera of more is not opened."""
_DUMP_BYTES = 16 << 20
_NODE = "PipeWire:Interface:Node"
_PROGRAM = "/usr/bin/gst-launch-1.0"
_PLUGINS = ("coreelements", "pipewire", "videorate", "videoconvertscale")
_OLDER_PLUGINS = ("videoconvert", "videoscale")
"""In the place of the last one, before GStreamer 1.22."""
_HINT = "install pipewire-bin, gstreamer1.0-tools, -plugins-base and -pipewire"
SEEN = Wording(
    "camera-web",
    "{} uses your camera",
    "from {}",
    "that a camera is open",
)

Carry = Callable[[socket.socket], Awaitable[None]]


@dataclass(frozen=True)
class Camera:
    """A camera's node of PipeWire."""

    number: int
    serial: int
    title: str
    """Escaped."""
    factory: int
    """The object of the server that makes nodes of clients."""


@dataclass(eq=False)
class CameraUse:
    """A sandbox that uses the camera, or is about to."""

    lease: Lease
    title: str = ""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    over: trio.Event = field(default_factory=trio.Event)


class Cameras:
    """The uses of cameras by one viewer's sandboxes."""

    def __init__(self, log: event_log.EventLog) -> None:
        self.indicator = Indicator(SEEN)
        self._log = log
        self._uses: dict[str, CameraUse] = {}
        self._ended: dict[str, float] = {}
        self._opened: dict[str, SlidingWindow] = {}

    def uses(self) -> list[CameraUse]:
        """Return those of now, oldest first."""
        return [use for use in self._uses.values() if use.title]

    async def end(self, sandbox: str) -> CameraUse | None:
        """Take the camera from a sandbox; returns when nothing of it is open any more."""
        use = self._uses.get(sandbox)
        if use is not None:
            # guard: a camera that was taken back is not opened again at once
            self._ended[use.lease.record] = trio.current_time() + ENDED_SECONDS
            use.scope.cancel()
            await use.over.wait()
        return use

    async def serve(self, lease: Lease, size: str, carry: Carry) -> None:
        """Have ``carry`` bring pictures to a sandbox, which is permitted, to the end.

        ``size`` is one of ``SIZES``.  Raises VitrailError.
        """
        name, now = lease.sandbox, trio.current_time()
        if now < self._ended.get(lease.record, now):
            raise ToldError("the user has taken the camera back")
        # guard: a sandbox opens the camera once
        if name in self._uses:
            raise ToldError("the sandbox already uses the camera")
        own = sum(use.lease.record == lease.record for use in self._uses.values())
        if not may_take(own, len(self._uses), USES):
            raise ToldError("too many sandboxes use the camera")
        new = SlidingWindow(OPENED_PER_MINUTE, 60.0)
        # guard: the camera is opened so many times a minute
        if not self._opened.setdefault(lease.record, new).take(now):
            raise ToldError(f"the camera was opened {OPENED_PER_MINUTE} times a minute")
        self._log.check_share(lease)
        use = self._uses[name] = CameraUse(lease)
        try:
            with use.scope:
                await self._open(use, SIZES[size], carry)
            if use.scope.cancelled_caught:
                raise ToldError("the user has taken the camera back")
        finally:
            del self._uses[name]
            use.over.set()

    async def _open(self, use: CameraUse, size: tuple[int, int], carry: Carry) -> None:
        camera = await find_camera()
        whose, began = event_log.of(use.lease), trio.current_time()
        # guard: that a sandbox sees is recorded before it does
        await self._log.require(schema.CameraOn(**whose))
        use.title = camera.title or "camera"
        # guard: who uses the camera is shown
        self.indicator.show(use.lease.sandbox, active=True, source=camera.title)
        try:
            async with pictures(camera, size) as far:
                await carry(far)
        finally:
            self.indicator.show(use.lease.sandbox, active=False)
            seconds = trio.current_time() - began
            with trio.CancelScope(shield=True):
                await self._log.note(schema.CameraOff(**whose, seconds=seconds))


# -- PipeWire ------------------------------------------------------------------------


class _Info(msgspec.Struct):
    props: dict[str, object] = {}


class _Object(msgspec.Struct):
    """An object of ``pw-dump``."""

    id: int
    type: str
    info: _Info | None = None

    def text(self, name: str) -> str:
        """Return a property of it, or nothing."""
        return str((self.info or _Info()).props.get(name, ""))


async def find_camera() -> Camera:
    """Return the camera that the session prefers.  Raises SetupError, UpstreamError."""
    words = ["pw-dump"]
    dump = await run_tool(words, output_limit=_DUMP_BYTES, deadline=START_SECONDS)
    found = camera_in(dump)
    if found is None:
        raise SetupError("PipeWire of this session has no camera")
    return found


def camera_in(dump: bytes) -> Camera | None:
    """Return the camera of a list of all objects.  Raises UpstreamError."""
    try:
        objects = msgspec.json.decode(dump, type=list[_Object])
    except UNREADABLE as error:
        raise UpstreamError(f"pw-dump answers something else: {error}") from error
    cameras, factory = [], -1
    for one in objects:
        if one.text("factory.name") == "client-node":
            factory = one.id
        # A screen that a program shares is a source of video, too.
        # guard: what is shown as a camera is one
        if one.type == _NODE and (
            one.text("media.class") == "Video/Source"
            and one.text("media.role") == "Camera"
        ):
            cameras.append(one)
    if not cameras or factory < 0:
        return None
    best = max(cameras, key=lambda one: (_number(one, "priority.session"), -one.id))
    title = printable(best.text("node.description") or best.text("node.name"), 100)
    return Camera(best.id, _number(best, "object.serial"), title, factory)


def _number(one: _Object, name: str) -> int:
    text = one.text(name)
    return int(text) if text.isdecimal() else 0


def pipewire_socket(environ: Mapping[str, str]) -> Path:
    """Return the socket of the session's PipeWire (pipewire(1)).  Raises SetupError."""
    for name in ("PIPEWIRE_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        if environ.get(name):
            return Path(environ[name], environ.get("PIPEWIRE_REMOTE", "pipewire-0"))
    raise SetupError("nothing says where PipeWire is: XDG_RUNTIME_DIR is not set")


# -- the process that takes the pictures -------------------------------------------------


@asynccontextmanager
async def pictures(
    camera: Camera, size: tuple[int, int]
) -> AsyncIterator[socket.socket]:
    """Take pictures while the block runs; yields where they come, one behind the other.

    Raises SetupError, UpstreamError.
    """
    place = UnixEndpoint(pipewire_socket(os.environ))
    server = await connect(place, deadline=limits.ADMIT_SECONDS, descriptors=True)
    with ExitStack() as ours:
        ours.enter_context(server)
        near, far = (ours.enter_context(end) for end in socket.socketpair())
        tool, rules = sealed([files_tool()]), sealed([box_filters.box_filter()])
        ours.callback(os.close, tool)
        ours.callback(os.close, rules)
        seen = (server.fileno(), camera.factory, camera.number)
        words = [
            # What a camera can have it take
            *("prlimit", f"--as={_MEMORY_BYTES}:{_MEMORY_BYTES}", "--core=0:0", "--"),
            *("bwrap", "--seccomp", str(rules), *jail_words()),
            *(*python_words(), f"/proc/self/fd/{tool}", "narrowed"),
            *map(str, seen),
            *pipeline(camera, size, server.fileno(), far.fileno()),
        ]
        fds = (rules, tool, server.fileno(), far.fileno())
        child = spawn(
            words, name="camera", pass_fds=fds, stderr=DEVNULL, stdout=DEVNULL
        )
        try:
            far.close()
            server.close()
            near.setblocking(False)  # noqa: FBT003 -- as the pump has its sockets
            # guard: a camera without pictures is not waited for
            with trio.fail_after(START_SECONDS):
                await trio.lowlevel.wait_readable(near)
            yield near
        except trio.TooSlowError as error:
            raise UpstreamError("the camera gives no picture") from error
        finally:
            # guard: the camera is closed with its permission
            child.kill()
            with trio.CancelScope(shield=True):
                await child.wait()


def pipeline(
    camera: Camera, size: tuple[int, int], server: int, out: int
) -> Iterator[str]:
    """Return GStreamer's command line; only numbers of ours are in it.

    Raises SetupError where a part is not installed.
    """
    width, height = size
    side = f"[1,{_SIDE}]"
    yield from (_PROGRAM, "--no-fault", f"--gst-plugin-load={','.join(_plugins())}")
    yield from ("pipewiresrc", f"fd={server}", f"target-object={camera.serial}")
    # Times of a camera may be those of its own clock.
    yield from ("do-timestamp=true", "!")
    # No picture of 2^31 pixels is taken
    yield from (f"video/x-raw,width={side},height={side}", "!")
    yield from ("videorate", "drop-only=true", f"max-rate={RATE}", "!")
    yield from ("videoconvert", "!", "videoscale", "add-borders=true", "!")
    form = f"video/x-raw,format=I420,width={width},height={height}"
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
