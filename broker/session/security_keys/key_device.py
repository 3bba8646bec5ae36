"""The security key of this machine, and the process between it and one guest.

A session child opens the hidraw device and starts that process.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from broker.core.errors import RefusedError, SetupError
from broker.helpers.process.popen import Process, our_program
from broker.helpers.tools import profiles
from broker.ipc.session.media_orders import OPEN_SECURITY_KEY, OpenSecurityKey
from broker.session.order_exchange import OrderExchange
from broker.session.security_keys.key_permits import KeyPermits
from broker.session.warrant_check import VerifiedPermit
from broker.wire.fdpass import close_all
from broker.wire.row import serves

_HIDRAW = Path("/sys/class/hidraw")
_FIDO_USAGE = re.compile(rb"\x06\xd0\xf1")
"""Usage Page (0xF1D0), the beginning of a FIDO report descriptor (CTAP 2.1, 11.2.8.2)."""
_REPORT_DESCRIPTOR_BYTES = 4096
_CAPTURED = 2
"""Our standard error, a file in memory."""


def find_keys(root: Path = _HIDRAW) -> Iterator[Path]:
    """Yield the device nodes of the security keys of this machine."""
    for entry in sorted(root.glob("hidraw*")):
        with contextlib.suppress(OSError):
            with (entry / "device/report_descriptor").open("rb") as file:
                descriptor = file.read(_REPORT_DESCRIPTOR_BYTES)
            if _FIDO_USAGE.match(descriptor):
                yield Path("/dev") / entry.name


def open_key(root: Path = _HIDRAW) -> int:
    """Return the open node of the one security key.

    Raises RefusedError without one or with several, SetupError when it may
    not be opened.
    """
    found = list(find_keys(root))
    if len(found) != 1:
        words = "no security key is" if not found else f"{len(found)} security keys are"
        raise RefusedError(
            f"{words} plugged in", hint="plug in exactly one security key"
        )
    try:
        return os.open(found[0], os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise SetupError(
            f"cannot open {found[0]}: {error.strerror}",
            hint="install libfido2-1 or libu2f-udev, whose udev rule gives local users access",
        ) from error


@serves(OPEN_SECURITY_KEY)
def serve_key(exchange: OrderExchange, _request: OpenSecurityKey) -> None:
    """Serve a guest's connection until it ends; the viewer answers the questions.

    It goes on by the permit for the connection.  Raises RefusedError and
    SetupError where there is no key, PeerError for a wrong answer.
    """
    guest, questions = exchange.fds
    connection = exchange.permit
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fds = (guest, open_key(), far.detach())
    words = [*map(str, fds), secrets.token_hex(8)]
    argv = our_program(*profiles.SECURITY_KEY.start, *words)
    # Its standard streams are not our files: it may read and write whatever it
    # has, as the terminal in which the broker runs.
    # guard: a process of a security key has none of the broker's files
    output = _CAPTURED
    # guard: a process of a security key has no variables of the session
    env = {"PATH": os.defpath}

    def begun(_process: Process) -> None:
        close_all(fds)
        exchange.answer()

    with near, socket.socket(fileno=questions) as viewer:
        exchange.run(
            argv,
            env=env,
            pass_fds=fds,
            stdout=output,
            stderr=output,
            on_start=begun,
            permit=VerifiedPermit(connection),
            readers=KeyPermits(exchange.check, connection, near, viewer).readers(),
        )
