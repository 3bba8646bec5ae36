"""``vitrail.Camera``: pictures of the user's camera, for programs of a sandbox.

They come from a camera's node of the session's PipeWire, by a jailed process
(``broker.viewer.calls.video``) whose connection sees that node alone
(``shims.files.video_node``).
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import msgspec
from typing_extensions import override

from broker.core import limits
from broker.core.decoding import UNREADABLE
from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import printable
from broker.helpers.process.spawn import run_tool
from broker.ipc.audit import schema
from broker.net.addresses import UnixEndpoint
from broker.net.endpoints import connect
from broker.viewer.calls.video import (
    START_SECONDS,
    VideoEvent,
    VideoSource,
    VideoUse,
    VideoUses,
)
from broker.viewer.sound.indicator import Wording

SIZES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"640x480": (640, 480), "1280x720": (1280, 720)}
)
"""The sizes that a sandbox may ask for, in pixels."""
_DUMP_BYTES = 16 << 20
_NODE = "PipeWire:Interface:Node"


class Cameras(VideoUses):
    """The uses of cameras by one viewer's sandboxes."""

    noun = "the camera"
    wording = Wording(
        "camera-web", "{} uses your camera", "from {}", "that a camera is open"
    )
    on: ClassVar[VideoEvent] = schema.CameraOn
    off: ClassVar[VideoEvent] = schema.CameraOff

    @override
    @asynccontextmanager
    async def source(self, use: VideoUse) -> AsyncIterator[VideoSource]:
        """See ``VideoUses``."""
        del use
        yield await find_camera()


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


async def find_camera() -> VideoSource:
    """Return the camera that the session prefers.  Raises SetupError, UpstreamError."""
    words = ["pw-dump"]
    dump = await run_tool(words, output_limit=_DUMP_BYTES, deadline=START_SECONDS)
    found = camera_in(dump)
    if found is None:
        raise SetupError("PipeWire of this session has no camera")
    return found


def camera_in(dump: bytes) -> VideoSource | None:
    """Return the camera of a list of all objects.  Raises UpstreamError."""
    try:
        objects = msgspec.json.decode(dump, type=list[_Object])
    except UNREADABLE as error:
        raise UpstreamError(f"pw-dump answers something else: {error}") from error
    cameras, factory = [], -1
    for one in objects:
        # The object of the server that makes nodes of clients
        if one.text("factory.name") == "client-node":
            factory = one.id
        # A screen that a program shares is a source of video, too.
        # guard: only a source with the role of a camera is shown as one
        if one.type == _NODE and (
            one.text("media.class") == "Video/Source"
            and one.text("media.role") == "Camera"
        ):
            cameras.append(one)
    if not cameras or factory < 0:
        return None
    best = max(cameras, key=lambda one: (_number(one, "priority.session"), -one.id))
    title = printable(best.text("node.description") or best.text("node.name"), 100)
    element = f"target-object={_number(best, 'object.serial')}"
    return VideoSource(title or "camera", element, (factory, best.id), _pipewire)


def _number(one: _Object, name: str) -> int:
    text = one.text(name)
    return int(text) if text.isdecimal() else 0


async def _pipewire() -> socket.socket:
    place = UnixEndpoint(pipewire_socket(os.environ))
    return await connect(place, deadline=limits.ADMIT_SECONDS, descriptors=True)


def pipewire_socket(environ: Mapping[str, str]) -> Path:
    """Return the socket of the session's PipeWire (pipewire(1)).  Raises SetupError."""
    for name in ("PIPEWIRE_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        if environ.get(name):
            return Path(environ[name], environ.get("PIPEWIRE_REMOTE", "pipewire-0"))
    raise SetupError("PipeWire cannot be found: XDG_RUNTIME_DIR is not set")
