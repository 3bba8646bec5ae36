"""A vsock of the person's own whose connections arrive at another machine's sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from broker.host.processes.tracked import Tracked, spawn_helper
from broker.host.vmm.hosttools import find_vhost_device_vsock
from broker.host.vmm.vsock_backend import (
    HELPER,
    UDS_NAME,
    hybrid_args,
    hybrid_environment,
)
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.world import World


def cid_of(w: World, directory: Path) -> int:
    """The CID of the vhost-device-vsock whose sockets are below a directory."""
    for words in w.processes().values():
        _, option, rest = words.partition("--guest-cid ")
        if option and str(directory) in rest:
            return int(rest.split()[0])
    raise AssertionError(f"no {HELPER} of {directory}")


@asynccontextmanager
async def impostor(w: World, sockets: Path, cid: int) -> AsyncIterator[Tracked]:
    """vhost-device-vsock with this CID; ``sockets`` has those of another machine.

    A QEMU finds it at ``vhost_of``.
    """
    place = vhost_of(w).parent
    place.mkdir(mode=0o700)
    for path in sockets.glob(f"{UDS_NAME}_*"):
        (place / path.name).symlink_to(path)
    assert list(place.iterdir()), "or it would connect to nothing"
    tool = find_vhost_device_vsock(w.paths)
    assert tool is not None
    words = hybrid_args(tool, cid, vhost_of(w), place / UDS_NAME)
    # Without a jail, in which the links would lead nowhere.
    process = spawn_helper(HELPER, words, env=hybrid_environment())
    try:
        await eventually(lambda: takes_connections(vhost_of(w)))
        yield process
    finally:
        process.kill()
        await process.wait()
        process.close()


def vhost_of(w: World) -> Path:
    """Where the impostor waits for a QEMU."""
    return w.base / "impostor/vhost.sock"
