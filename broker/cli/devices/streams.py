"""Microphones and cameras of this machine, as ``brokerctl device list`` names them.

They are not handed over: a microphone reaches sandboxes as a stream through the sound
filter, by ``vitrail.AudioInput``; a camera as pictures, by ``vitrail.Camera``, or as the
USB device that it is.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from broker.cli.sound import running_filters, sound_server
from broker.core.errors import VitrailError
from broker.core.escape import printable
from policy.records.device_json import is_port

_CAMERAS = Path("/sys/class/video4linux")


class StreamDevice(msgspec.Struct, frozen=True):
    """A device that is used as a stream; its texts are escaped."""

    kind: str
    """``microphone`` or ``camera``."""
    name: str
    """The sound server's or the kernel's: ``alsa_input…``, ``video0``."""
    title: str
    port: str = ""
    """The USB port of a camera, for ``brokerctl device attach``."""
    sandboxes: tuple[str, ...] = ()
    """Those that hear the microphone now."""


def stream_devices(cameras: Path = _CAMERAS) -> list[StreamDevice]:
    """Return the microphones of the sound server and the kernel's cameras."""
    return [*_microphones(), *_cameras(cameras)]


def _microphones() -> list[StreamDevice]:
    """Return all sources that are not monitors; none without a sound server."""
    try:
        with sound_server() as pulse:
            sources = [s for s in pulse.source_list() if not s.monitor_of_sink_name]
            default = pulse.server_info().default_source_name
    except VitrailError:
        return []  # 'brokerctl audio list' and 'brokerctl doctor' say why
    active = {f.sandbox: f.source for f in running_filters().values() if f.active}
    return [
        StreamDevice(
            kind="microphone",
            name=printable(source.name, 80),
            title=printable(source.description or "", 80),
            sandboxes=tuple(
                sorted(
                    name
                    for name, used in active.items()
                    if used in {source.name, source.description}
                    or (not used and source.name == default)
                )
            ),
        )
        for source in sources
    ]


def _cameras(folder: Path) -> list[StreamDevice]:
    """Return the first node of each camera; the others carry its metadata."""
    if not folder.is_dir():
        return []
    found: list[StreamDevice] = []
    for node in sorted(folder.iterdir()):
        try:
            if (node / "index").read_text().strip() != "0":
                continue
            title = (node / "name").read_text("utf-8", "replace").strip()
        except OSError:
            continue  # unplugged meanwhile
        parents = (parent.name for parent in node.resolve().parents)
        port = next((name for name in parents if is_port(name) and "-" in name), "")
        found.append(StreamDevice("camera", node.name, printable(title, 80), port))
    return found
