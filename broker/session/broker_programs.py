"""Our own programs, and the broker's processes.

A session child becomes a fork server for the viewer, reads the memory of the broker's
processes, or reports to the service manager; the confined viewer can do none of it.
"""

from __future__ import annotations

import os
import select
import socket
import struct

from broker.core.process_status import status_fields
from broker.helpers.compositor_socket import display_setting
from broker.helpers.fork_command import UNJAILED, command, variables
from broker.helpers.fork_profiles import FORK_PROFILES
from broker.helpers.forked_part import end_with_parent
from broker.helpers.process.memory import figures_of
from broker.helpers.service_manager import SECONDS, report
from broker.ipc.session import program_orders as m
from broker.session.order_exchange import OrderExchange
from broker.wire.row import serves

_STDERR = 2
_PEER = struct.Struct("3i")
"""SO_PEERCRED, unix(7): pid, uid, gid."""


@serves(m.REPORT_STATE)
def report_state(exchange: OrderExchange, request: m.ReportState) -> None:
    """Report to the service manager.  Raises OSError."""
    report(f"{request.state.upper()}=1", _wait_read)
    exchange.answer()


def _wait_read(sock: socket.socket) -> None:
    """Wait until the service manager has read all (sd_notify_barrier(3)).

    It looks for the unit of the process that sends, which ends then.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        socket.send_fds(sock, [b"BARRIER=1"], [write])
    finally:
        os.close(write)
        waiting = select.poll()
        waiting.register(read, 0)  # its other end is closed with the message
        waiting.poll(1000 * SECONDS)
        os.close(read)


@serves(m.START_FORK_SERVER)
def become_fork_server(exchange: OrderExchange, order: m.StartForkServer) -> None:
    """Execute a fork server in this process, so that its parent reaps it."""
    client, stderr = exchange.fds
    # guard: workers without a jail are the user's choice
    unjailed = bool(os.environ.get(UNJAILED))
    # It ends its children first; the starter may have died before.
    alone = FORK_PROFILES[order.program].ends_alone
    late = [_broker(exchange.host)] if alone else []
    argv = command(
        order.program,
        [client],
        late,
        compositor=str(display_setting() or ""),
        allow_unjailed=unjailed,
    )
    os.chdir("/")
    for fd in (client, *late):
        os.set_inheritable(fd, True)  # noqa: FBT003 -- the os module's own
    if late:
        end_with_parent(0)
    exchange.answer()
    os.dup2(stderr, _STDERR)
    os.execve(argv[0], argv, variables(os.environ))  # noqa: S606 -- no shell


def _broker(host: int) -> int:
    """Return a pidfd of the broker's first process, which has made this socket."""
    with socket.socket(fileno=os.dup(host)) as sock:
        return os.pidfd_open(_maker_of(sock))


def _maker_of(sock: socket.socket) -> int:
    """Return the number of the process that has made a pair of sockets."""
    peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(peer)[0])


@serves(m.MEASURE_PROCESSES)
def measure_processes(exchange: OrderExchange, request: m.MeasureProcesses) -> None:
    """Answer with a pipe, and write the memory of the broker's processes to it."""
    viewer = _maker_of(exchange.channel)
    read, write = os.pipe()
    # Answered first: the kernel walks a process's pages, and waits while the process
    # changes its memory; only SIGKILL ends that.
    # guard: a process that is slow to measure hides none before it
    exchange.answer(fds=[read])
    os.close(read)
    for pid in request.pids:
        # guard: a viewer looks at no process of the user's
        if _is_brokers(pid, viewer):
            os.write(write, m.encode_figures([figures_of(pid)]))


def _is_brokers(pid: int, viewer: int) -> bool:
    """Return whether a process is the viewer, or descends from it.

    Or from a process of this one's session, which that of the starter's parent is:
    children of a fork server that has ended stay in it.
    """
    try:
        while pid > 1:
            if pid == viewer or os.getsid(pid) == os.getsid(0):
                return True
            pid = int(status_fields(pid)["PPid"][0])
    except OSError:
        pass  # it has ended
    return False
