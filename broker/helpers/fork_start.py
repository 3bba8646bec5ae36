"""Starting a fork server, by a process that may start programs.

The host calls it; the confined viewer has a session child do so.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import trio

from broker.helpers.fork_command import OUTLIVE_BROKER, command, variables
from broker.helpers.process.fork_client import ForkServerProgram
from broker.helpers.process.spawn import Child, spawn


def spawn_server(program: ForkServerProgram, controls: Sequence[int]) -> Child:
    """Start a fork server whose clients have the other ends of these sockets.

    Its keepers connect to no compositor.  Raises SetupError, OSError.
    """
    return spawn(
        command(program.module, controls, allow_unjailed=program.allow_unjailed),
        name=program.module.rpartition(".")[2],
        env=variables(os.environ),
        pass_fds=controls,
        outlive_us=program.module in OUTLIVE_BROKER,
    )


async def start_server(program: ForkServerProgram, theirs: socket.socket) -> Child:
    """Start a fork server with one client: a ``fork_client.StartServer``."""
    await trio.lowlevel.checkpoint()
    return spawn_server(program, [theirs.fileno()])
