#!/usr/bin/python3
"""The guest's side of USB devices: hands sockets of the host to vhci-hcd.

It keeps one connection to the broker's device port waiting.  When a device is
to come, 16 bytes arrive on it, and what follows belongs to the kernel: the
socket is given to vhci-hcd, and another connection waits for the next device.

Needs root in the guest and the module vhci-hcd.  Standard library only, Python
3.9.  Nothing on the other side trusts it: it runs in the sandbox.

Settings: environment ``VITRAIL_DEVICES`` (``vsock:CID:PORT`` or ``unix:PATH``).
"""

from __future__ import annotations

import errno
import hmac
import os
import re
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Optional, Tuple

HEADER = struct.Struct("<8sII")
MAGIC = b"VitrUSB1"
HOST_CID, PORT = 2, 6503
VHCI = Path("/sys/devices/platform/vhci_hcd.0")
SUPER = {5, 6}
"""enum usb_device_speed: USB 3 devices need a port of the other hub."""
FREE = 4
"""VDEV_ST_NULL in ``status``."""
RETRY_SECONDS = 2.0

PROOF_SECONDS = 10.0
SERVICE = b"vitrail.Device"


def log(text: str) -> None:
    """Write a line to standard error."""
    print(f"vitrail-devices: {text}", file=sys.stderr, flush=True)


def prove(sock: socket.socket) -> None:
    """Prove the launch to the broker and have it prove its own.

    As ``Proof`` of ``vitrail_guest.py``; does nothing where the launch has no
    secret.  Raises OSError when the far end is not our broker.
    """
    path = os.environ.get("VITRAIL_SECRET") or "/run/vitrail/launch-secret"
    try:
        with open(path, encoding="ascii") as file:
            secret = bytes.fromhex(file.read().strip())
    except FileNotFoundError:
        return
    nonces, answer = os.urandom(32), b""
    sock.settimeout(PROOF_SECONDS)
    sock.sendall(b"vitrail launch 1" + nonces)
    while len(answer) < 64:
        more = sock.recv(64 - len(answer))
        if not more:
            raise ConnectionResetError(errno.ECONNRESET, "the broker broke it off")
        answer += more
    nonces += answer[:32]
    broker, guest = (
        hmac.new(secret, label + b"\0" + SERVICE + b"\0" + nonces, "sha256").digest()
        for label in (b"broker", b"guest")
    )
    # guard: the broker proves the launch to the devices tool
    if not hmac.compare_digest(broker, answer[32:]):
        raise PermissionError(errno.EACCES, "the program there did not launch us")
    sock.sendall(guest)
    sock.settimeout(None)


def connect(where: str) -> socket.socket:
    """Connect to ``vsock:CID:PORT`` or ``unix:PATH``; raises OSError."""
    kind, _, rest = where.partition(":")
    sock = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_VSOCK)
    try:
        if kind == "unix":
            sock.connect(rest)
        else:
            cid, _, port = rest.partition(":")
            sock.connect((int(cid), int(port)))
        prove(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def receive_header(sock: socket.socket) -> Optional[Tuple[int, int]]:
    """Read the header and nothing more: each byte behind it is the kernel's."""
    found = b""
    while len(found) < HEADER.size:
        more = sock.recv(HEADER.size - len(found))
        if not more:
            return None
        found += more
    magic, devid, speed = HEADER.unpack(found)
    if magic != MAGIC:
        raise ValueError("not a header")
    return devid, speed


def free_port(speed: int) -> int:
    """Return the first free port of the hub that fits, from the lines of ``status``."""
    wanted = "ss" if speed in SUPER else "hs"
    for line in (VHCI / "status").read_text().splitlines()[1:]:
        words = line.split()
        if len(words) > 2 and words[0] == wanted and int(words[2]) == FREE:
            return int(words[1])
    raise OSError("every port of vhci-hcd is in use")


def attach(sock: socket.socket, devid: int, speed: int) -> None:
    """Hand a socket to vhci-hcd; raises OSError."""
    port = free_port(speed)
    (VHCI / "attach").write_text(f"{port} {sock.fileno()} {devid} {speed}")
    log(f"device {devid >> 16}-{devid & 0xFFFF} at port {port}")


def keep_awake() -> None:
    """Switch autosuspend off: a suspended device cannot wake up through vhci: its events would be lost."""
    for device in Path("/sys/bus/usb/devices").glob("*-*"):
        real = device.resolve()
        if "vhci_hcd" in str(real) and re.fullmatch(r"[0-9]+-[0-9.]+", device.name):
            try:
                (device / "power/control").write_text("on")
            except OSError:
                continue


def serve(where: str) -> None:
    """Wait for devices forever."""
    while True:
        try:
            sock = connect(where)
        except OSError as error:
            log(f"{where}: {error}; again in {RETRY_SECONDS:g} s")
            time.sleep(RETRY_SECONDS)
            continue
        with sock:
            try:
                header = receive_header(sock)
                if header is None:
                    time.sleep(RETRY_SECONDS)
                    continue
                attach(sock, *header)
            except (OSError, ValueError) as error:
                log(f"not attached: {error}")
                time.sleep(RETRY_SECONDS)
        # The kernel has its own reference of the socket now.
        time.sleep(0.5)
        keep_awake()


def main() -> int:
    """Run; 1 where there is no vhci-hcd."""
    if not VHCI.is_dir():
        log("the kernel module vhci-hcd is not loaded")
        return 1
    # usbcore: devices that come later are not suspended either.
    try:
        Path("/sys/module/usbcore/parameters/autosuspend").write_text("-1")
    except OSError as error:
        log(f"autosuspend stays on: {error}")
    serve(os.environ.get("VITRAIL_DEVICES", f"vsock:{HOST_CID}:{PORT}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
