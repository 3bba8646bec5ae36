"""``vitrail.Camera``: pictures of the user's camera, for programs of a sandbox.

They come from a camera's node of the session's PipeWire, by a jailed process
(``broker.session.video.pipewire_video``) whose connection sees that node alone
(``shims.files.video_node``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import ClassVar

from typing_extensions import override

from broker.ipc.audit import schema
from broker.ipc.session.media_orders import (
    FIND_CAMERA,
    TAKE_CAMERA,
    FindCamera,
    TakeCamera,
)
from broker.viewer.pipewire_video import (
    VideoEvent,
    VideoSource,
    VideoUse,
    VideoUses,
)
from broker.viewer.uses.use_signs import CAMERA

SIZES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"640x480": (640, 480), "1280x720": (1280, 720)}
)
"""The sizes that a sandbox may ask for, in pixels."""


class Cameras(VideoUses):
    """The uses of cameras by one viewer's sandboxes."""

    noun = "the camera"
    kind = CAMERA
    on: ClassVar[VideoEvent] = schema.CameraOn
    off: ClassVar[VideoEvent] = schema.CameraOff

    @override
    @asynccontextmanager
    async def source(self, use: VideoUse) -> AsyncIterator[VideoSource]:
        """See ``VideoUses``; a session child finds the camera."""
        warrant = use.permit.warrant
        answer = await self.session.carry_out(
            FIND_CAMERA, FindCamera(), warrant=warrant
        )
        camera = answer.value
        order = partial(TakeCamera, camera.serial)
        yield VideoSource(
            camera.title,
            TAKE_CAMERA,
            order,
            warrant=warrant,
            renewed=use.permit.renewed,
        )
