"""Settings of the agent: environment variables and kernel arguments."""

from __future__ import annotations

import socket
from typing import Dict

from shims.guest.address import Address
from shims.guest.loop import log
from shims.guest.machine import RUNTIME
from shims.guest.protocol import (
    AGENT_PORT,
    AUDIO_PORT,
    DISPLAY_PORT,
    HOST_CID,
    PIECE_BYTES,
)

ORPHAN_SECONDS = 60.0


def take_address(text: str) -> str:
    """Return an IPv4 address as text, or nothing: it goes into a script."""
    try:
        return socket.inet_ntoa(socket.inet_aton(text)) if text else ""
    except OSError:
        log(f"vitrail.dns is no address: {text!r}")
        return ""


class Settings:
    """Where the broker is and what kind of guest this is."""

    def __init__(self, environ: Dict[str, str], cmdline: str) -> None:
        words = dict(
            word[8:].partition("=")[::2]
            for word in cmdline.split()
            if word.startswith("vitrail.")
        )
        agent = environ.get("VITRAIL_AGENT", f"vsock:{HOST_CID}:{AGENT_PORT}")
        display = environ.get("VITRAIL_DISPLAY", f"vsock:{HOST_CID}:{DISPLAY_PORT}")
        audio = environ.get("VITRAIL_AUDIO", f"vsock:{HOST_CID}:{AUDIO_PORT}")
        self.agent = Address(agent)
        self.display = Address(display)
        self.audio = Address(audio)
        self.runtime = environ.get("VITRAIL_RUNTIME", RUNTIME)
        pieces = environ.get("VITRAIL_PIECES", "")
        self.pieces = PIECE_BYTES
        if pieces.isdigit() and int(pieces):
            self.pieces = min(int(pieces), PIECE_BYTES)
        self.name = words.get("name", "")
        self.network = words.get("net", "")
        self.dns = take_address(words.get("dns", ""))
        self.disposable = words.get("disposable", "") == "1"
        self.template = words.get("template", "") == "1"
        self.warm = words.get("warm", "")
        self.keep = [word for word in words.get("keep", "").split(",") if word]
        orphan = words.get("orphan", "")
        self.orphan = float(orphan) if orphan.isdigit() else ORPHAN_SECONDS
