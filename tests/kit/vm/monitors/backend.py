"""The machine of a stand-in: QEMU and vhost-device-vsock.  Standard library only.

The guest's connections are relayed by the stand-in's own process, because the real
VMM is the process that connects, and a lease recognises it by that.  Everything ends
with that process: it is the first one of its pid namespace.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

PLACE = Path("/stand-in")
"""A directory in memory that the wrapped bubblewrap adds to the jail."""
_BOOT = "tsc_early_khz=2600000 lpj=4000000 no_timer_check"
"""For an emulated processor: the real VMM runs under KVM."""
_CHUNK = 1 << 16


class Machine:
    """Settings of a machine, collected by an API."""

    def __init__(self):
        self.memory_mib = 128
        self.cpus = 1
        self.kernel = ""
        self.initrd = ""
        self.cmdline = ""
        self.disks = []
        """(path, read-only, serial)"""
        self.taps = []
        """TAP devices, each a network interface: name, and MAC or None."""
        self.cid = 0
        self.uds = ""
        self.ends_by_reset = True
        self.vsock = f"{PLACE}/vhost.sock"
        """Where vhost-device-vsock waits for QEMU."""
        self.exits = {}
        """Exit codes by QEMU's event; empty: 0 for the one that ends it."""
        self._qmp = None

    def start(self, *, vhost, paused=False):
        """Start the guest; returns when QEMU runs it."""
        self._start_vsock(vhost)
        self.start_qemu(paused=paused)

    def _start_vsock(self, vhost):
        inner = PLACE / "v.sock"
        words = [vhost, "--guest-cid", str(self.cid), "--uds-path", str(inner)]
        backend = subprocess.Popen([*words, "--socket", str(PLACE / "vhost.sock")])
        wait_for(PLACE / "vhost.sock", backend)
        for door in Path(self.uds).parent.glob(f"{Path(self.uds).name}_*"):
            listener = listen(f"{inner}_{door.name.rpartition('_')[2]}")
            serve(listener, str(door))

    def start_qemu(self, *, paused):
        """Start the guest; its vsock is there."""
        qemu = subprocess.Popen(self.words(paused=paused), stdin=subprocess.DEVNULL)
        wait_for(PLACE / "qmp", qemu)
        self._qmp = connect(str(PLACE / "qmp"))
        self._qmp.sendall(b'{"execute": "qmp_capabilities"}\n')
        threading.Thread(target=self._watch, args=(qemu,), daemon=True).start()

    def command(self, name, **arguments):
        """Send a command to QEMU; its answer is not awaited."""
        line = json.dumps({"execute": name, "arguments": arguments})
        self._qmp.sendall(line.encode() + b"\n")

    def words(self, *, paused):
        """Return QEMU's command line."""
        size = f"{self.memory_mib}M"
        memory = f"memory-backend-memfd,id=mem,size={size},share=on"
        words = [
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-nographic"),
            *("-machine", "q35,vmport=off,usb=off,memory-backend=mem"),
            *("-accel", "tcg,thread=multi,tb-size=64", "-cpu", "max"),
            *("-m", size, "-smp", str(self.cpus), "-object", memory),
            *("-kernel", self.kernel, "-initrd", self.initrd),
            *("-append", f"{self.cmdline} {_BOOT}"),
            *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
            *("-chardev", f"socket,id=vsock,path={self.vsock}"),
            *("-device", "vhost-user-vsock-pci,chardev=vsock"),
            *("-device", "virtio-rng-pci"),
            *("-qmp", f"unix:{PLACE}/qmp,server=on,wait=off"),
            # A guest that switches off stays, where the real VMM would.
            *(("-action", "shutdown=pause") if self.ends_by_reset else ()),
            *(("-S",) if paused else ()),
        ]
        for number, (name, mac) in enumerate(self.taps):
            tap = f"tap,id=n{number},ifname={name},script=no,downscript=no"
            device = f"virtio-net-pci,netdev=n{number}" + (f",mac={mac}" if mac else "")
            words += ["-netdev", tap, "-device", device]
        for number, (path, read_only, serial) in enumerate(self.disks):
            node = {
                "driver": "raw",
                "node-name": f"d{number}",
                "read-only": read_only,
                "file": {"driver": "file", "filename": path, "read-only": read_only},
            }
            named = f",serial={serial}" if serial else ""
            device = f"virtio-blk-pci,drive=d{number}{named}"
            words += ["-blockdev", json.dumps(node), "-device", device]
        return words

    def _watch(self, qemu):
        """End with the guest, as the real VMM does."""
        exits = self.exits or {"RESET" if self.ends_by_reset else "SHUTDOWN": 0}
        for line in self._qmp.makefile("rb"):
            event = json.loads(line)
            if event.get("event") in exits and event["data"].get("guest"):
                end(exits[event["event"]])
        end(1 if qemu.wait() else 0)


def end(code):
    """End this process and, with it, the machine."""
    os._exit(code)


def find_vhost(places):
    """Return vhost-device-vsock of these places or of PATH."""
    for place in places:
        if os.access(place, os.X_OK):
            return place
    return shutil.which("vhost-device-vsock")


def wait_for(path, process):
    """Wait until a socket's file is there."""
    until = time.monotonic() + 60
    while not path.exists():
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"no {path}: {process.args}")
        time.sleep(0.01)


def listen(path):
    """Return a socket that listens at ``path``.  Raises OSError where one is."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    return listener


def connect(path):
    """Connect to a UNIX socket."""
    conn = socket.socket(socket.AF_UNIX)
    conn.connect(path)
    return conn


def from_host(listener):
    """Pass the host's connections on to the guest, once it is there."""
    serve(listener, str(PLACE / "v.sock"))


def serve(listener, target):
    """Pass each connection of ``listener`` on to ``target``."""

    def accept():
        while True:
            conn, _ = listener.accept()
            try:
                other = connect(target)
            except OSError:
                conn.close()
                continue
            for pair in ((conn, other), (other, conn)):
                threading.Thread(target=_copy, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def _copy(source, target):
    try:
        while data := source.recv(_CHUNK):
            target.sendall(data)
    except OSError:
        pass  # the other direction has ended both
    for conn in (source, target):
        try:
            conn.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue
