"""Disks of the user's images, by their tags, and a record's file systems in memory.

The device of a disk has its tag as its serial number.  Its programs read it by the link
``/dev/disk/by-tag/TAG``, as those of libvirt-sandbox do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Callable, List

from shims.guest.pid1 import MS_NODEV, MS_NOSUID
from shims.guest.storage import sysfs_text

BY_TAG = "/dev/disk/by-tag"
MOUNT_DISK = """
"$1" umount -l "$3" 2>/dev/null # of a disk that is gone
"$1" mkdir -p "$3" && exec "$1" mount -t ext4 -o "$4" "$2" "$3"
"""
APPEARED_SECONDS = 10.0
DISK_LOOK_SECONDS = 0.05


def disk_of(tag: str) -> str:
    """Return the device of a disk; empty if it is not there (yet)."""
    for name in sorted(os.listdir("/sys/block")):
        if sysfs_text(f"/sys/block/{name}/serial").strip() == tag:
            device = f"/dev/{name}"
            return device if os.path.exists(device) else ""
    return ""


def disk_number(device: str) -> str:
    """Return the number that no other disk has had, also not of this name (Linux 5.15)."""
    return sysfs_text(f"/sys/block/{os.path.basename(device)}/diskseq").strip()


def when_there(
    tag: str,
    later: Callable[[float, Callable[[], None]], object],
    found: Callable[[str], None],
) -> None:
    """Call ``found`` with a disk's device, or with nothing if it does not appear."""

    def look(rest: float) -> None:
        device = disk_of(tag)
        if device or rest <= 0:
            found(device)
        else:
            later(DISK_LOOK_SECONDS, lambda: look(rest - DISK_LOOK_SECONDS))

    look(APPEARED_SECONDS)


def link_disk(tag: str, device: str, uid: int, gid: int) -> None:
    """Give a disk's device to the guest's user, and link it.  Raises OSError."""
    os.chown(device, uid, gid)
    os.makedirs(BY_TAG, mode=0o755, exist_ok=True)
    unlink_disk(tag)
    os.symlink(os.path.relpath(device, BY_TAG), f"{BY_TAG}/{tag}")


def unlink_disk(tag: str) -> None:
    """Remove the link of a disk, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{BY_TAG}/{tag}")


def disk_words(device: str, at: str, *, write: bool) -> List[str]:
    """Return the words after busybox of ``MOUNT_DISK``."""
    # A journal of an image that is only read cannot be replayed.
    options = "nosuid,nodev" + ("" if write else ",ro,noload")
    return [device, at, options]


def refused_place(at: str) -> str:
    """Return why nothing is mounted at a path; empty if it may be.

    The guest's user can change names in its home.
    """
    return "" if os.path.realpath(at) == at else f"{at} leads through a link"


def mount_memory(at: str, size: int) -> None:
    """Mount a file system in memory, if it is not there.  Raises OSError."""
    os.makedirs(at, mode=0o755, exist_ok=True)
    if os.path.ismount(at):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size},mode=1777".encode()
    words = (b"tmpfs", os.fsencode(at), b"tmpfs", MS_NOSUID | MS_NODEV, options)
    if libc.mount(*words) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
