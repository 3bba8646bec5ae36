"""Inside the VM, as root: one stick to vhci over each kind of socket, and read.

    bench_guest.py PORT REPEATS

Prints a JSON line for each turn: the kind, seconds from the verdict to the guest's
vhci, to the disk, and of both reads.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import socket
import sys
import time
from pathlib import Path

import trio

from broker.root import usbip
from broker.root.sysfs import SysfsDevice

LARGE, SMALL = 1 << 20, 4096
SMALL_READS = 200


def tcp():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for end in (one, other):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other


def vsock():
    with socket.socket(socket.AF_VSOCK) as listener:
        listener.bind((socket.VMADDR_CID_ANY, 6555))
        listener.listen()
        one = socket.socket(socket.AF_VSOCK)
        one.connect((1, 6555))
        other, _ = listener.accept()
    return one, other


KINDS = {"tcp": tcp, "vsock": vsock}


def disk():
    """The node of a disk of vhci, once it can be opened: sysfs has it earlier."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for block in Path("/sys/block").glob("sd*"):
            node = Path("/dev") / block.name
            if "vhci_hcd" in str(block.resolve()) and opens(node):
                return node
        time.sleep(0.002)
    raise SystemExit("no disk came")


def opens(node):
    try:
        os.close(os.open(node, os.O_RDONLY))
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENXIO, errno.ENOMEDIUM}:
            return False
        raise
    return True


def read(node, size, most):
    """Seconds to read with O_DIRECT; a disk that has ended is begun again."""
    buffer = mmap.mmap(-1, size)
    fd = os.open(node, os.O_RDONLY | os.O_DIRECT)
    began = time.monotonic()
    for number in range(most):
        if os.preadv(fd, [buffer], number * size) != size:
            raise SystemExit("the disk ended early")
    took = time.monotonic() - began
    os.close(fd)
    return took


def turn(kind, port):
    sys.path.insert(0, "/srv")
    from shims.usb import usb_devices

    held = SysfsDevice(port)
    decided = held.describe()
    one, other = KINDS[kind]()
    began = time.monotonic()
    made = usbip.export(held, decided, one)
    usb_devices.attach(other, made.devid, made.speed)
    attached = time.monotonic() - began
    node = disk()
    there = time.monotonic() - began
    found = {
        "kind": kind,
        "attached": attached,
        "disk": there,
        "large": read(node, LARGE, 16),
        "small": read(node, SMALL, SMALL_READS),
    }
    one.close()
    other.close()
    trio.run(lambda: usbip.release(held, authorize=False))
    held.close()
    while any("vhci" in str(b.resolve()) for b in Path("/sys/block").glob("sd*")):
        time.sleep(0.01)
    return found


def main():
    port, repeats = sys.argv[1], int(sys.argv[2])
    for _ in range(repeats):
        for kind in KINDS:
            print(json.dumps(turn(kind, port)), flush=True)


if __name__ == "__main__":
    main()
