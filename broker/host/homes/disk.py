"""The file system in which a micro VM keeps its home.

We make it (mke2fs), lengthen its file, and never read it again: its content is
the guest's, and a hostile file system is for the guest's kernel alone to mount,
to replay and to check.

The host runs it before a start, and ``brokerctl sandbox reset`` for an empty disk.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from broker.core import limits
from broker.core.distribution import install_hint
from broker.core.errors import SetupError
from broker.core.names import SandboxName
from broker.helpers.process.spawn import run_tool
from broker.host.homes.store import DISK, Home, HomeStore
from broker.ipc.in_thread import in_thread

LABEL = "vitrail-home"
"""Of the file system, for people who look at the file."""


def find_mke2fs() -> str:
    """Return the path of mke2fs.  Raises SetupError with its package."""
    found = shutil.which("mke2fs", path=f"{os.defpath}:/usr/sbin:/sbin")
    if found is None:
        raise SetupError(
            "cannot create the home of a persistent sandbox: mke2fs is not installed",
            hint=install_hint("e2fsprogs"),
        )
    return found


async def make_disk(path: Path, size: int) -> None:
    """Make an empty ext4 of ``size`` bytes; the file is sparse.

    Raises SetupError without mke2fs, UpstreamError when it fails.  Creates the file,
    and runs mke2fs(8) on it.
    """
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)
    await run_tool(
        [
            *(find_mke2fs(), "-q", "-F", "-t", "ext4", "-m", "0"),
            *("-L", LABEL),
            *("-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"),
            str(path),
        ],
        deadline=limits.HOME_MAKE_SECONDS,
    )


async def ready_disk(store: HomeStore, name: SandboxName, size: int) -> Home:
    """Return the home of a micro VM, made or grown to ``size`` bytes.

    A home never shrinks.  The caller holds its lock.  Raises SetupError when the home
    is a directory, UpstreamError or OSError when it cannot be made.  Runs mke2fs(8) for
    a new one.
    """
    home = await in_thread(store.find, name)
    if home is None:
        with store.new(DISK) as prepared:
            await make_disk(prepared / DISK, size)
            return await in_thread(store.publish, prepared, name)
    if home.meta.kind != DISK:
        raise SetupError(
            f"cannot use the home of '{name}': it is a directory, which another kind of sandbox uses",
            hint=f"set launch.kind as before, and copy the files that you need; then run 'brokerctl sandbox remove --keep-record {name}'",
        )
    if home.meta.encrypted:
        raise SetupError(
            f"the home of '{name}' is encrypted, but its record does not set encrypted = true",
            hint="set encrypted = true in [state] of the record",
        )
    if home.size() < size:
        # The guest lengthens the file system in it, mounted: resize2fs(8) on
        # the host would parse data of the guest.
        os.truncate(home.disk, size)
    return home
