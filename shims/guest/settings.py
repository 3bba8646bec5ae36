"""Settings of the agent: environment variables and kernel arguments."""

from __future__ import annotations

import re
import socket
from typing import Dict, List, Mapping, Tuple

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
DOMAIN = re.compile(r"[A-Za-z0-9_.-]{1,253}")


def resolver_settings(values: Mapping[str, str]) -> Tuple[List[str], List[str]]:
    """Return the name servers that DHCP cannot name, and the search list.

    They are ``vitrail.dns``, ``vitrail.dns6`` and ``vitrail.search``, or the fields of
    these names of a copy's identity.  A script gets them: other texts are left out.
    """
    resolvers = []
    for name, family in (("dns", socket.AF_INET), ("dns6", socket.AF_INET6)):
        text = values.get(name, "")
        try:
            packed = socket.inet_pton(family, text) if text else b""
        except OSError:
            log(f"vitrail.{name} is not an address: {text!r}")
            continue
        if packed:
            resolvers.append(socket.inet_ntop(family, packed))
    domains = values.get("search", "").split(",")
    return resolvers, [domain for domain in domains if DOMAIN.fullmatch(domain)]


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
        self.resolvers, self.search = resolver_settings(values)
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
