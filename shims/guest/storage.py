"""The disk of a persistent sandbox: mounted over the image, written out at the end."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import struct
import subprocess
import time
from typing import List

from shims.guest.loop import log
from shims.guest.pid1 import MS_NODEV

KEPT = "/run/vitrail/kept"  # where the disk is mounted
KEPT_SERIAL = "vitrail-home"
KEPT_SECONDS = 10.0  # until the disk has appeared
REAP_SECONDS = 1.0  # from SIGKILL to the end of the processes that have files open
MS_NOATIME, MS_BIND = 1024, 4096
MNT_DETACH = 2
EXT4_IOC_RESIZE_FS = 0x40086610  # _IOW('f', 16, __u64)


class Storage:
    """The mounts of one disk."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._mounts: List[str] = []

    def mount(self, keep: List[str], disk: str = "") -> None:
        """Mount the disk of what ``keep`` names.

        Raises OSError or SubprocessError.  ``disk``: the device, where the VMM gives it
        no serial number. The caller switches off then: programs must not write into a
        home that is lost at the end.
        """
        device = find_device(disk) if disk else find_disk(KEPT_SERIAL)
        os.makedirs(KEPT, mode=0o700, exist_ok=True)
        flags = MS_NODEV | MS_NOATIME
        self._mount(device, KEPT, "ext4", flags, "discard,errors=remount-ro")
        lengthen(device, KEPT)
        if "home" in keep:
            self._keep_home()

    def close(self) -> None:
        """Sync and unmount the disk; no other process is left."""
        until = time.monotonic() + REAP_SECONDS
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < until:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.01)
        os.sync()
        for target in reversed(self._mounts):
            self._libc.umount2(target.encode(), MNT_DETACH)

    def _keep_home(self) -> None:
        """Mount the disk's home; fill it from the image's first."""
        home = os.path.join(KEPT, "home")
        if not os.path.isdir(home):
            half = home + ".new"
            shutil.rmtree(half, ignore_errors=True)
            subprocess.run(["cp", "-a", "/home", half], check=True)
            os.sync()
            os.rename(half, home)
        self._mount(home, "/home", "", MS_BIND, "")

    def _mount(
        self, source: str, target: str, kind: str, flags: int, options: str
    ) -> None:
        """Mount and note it.  Raises OSError."""
        words = (source.encode(), target.encode(), kind.encode() or None)
        if self._libc.mount(*words, flags, options.encode()) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"mount: {os.strerror(code)}", target)
        self._mounts.append(target)


def lengthen(device: str, mounted: str) -> None:
    """Grow a file system to its disk, while mounted (resize2fs(8))."""
    sectors = sysfs_text(f"/sys/class/block/{os.path.basename(device)}/size")
    fd = os.open(mounted, os.O_RDONLY)
    try:
        blocks = int(sectors) * 512 // os.fstatvfs(fd).f_bsize
        fcntl.ioctl(fd, EXT4_IOC_RESIZE_FS, struct.pack("=Q", blocks))
    except (OSError, ValueError) as error:
        # It is usable as it is, and a write says so when it is full.
        log(f"cannot resize the home: {error}")
    finally:
        os.close(fd)


def find_disk(serial: str) -> str:
    """Wait for the device of this serial number.  Raises OSError when none appears."""
    until = time.monotonic() + KEPT_SECONDS
    while True:
        for name in sorted(os.listdir("/sys/block")):
            if sysfs_text(f"/sys/block/{name}/serial").strip() == serial:
                return f"/dev/{name}"
        if time.monotonic() > until:
            raise OSError(errno.ENODEV, f"disk {serial} does not exist")
        time.sleep(0.02)


def find_device(name: str) -> str:
    """Wait for the block device of this name.  Raises OSError when none appears."""
    until = time.monotonic() + KEPT_SECONDS
    while name not in os.listdir("/sys/block"):
        if time.monotonic() > until:
            raise OSError(errno.ENODEV, f"disk {name} does not exist")
        time.sleep(0.02)
    return f"/dev/{name}"


def sysfs_text(path: str) -> str:
    """Return a short file of the kernel's, or nothing when there is none."""
    try:
        with open(path, encoding="ascii", errors="replace") as source:
            return source.read()
    except OSError:
        return ""
