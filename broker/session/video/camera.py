"""The session's cameras: nodes of its PipeWire.

A session child lists them by pw-dump(1); ``pipewire_video`` takes the pictures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import printable
from broker.session.tools import tool_output

_DUMP_BYTES = 16 << 20
_DUMP_SECONDS = 10.0
_DIGITS = 20
"""Of 64 bits."""
_NODE = "PipeWire:Interface:Node"
# It indents what is in a list, and escapes what is in a text.
_NEXT_LIST = re.compile(rb"(?<=\n\]\n)(?=\[)")


@dataclass(frozen=True)
class Camera:
    """A camera of the session."""

    title: str
    """Escaped."""
    serial: int
    """Of no other object, now or later."""
    shown: tuple[int, int]
    """The objects that a process sees which takes its pictures."""


class _Info(msgspec.Struct):
    props: dict[str, object] = {}


class _Object(msgspec.Struct):
    """An object of ``pw-dump``."""

    id: int
    type: str = ""
    """Empty: it has gone while the objects were listed."""
    info: _Info | None = None

    def text(self, name: str) -> str:
        """Return a property of it, or nothing."""
        return str((self.info or _Info()).props.get(name, ""))


def find_camera(serial: int | None = None) -> Camera:
    """Find a camera; without a number, the session's preferred camera.

    Raises SetupError, UpstreamError.  Runs pw-dump(1), and does not open the camera.
    """
    words = ["pw-dump"]
    dump = tool_output(words, deadline=_DUMP_SECONDS, output_limit=_DUMP_BYTES)
    for camera in cameras_in(dump):
        # guard: pictures are of the camera that was shown
        if serial in {None, camera.serial}:
            return camera
    raise SetupError("this session's PipeWire has no camera")


def cameras_in(dump: bytes) -> list[Camera]:
    """Parse the cameras in the lists of ``pw-dump``, the preferred one first.

    It prints a further list, with ``"info": null``, for an object that goes meanwhile.
    Raises UpstreamError.
    """
    lists = _NEXT_LIST.split(dump)
    try:
        decoded = [msgspec.json.decode(one, type=list[_Object]) for one in lists]
    except UNREADABLE as error:
        raise UpstreamError(f"pw-dump printed invalid data: {error}") from error
    # The last word about each counts.
    objects = {node.id: node for one in decoded for node in one}
    cameras, factory = [], -1
    for node in objects.values():
        # The object of the server that makes nodes of clients
        if node.text("factory.name") == "client-node":
            factory = node.id
        # A screen that a program shares is a source of video, too.
        # guard: only a source with the role of a camera is shown as one
        if node.type == _NODE and (
            node.text("media.class") == "Video/Source"
            and node.text("media.role") == "Camera"
        ):
            cameras.append(node)
    if factory < 0:
        return []
    cameras.sort(key=lambda node: (-_number(node, "priority.session"), node.id))
    return [
        Camera(
            printable(node.text("node.description") or node.text("node.name"), 100)
            or "camera",
            _number(node, "object.serial"),
            (factory, node.id),
        )
        for node in cameras
    ]


def _number(node: _Object, name: str) -> int:
    text = node.text(name)
    # int(3) raises ValueError for thousands of digits.
    # guard: a number of a node hides no camera
    if len(text) > _DIGITS:
        return 0
    return int(text) if text.isdecimal() else 0


def pipewire_socket(environ: Mapping[str, str]) -> Path:
    """Return the socket of the session's PipeWire (pipewire(1)).  Raises SetupError."""
    for name in ("PIPEWIRE_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        if environ.get(name):
            return Path(environ[name], environ.get("PIPEWIRE_REMOTE", "pipewire-0"))
    raise SetupError(
        "cannot find PipeWire: XDG_RUNTIME_DIR is not set",
        hint="start the broker from your desktop session",
    )
