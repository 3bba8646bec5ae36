"""The guest's side of USB devices: hands sockets of the host to vhci-hcd.

It keeps one connection to the broker's device port waiting.  When a device is
to come, 16 bytes arrive on it, and what follows belongs to the kernel: the
socket is given to vhci-hcd, and another connection waits for the next device.

Needs root in the guest and the module vhci-hcd.  Standard library only, Python
3.9.  Nothing on the other side trusts it: it runs in the sandbox.

Settings: environment ``VITRAIL_DEVICES`` (``vsock:CID:PORT`` or ``unix:PATH``).
``VITRAIL_DEVICES_USER`` (``UID:GID``), for a guest without udev: the nodes of devices
are given to this user, and file systems on them are mounted below ``/media``.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Dict, Optional, Tuple

from shims.files.doors import HOST_CID
from shims.files.launch import open_proved
from shims.usb.stderr_log import RETRY_SECONDS, log

HEADER = struct.Struct("<8sII")
MAGIC = b"VitrUSB1"
PORT = 6503
VHCI = Path("/sys/devices/platform/vhci_hcd.0")
SUPER = {5, 6}
"""enum usb_device_speed: USB 3 devices need a port of the other hub."""
VIRTUAL_BUS = "/devices/platform/vhci_hcd."
NETLINK_KOBJECT_UEVENT = 15
UEVENT_GROUP = 1
"""The kernel's own messages, without udevd (Documentation/ABI/stable/sysfs-uevent)."""
UEVENT_BYTES = 16384
MEDIA = Path("/media")
SAFE = "nosuid,nodev"
FREE = 4
"""VDEV_ST_NULL in ``status``."""
MOST_RETRY_SECONDS = 16.0
"""A broker that hands out no devices hangs up at once, and records that each time."""

SERVICE = "vitrail.Device"


def receive_header(sock: socket.socket) -> Optional[Tuple[int, int]]:
    """Read the header and nothing more: each byte after it is the kernel's."""
    found = b""
    while len(found) < HEADER.size:
        more = sock.recv(HEADER.size - len(found))
        if not more:
            return None
        found += more
    magic, devid, speed = HEADER.unpack(found)
    if magic != MAGIC:
        raise ValueError("invalid header")
    return devid, speed


def free_port(speed: int) -> int:
    """Return the first free port of the hub that fits, from the lines of ``status``."""
    wanted = "ss" if speed in SUPER else "hs"
    for line in (VHCI / "status").read_text().splitlines()[1:]:
        words = line.split()
        if len(words) > 2 and words[0] == wanted and int(words[2]) == FREE:
            return int(words[1])
    raise OSError("all ports of vhci-hcd are in use")


def attach(sock: socket.socket, devid: int, speed: int) -> None:
    """Hand a socket to vhci-hcd; raises OSError."""
    port = free_port(speed)
    (VHCI / "attach").write_text(f"{port} {sock.fileno()} {devid} {speed}")
    log(f"attached device {devid >> 16}-{devid & 0xFFFF} at port {port}")


def keep_awake() -> None:
    """Switch off autosuspend: vhci loses a suspended device's events."""
    for device in Path("/sys/bus/usb/devices").glob("*-*"):
        real = device.resolve()
        if "vhci_hcd" in str(real) and re.fullmatch(r"[0-9]+-[0-9.]+", device.name):
            try:
                (device / "power/control").write_text("on")
            except OSError:
                continue


class DeviceNodes:
    """Gives the nodes of devices to the guest's user, and mounts disks.

    Only below our own virtual bus: the machine's other disks do not concern it.
    """

    def __init__(self, uid: int, gid: int) -> None:
        self.uid, self.gid = uid, gid

    def follow(self) -> None:
        """Read the kernel's uevents forever, and act on each."""
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT)
        sock.bind((0, UEVENT_GROUP))
        while True:
            try:
                data = sock.recv(UEVENT_BYTES)
            except OSError as error:  # more messages than there was room for
                log(f"cannot read uevents: {error}")
                continue
            try:
                self.take(uevent(data))
            except (OSError, subprocess.SubprocessError) as error:
                log(f"cannot set up a device node: {error}")

    def take(self, event: Dict[str, str]) -> None:
        """Act on a uevent: give a device's node to the user; mount, unmount disks."""
        name = event.get("DEVNAME", "")
        if not event.get("DEVPATH", "").startswith(VIRTUAL_BUS) or not name:
            return
        path = Path("/dev") / name
        block = event.get("SUBSYSTEM") == "block"
        if event.get("ACTION") == "add":
            os.chown(path, self.uid, self.gid)
            if block:
                self.mount(path)
        elif event.get("ACTION") == "remove" and block:
            unmount(path)

    def mount(self, path: Path) -> None:
        """Mount a device's file system, if it has one."""
        place = MEDIA / path.name
        place.mkdir(parents=True, exist_ok=True)
        # The second is for file systems that store owners.
        for options in (f"{SAFE},uid={self.uid},gid={self.gid},umask=077", SAFE):
            words = ["mount", "-o", options, str(path), str(place)]
            done = subprocess.run(
                words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
            )
            if done.returncode == 0:
                log(f"mounted {path} at {place}")
                return
        place.rmdir()


def unmount(path: Path) -> None:
    """Unmount a disk that has gone, also where a program has a file open."""
    place = MEDIA / path.name
    if place.is_dir():
        subprocess.run(["umount", "-l", str(place)], check=False)
        place.rmdir()


def uevent(data: bytes) -> Dict[str, str]:
    """Return the fields of a message of the kernel."""
    words = data.decode("utf-8", "replace").split("\0")[1:]
    return dict(word.partition("=")[::2] for word in words if "=" in word)


def follow_nodes(user: str) -> None:
    """Start ``DeviceNodes`` for ``UID:GID`` in a separate thread."""
    uid, _, gid = user.partition(":")
    nodes = DeviceNodes(int(uid), int(gid))
    threading.Thread(target=nodes.follow, daemon=True).start()


def wait_for_device(where: str) -> bool:
    """Connect, receive one device, attach it and switch off its autosuspend.

    False if the broker has hung up at once, or the device cannot be attached.
    """
    try:
        sock = open_proved(where, SERVICE)
    except OSError as error:
        log(f"{where}: {error}; retrying in {RETRY_SECONDS:g} s")
        time.sleep(RETRY_SECONDS)
        return True
    began = time.monotonic()
    with sock:
        try:
            header = receive_header(sock)
            if header is None:
                return time.monotonic() - began > RETRY_SECONDS
            attach(sock, *header)
        except (OSError, ValueError) as error:
            log(f"cannot attach a device: {error}")
            return False
    # The kernel has its reference of the socket now.
    time.sleep(0.5)
    keep_awake()
    return True


def serve(where: str) -> None:
    """Connect to the broker's device port again and again; never returns.

    Each socket on which the broker announces a device goes to vhci-hcd, and the device's
    autosuspend is switched off.  Pauses grow on failure.  Nodes and mounts are the work
    of ``DeviceNodes``, in another thread.
    """
    pause = RETRY_SECONDS
    while True:
        if wait_for_device(where):
            pause = RETRY_SECONDS
            continue
        time.sleep(pause)
        pause = min(2 * pause, MOST_RETRY_SECONDS)


def main() -> int:
    """Serve USB devices forever; return 1 if vhci-hcd is not loaded."""
    if not VHCI.is_dir():
        log("the kernel module vhci-hcd is not loaded")
        return 1
    # usbcore: devices that come later are not suspended either.
    try:
        Path("/sys/module/usbcore/parameters/autosuspend").write_text("-1")
    except OSError as error:
        log(f"cannot disable autosuspend: {error}")
    user = os.environ.get("VITRAIL_DEVICES_USER", "")
    if user:
        follow_nodes(user)
    serve(os.environ.get("VITRAIL_DEVICES", f"vsock:{HOST_CID}:{PORT}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
