"""The guest's side of a security key: a uhid device that is the host's key.

Programs in the guest find an ordinary FIDO key at /dev/hidraw*; each report goes
to the broker, which lets FIDO messages pass and asks about each use.

Needs root in the guest and the module uhid.  Standard library only, Python 3.9.
Nothing on the other side trusts it: it runs in the sandbox.

Settings: environment ``VITRAIL_SECURITY_KEY`` (``vsock:CID:PORT`` or
``unix:PATH``).  Source: Documentation/hid/uhid.rst, include/uapi/linux/uhid.h.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import threading
import time
from pathlib import Path

from shims.files.doors import HOST_CID
from shims.files.launch import open_proved
from shims.usb.stderr_log import RETRY_SECONDS, log

PORT = 6504
REPORT = 64
EVENT_BYTES = 4380
DESTROY, OUTPUT, CREATE2, INPUT2 = 1, 6, 11, 12
BUS_USB = 3
NAME = "Vitrail security key"
NODE_SECONDS = 1.0
"""Until the kernel has made the node; it has no message that is easy to wait for."""
MOST_RETRY_SECONDS = 64.0
"""A broker without a rule or a key hangs up at once, and records that each time."""
FIDO = bytes.fromhex(
    "06d0f1 0901 a101 0920 1500 26ff00 7508 9540 8102 0921 1500 26ff00 7508 9540 9102 c0"
)
"""The report descriptor of CTAP 2.1, 11.2.8.2: 64 bytes in, 64 bytes out."""

SERVICE = "vitrail.SecurityKey"


def create_event() -> bytes:
    """Return ``UHID_CREATE2``: name, phys, uniq, sizes, ids, descriptor."""
    return struct.pack(
        "<I128s64s64sHHIIII4096s",
        CREATE2,
        NAME.encode(),
        b"vitrail",
        b"",
        len(FIDO),
        BUS_USB,
        0x1209,
        0xF1D0,
        1,
        0,
        FIDO,
    )


def output_report(event: bytes) -> bytes:
    """Return the report of a ``UHID_OUTPUT``; without its number, which is 0."""
    data, size = event[4 : 4 + 4096], struct.unpack_from("<H", event, 4 + 4096)[0]
    report = data[:size]
    if len(report) == REPORT + 1:
        report = report[1:]
    return report[:REPORT].ljust(REPORT, b"\0")


def serve(uhid: int, sock: socket.socket) -> None:
    """Carry reports between uhid and broker until the broker closes."""
    waiting = b""
    poll = select.poll()
    poll.register(uhid, select.POLLIN)
    poll.register(sock, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == uhid:
                event = os.read(uhid, EVENT_BYTES)
                if struct.unpack_from("<I", event)[0] == OUTPUT:
                    sock.sendall(output_report(event))
                continue
            data = sock.recv(REPORT * 16)
            if not data:
                return
            waiting += data
            while len(waiting) >= REPORT:
                report, waiting = waiting[:REPORT], waiting[REPORT:]
                os.write(uhid, struct.pack("<IH", INPUT2, REPORT) + report)


def give_node(user: str) -> None:
    """Give the key's node to ``UID:GID``, in a guest without udev."""
    uid, _, gid = user.partition(":")
    for entry in Path("/sys/class/hidraw").glob("hidraw*"):
        if f"HID_NAME={NAME}\n" in (entry / "device/uevent").read_text():
            os.chown(Path("/dev") / entry.name, int(uid), int(gid))


def serve_once(where: str, uhid: int) -> None:
    """Create a key device while a process of the broker serves it.

    Raises OSError.
    """
    with open_proved(where, SERVICE) as sock:
        os.write(uhid, create_event())
        user = os.environ.get("VITRAIL_DEVICES_USER", "")
        if user:
            threading.Timer(NODE_SECONDS, give_node, [user]).start()
        serve(uhid, sock)


def main() -> int:
    """Serve the key over uhid, reconnecting forever; return 1 without /dev/uhid."""
    where = os.environ.get("VITRAIL_SECURITY_KEY", f"vsock:{HOST_CID}:{PORT}")
    pause = RETRY_SECONDS
    while True:
        try:
            uhid = os.open("/dev/uhid", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            log(f"/dev/uhid: {error}")
            return 1
        began = time.monotonic()
        try:
            serve_once(where, uhid)
        except OSError as error:
            log(f"{where}: {error}; retrying in {pause:g} s")
        finally:
            os.close(uhid)
        served = time.monotonic() - began > RETRY_SECONDS
        pause = RETRY_SECONDS if served else min(2 * pause, MOST_RETRY_SECONDS)
        time.sleep(pause)


if __name__ == "__main__":
    sys.exit(main())
