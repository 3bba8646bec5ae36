"""Folders of the user's, mounted below /folders on request.

Each is a virtiofs device, or a connection to the broker where that is on another machine
than this one's host: sshfs(1) mounts it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from shims.guest.address import CONNECT_SECONDS
from shims.guest.disks import (
    MOUNT_DISK,
    disk_number,
    disk_words,
    link_disk,
    mount_memory,
    refused_place,
    unlink_disk,
    when_there,
)
from shims.guest.pid1 import BUSYBOX
from shims.guest.protocol import TEXT

if TYPE_CHECKING:
    from shims.guest.guest import Guest

FOLDERS = "/folders"
# busybox makes the calls: they wait for the device, and the agent must not.
# A device has its folder in a directory, because the device is there first.
MOUNT = """
set -e
"$1" mkdir -p "$2" "$3"
"$1" mount -t virtiofs -o nosuid,nodev "$4" "$2"
"$1" mount -o bind "$2/here" "$3" || { "$1" umount "$2"; exit 1; }
"$1" umount "$2"
"""
# Without -f an unmount asks the device, which may have ended.
UNMOUNT = """
if [ "$3" = yes ]; then
    "$1" umount -f "$2" || "$1" umount -l "$2" || exit 1
else
    "$1" umount "$2" || exit 1
fi
"$1" rmdir "$2"
"""
# At the broker's end; the only place that is not empty.
SERVED = "/shared/here"
MOUNT_STREAM = """
set -e
"$1" mkdir -p "$2"
exec sshfs ":$4" "$2" -o "$3"
"""
# Where the agent is not root, a unit of the guest package mounts for it.
BY_ROOT = "/run/vitrail-folders"
# The first line is not one of its own: the agent's one file has each import once.
ASK_ROOT = """import socket, sys
try:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(sys.argv[1])
        sock.sendall(sys.argv[2].encode("utf-8", "surrogateescape") + b"\\n")
        answer = b"".join(iter(lambda: sock.recv(4096), b"")).decode("utf-8", "replace")
except OSError as error:
    sys.exit(f"{sys.argv[1]}: {error.strerror}; to have folders mounted, run a new "
             "guest package as root in a guest with systemd")
if answer.split()[-1:] != ["ok"]:
    sys.exit(answer.strip() or "no answer")
"""
MOUNTED_SECONDS = 30.0
LOOK_SECONDS = 0.05


class Folders:
    """The mounts, by the number of its device."""

    def __init__(self, guest: "Guest") -> None:
        self._guest = guest
        self._mounted: Dict[int, str] = {}
        self._tags: Dict[int, str] = {}
        """Of disks."""
        self._disks: Dict[str, str] = {}
        """The kernel's number of each disk, by its tag."""

    def mount(self, message: "Dict[str, Any]") -> None:
        """Mount the folder of a place, as a device or by a stream; or a disk, or memory."""
        place, name, at = message["place"], message["name"], message["at"]
        refused = refused_place(at) if at else ""
        path = at or ("" if message["disk"] else f"{FOLDERS}/{name}")
        if message["disk"] and not refused:
            # Also a known one: a broker that was killed leaves disks, which the next
            # one takes away without the agent, and plugs in again by other names.
            self._mount_disk(place, name, at, write=message["write"])
            return
        if refused or self._mounted.get(place) == path:
            self._answer(place, refused)
            return
        if message["size"]:
            self._mount_memory(place, at, message["size"])
            return
        if message["stream"]:
            self._mount_stream(place, path)
            return
        device = os.path.join(self._guest.settings.runtime, f"folder-{place}")

        def ended(failed: str) -> None:
            if not failed:
                self._mounted[place] = path
            self._answer(place, failed)

        if os.geteuid() == 0:
            self._run(MOUNT, [device, path, f"vitrail-{place}"], ended)
        elif at:
            self._answer(place, f"the agent is not root: it mounts in {FOLDERS} only")
        else:
            self._ask_root("mount", place, path, ended)

    def _mount_disk(self, place: int, tag: str, at: str, *, write: bool) -> None:
        """Link a disk by its tag, and mount it if it has a path."""
        account, number = self._guest.account, ""

        def ended(failed: str) -> None:
            if failed:
                unlink_disk(tag)
            else:
                self._mounted[place], self._tags[place] = at, tag
                self._disks[tag] = number
            self._answer(place, failed)

        def found(device: str) -> None:
            nonlocal number
            if not device:
                self._answer(place, f"the disk {tag} did not appear")
                return
            try:
                link_disk(tag, device, account.uid, account.gid)
            except OSError as error:
                self._answer(place, str(error))
                return
            number = disk_number(device)
            same = number and self._disks.get(tag) == number
            if at and not (same and is_mounted(at)):
                self._run(MOUNT_DISK, disk_words(device, at, write=write), ended)
            else:
                ended("")

        when_there(tag, self._guest.loop.later, found)

    def _mount_memory(self, place: int, at: str, size: int) -> None:
        """Mount a file system in memory now: the programs that need it come next."""
        try:
            mount_memory(at, size)
        except OSError as error:
            self._answer(place, str(error))
            return
        self._mounted[place] = at
        self._answer(place, "")

    def _mount_stream(self, place: int, path: str) -> None:
        """Connect to the broker and have sshfs mount the served directory."""
        if shutil.which("sshfs") is None:
            self._answer(place, "rebuild the image with the package sshfs")
            return

        def connected(sock: "Optional[socket.socket]", code: int) -> None:
            if sock is None:
                self._answer(place, f"cannot connect: {os.strerror(code)}")
                return
            with sock:
                try:
                    sock.settimeout(CONNECT_SECONDS)
                    sock.sendall(bytes([place]))
                    sock.settimeout(None)
                except OSError as error:
                    self._answer(place, f"cannot connect to the broker: {error}")
                    return
                self._start_sshfs(place, path, sock)

        self._guest.settings.folders.connect(self._guest.loop, connected)

    def _start_sshfs(self, place: int, path: str, sock: socket.socket) -> None:
        """Start sshfs on a connection; unmount when it ends."""
        account = self._guest.account
        options = (
            "passive,allow_other,default_permissions,nosuid,nodev,dcache_timeout=1,"
            f"uid={account.uid},gid={account.gid}"
        )
        waiting = True

        def ended(failed: str) -> None:
            nonlocal waiting
            was, waiting = waiting, False
            if self._mounted.get(place) == path:
                self._mounted.pop(place)
            if was:
                self._answer(place, failed or "sshfs ended")

        def look(rest: float) -> None:
            nonlocal waiting
            if not waiting:
                return
            if is_mounted(path):
                waiting = False
                self._mounted[place] = path
                self._answer(place, "")
            elif rest > 0:
                loop.later(LOOK_SECONDS, lambda: look(rest - LOOK_SECONDS))

        loop = self._guest.loop
        self._run(MOUNT_STREAM, [path, options, SERVED], ended, sock)
        look(MOUNTED_SECONDS)

    def unmount(self, place: int, *, force: bool) -> None:
        """Unmount a folder; without ``force`` only an unused one."""
        path = self._mounted.get(place)
        if path is None:
            self._answer(place, "")
            return

        def ended(failed: str) -> None:
            if not failed:
                self._mounted.pop(place, None)
                if place in self._tags:
                    unlink_disk(self._tags.pop(place))
            self._answer(place, failed)

        if not path:  # a disk that is not mounted
            ended("")
            return
        if os.geteuid() == 0:
            self._run(UNMOUNT, [path, "yes" if force else "no"], ended)
        else:
            self._ask_root("force" if force else "unmount", place, path, ended)

    def _ask_root(
        self, verb: str, place: int, path: str, ended: Callable[[str], None]
    ) -> None:
        """Have root mount or unmount a folder, by the unit of the guest package.

        Starts a program that writes to that unit's socket.
        """
        name = os.path.basename(path)
        if "\n" in name:
            ended("its name has more than one line")
            return
        words = [BY_ROOT, f"{verb} {place} {name}"]
        self._start([sys.executable, "-I", "-c", ASK_ROOT, *words], ended)

    def _run(
        self,
        script: str,
        words: List[str],
        ended: Callable[[str], None],
        sock: "Optional[socket.socket]" = None,
    ) -> None:
        """Run a script of busybox; call ``ended`` with its errors.

        ``sock``: its standard input and output.
        """
        busybox = BUSYBOX if os.path.exists(BUSYBOX) else shutil.which("busybox") or ""
        self._start(["/bin/sh", "-c", script, "folders", busybox, *words], ended, sock)

    def _start(
        self,
        argv: List[str],
        ended: Callable[[str], None],
        sock: "Optional[socket.socket]" = None,
    ) -> None:
        """Start a program; see ``_run``."""
        read, write = os.pipe()
        ends = (subprocess.DEVNULL, write) if sock is None else (sock.fileno(),) * 2
        try:
            process = subprocess.Popen(
                argv,
                stdin=ends[0], stdout=ends[1], stderr=write,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            os.close(read)
            ended(str(error))
            return
        finally:
            os.close(write)
        os.set_blocking(read, False)

        def done(code: int) -> None:
            try:
                text = os.read(read, 4096).decode("utf-8", "replace").strip()
            except BlockingIOError:
                text = ""
            os.close(read)
            ended((text or f"code {code}") if code else "")

        self._guest.loop.child(process, done)

    def _answer(self, place: int, failed: str) -> None:
        self._guest.agent.send(
            "mounted", place=place, ok=not failed, detail=failed[:TEXT]
        )


def is_mounted(path: str) -> bool:
    """Return whether a file system is mounted there, as the kernel says."""
    # As proc(5) writes paths.
    for character in "\\ \t\n":
        path = path.replace(character, f"\\{ord(character):03o}")
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        return any(line.split(" ")[1] == path for line in file)
