"""The home of a persistent micro VM: found or made, and locked, before its start.

The host calls it, and brokerctl for a machine that it starts by a script.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from broker.core.names import SandboxName
from broker.host.homes.disk import ready_disk
from broker.host.homes.renaming import recover
from broker.host.homes.store import HomeStore
from broker.host.vmm.qemu_arguments import HomeDisk
from broker.ipc.in_thread import in_thread


async def open_home(
    homes: Path,
    sandbox: SandboxName,
    keep: frozenset[str],
    size: int,
    held: ExitStack,
    *,
    encrypted: bool = False,
) -> HomeDisk:
    """Return the disk of a sandbox, of at least ``size`` bytes.

    Our copy of its lock, and of its passphrase, ends with ``held``, QEMU's with QEMU.
    Raises RefusedError when the home is in use or locked, SetupError when it cannot be
    made.  A new home is made by mke2fs(8), an encrypted one also by qemu-img(1) and
    qemu-io(1).
    """
    store = HomeStore(homes)
    await in_thread(recover, store)
    lock = held.enter_context(store.lock(sandbox))
    if not encrypted:
        home = await ready_disk(store, sandbox, size)
        return HomeDisk(home.disk, keep, lock.fd)
    # Late: few homes are.
    from broker.host.homes.encrypted import (
        passphrase_pipe,
        ready_encrypted_disk,
        require_passphrase,
    )

    passphrase = require_passphrase(sandbox)
    home = await ready_encrypted_disk(store, sandbox, size, passphrase)
    key = passphrase_pipe(passphrase)
    held.callback(os.close, key)
    return HomeDisk(home.disk, keep, lock.fd, key)
