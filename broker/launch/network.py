"""A guest's network: passt, the user's own NAT."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from broker.core import limits
from broker.core.errors import SetupError
from broker.launch.process import Tracked, spawn_helper


@dataclass(eq=False)
class UserNetwork:
    """A running passt and the end of its socket that QEMU gets."""

    process: Tracked
    conn: socket.socket

    async def end(self) -> None:
        """End passt; not cancellable."""
        self.conn.close()
        await self.process.end(limits.VM_QUIT_SECONDS)
        self.process.close()


def passt_args(passt: Path, fd: int) -> list[str]:
    """The command line, see passt(1)."""
    return [
        str(passt),
        "--foreground",
        "--quiet",
        "--stderr",
        *("--fd", str(fd)),
        "--ipv4-only",
        "--no-map-gw",
        *("--tcp-ports", "none"),
        *("--udp-ports", "none"),
    ]


async def start_user_network(passt: Path | None) -> UserNetwork:
    """Start passt for one guest."""
    if passt is None:
        raise SetupError(
            'a sandbox with network = "user" needs passt, which is not installed',
            hint='install the package passt, or set network = "none"',
        )
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with its:
        try:
            argv = passt_args(passt, its.fileno())
            process = spawn_helper("passt", argv, pass_fds=(its.fileno(),))
        except BaseException:
            ours.close()
            raise
    return UserNetwork(process, ours)
