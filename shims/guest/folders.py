"""Folders of the user's: virtiofs devices, mounted below /folders on request."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Callable, Dict, List

from shims.guest.machine import BUSYBOX
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


class Folders:
    """What is mounted, by the number of its device."""

    def __init__(self, guest: "Guest") -> None:
        self._guest = guest
        self._mounted: Dict[int, str] = {}

    def mount(self, place: int, name: str) -> None:
        """Mount the folder of a device; the device refuses writes where it must."""
        path = f"{FOLDERS}/{name}"
        if self._mounted.get(place) == path:
            self._answer(place, "")
            return
        device = os.path.join(self._guest.settings.runtime, f"folder-{place}")

        def ended(failed: str) -> None:
            if not failed:
                self._mounted[place] = path
            self._answer(place, failed)

        self._run(MOUNT, [device, path, f"vitrail-{place}"], ended)

    def unmount(self, place: int, *, force: bool) -> None:
        """Unmount it; without ``force`` only where no program has files of it open."""
        path = self._mounted.get(place)
        if path is None:
            self._answer(place, "")
            return

        def ended(failed: str) -> None:
            if not failed:
                self._mounted.pop(place, None)
            self._answer(place, failed)

        self._run(UNMOUNT, [path, "yes" if force else "no"], ended)

    def _run(self, script: str, words: List[str], ended: Callable[[str], None]) -> None:
        """Run a script; ``ended`` gets its output where it failed, or nothing."""
        busybox = BUSYBOX if os.path.exists(BUSYBOX) else shutil.which("busybox") or ""
        read, write = os.pipe()
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", script, "folders", busybox, *words],
                stdin=subprocess.DEVNULL, stdout=write, stderr=write,
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
