"""The mounts of an application's instances are made private, each soon after its start.

Only brokerctl runs this, with the user's rights: it enters the mount namespace of each
instance in a forked child.

Flatpak has no option for private mounts, and D-Bus or the portal start instances without
brokerctl.  So this watches the directory in which Flatpak lists its instances.
"""

from __future__ import annotations

import os
from pathlib import Path

import trio

from broker.authority.file_watch import open_watch
from broker.core.errors import UpstreamError
from broker.helpers.process.namespace_limits import make_mounts_private
from broker.helpers.process.polled import lives
from broker.net.peers.flatpak_instances import leaders_of

_LOOK_SECONDS = 0.02


async def separate_instances(runtime: Path, app: str) -> None:
    """Make the mounts of all present and later instances private, until cancelled.

    ``runtime`` is XDG_RUNTIME_DIR.  Raises UpstreamError if a running instance cannot
    be separated.
    """
    separated = set[int]()
    folder = runtime / ".flatpak"
    async with open_watch([folder]) as watch:
        while True:
            files = watch.look()
            if _separate(runtime, app, separated):
                # The kernel reports no mount of another process's as an event.
                await trio.sleep(_LOOK_SECONDS)
            else:
                await watch.wait_changed(files)


def _separate(runtime: Path, app: str, separated: set[int]) -> bool:
    """Separate instances that are set up; return whether others are not yet."""
    waiting = False
    for leader, pidfd in leaders_of(runtime, app):
        # A number that no other process gets (Linux 6.9).
        process = os.fstat(pidfd).st_ino
        if process in separated:
            continue
        children = Path(f"/proc/{leader}/task/{leader}/children")
        try:
            # bubblewrap starts the program when all is mounted.
            if not children.read_text():
                waiting = True
                continue
            # guard: later mounts of the user do not appear in a Flatpak
            make_mounts_private(leader)
        except (OSError, UpstreamError):
            if lives(pidfd):
                raise
            continue  # it has ended
        separated.add(process)
    return waiting
