"""Our own programs, and the broker's processes."""

from __future__ import annotations

import ctypes
import os

from broker.core.errors import PeerError
from broker.helpers.process.fork_command import OUTLIVE_BROKER, command, variables
from broker.ipc.session import programs as m
from broker.session.errand import Errand

_PR_SET_PDEATHSIG = 1
_STDERR = 2


def carry_out_program(errand: Errand, order: m.ProgramOrder) -> None:
    """Carry out one of these orders.  Raises VitrailError, OSError."""
    _become_fork_server(errand, order)


def _become_fork_server(errand: Errand, order: m.StartForkServer) -> None:
    """Execute it in this process, so that the starter reaps it."""
    if len(errand.fds) != 2:
        raise PeerError("a fork server has a client and a standard error")
    client, stderr = errand.fds
    argv = command(order.program, [client], allow_unjailed=order.allow_unjailed)
    os.chdir("/")
    os.set_inheritable(client, True)  # noqa: FBT003 -- the os module's own
    if order.program in OUTLIVE_BROKER:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
    errand.answer()
    os.dup2(stderr, _STDERR)
    os.execve(argv[0], argv, variables(os.environ))  # noqa: S606 -- no shell
