"""Starting a fork server, by a process that may start programs.

The host calls it; the confined viewer has a session child do so.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

import trio

from broker.helpers.fork_command import command, variables
from broker.helpers.fork_profiles import FORK_PROFILES
from broker.helpers.process.fork_client import ForkServerProgram
from broker.helpers.process.spawn import Child, spawn


def spawn_server(program: ForkServerProgram, controls: Sequence[int]) -> Child:
    """Start a fork server whose clients have the other ends of these sockets.

    Its keepers connect to no compositor.  Raises SetupError, OSError.
    """
    return spawn(
        command(program.kind, controls, allow_unjailed=program.allow_unjailed),
        name=f"fork server of {program.kind}",
        env=variables(os.environ),
        pass_fds=controls,
        outlive_us=FORK_PROFILES[program.kind].ends_alone,
    )


async def start_server(program: ForkServerProgram, theirs: socket.socket) -> Child:
    """Start a fork server with one client: a ``fork_client.StartServer``."""
    await trio.lowlevel.checkpoint()
    return spawn_server(program, [theirs.fileno()])
