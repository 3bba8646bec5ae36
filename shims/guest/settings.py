"""Settings of the agent: environment variables and kernel arguments."""

from __future__ import annotations

import socket
from typing import Dict, List

from shims.guest.address import Address
from shims.guest.launch import LAUNCH, LAUNCH_LOW_PORTS, launch_secret
from shims.guest.loop import log
from shims.guest.network_cards import NetworkCard
from shims.guest.pid1 import RUNTIME
from shims.guest.protocol import (
    AGENT_PORT,
    AUDIO_PORT,
    DEVICES_PORT,
    DISPLAY_PORT,
    FOLDERS_PORT,
    HOST_CID,
    LOW_PORT_OFFSET,
    PIECE_BYTES,
    PORT_SOCKETS,
    SECURITY_KEY_PORT,
)

ORPHAN_SECONDS = 60.0


def take_address(text: str) -> str:
    """Check an IPv4 address for a script; "" for another text."""
    try:
        return socket.inet_ntoa(socket.inet_aton(text)) if text else ""
    except OSError:
        log(f"vitrail.dns is not an address: {text!r}")
        return ""


def take_cards(text: str) -> List[NetworkCard]:
    """Return the cards of ``vitrail.cards``, which is written by our own VMM's side."""
    found = (card.split(",") for card in text.split("/") if card)
    return [NetworkCard(*words) for words in found if len(words) == 6]


class Settings:
    """Where the broker is and what kind of guest this is."""

    def __init__(self, environ: Dict[str, str], cmdline: str) -> None:
        values = dict(
            word[8:].partition("=")[::2]
            for word in cmdline.split()
            if word.startswith("vitrail.")
        )
        self.secret = launch_secret(environ.get("VITRAIL_SECRET", ""))
        self._environ = environ
        self.port = values.get("streams", "") == "port"
        self.batch = values.get("sched", "") == "batch"
        self.agent = self._address("VITRAIL_AGENT", AGENT_PORT, "vitrail.Agent")
        self.display = self._address("VITRAIL_DISPLAY", DISPLAY_PORT, "vitrail.Display")
        self.audio = self._address("VITRAIL_AUDIO", AUDIO_PORT, "vitrail.Audio")
        self.devices = self._address("VITRAIL_DEVICES", DEVICES_PORT, "vitrail.Device")
        self.security_key = self._address(
            "VITRAIL_SECURITY_KEY", SECURITY_KEY_PORT, "vitrail.SecurityKey"
        )
        self.folders = self._address("VITRAIL_FOLDER", FOLDERS_PORT, "vitrail.Folder")
        self.runtime = environ.get("VITRAIL_RUNTIME", RUNTIME)
        pieces = environ.get("VITRAIL_PIECES", "")
        self.pieces = PIECE_BYTES
        if pieces.isdigit() and int(pieces):
            self.pieces = min(int(pieces), PIECE_BYTES)
        self.name = values.get("name", "")
        self.network = values.get("net", "")
        self.cards = take_cards(values.get("cards", ""))
        self.router = values.get("router", "") == "1"
        self.dns = take_address(values.get("dns", ""))
        self.disposable = values.get("disposable", "") == "1"
        self.parent = values.get("parent", "") == "1"
        self.gpu = values.get("gpu", "") == "1"
        self.arena = values.get("pixels", "") == "arena"
        self.last_region = values.get("root", "") == "pmem"
        self.warm = values.get("warm", "")
        self.keep = [word for word in values.get("keep", "").split(",") if word]
        self.disk = values.get("disk", "")
        orphan = values.get("orphan", "")
        self.orphan = float(orphan) if orphan.isdigit() else ORPHAN_SECONDS

    def _address(self, variable: str, port: int, service: str) -> Address:
        """Return the broker's address of one port, as set or by default."""
        privileged = LAUNCH.get("LAUNCH_LOW_PORTS", LAUNCH_LOW_PORTS)
        low = LOW_PORT_OFFSET if privileged else 0
        standard = f"vsock:{HOST_CID}:{port - low}"
        if self.port:
            standard = f"port:{PORT_SOCKETS}/{port}"
        text = self._environ.get(variable, standard)
        return Address(text, service, self.secret)
