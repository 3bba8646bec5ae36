"""What the fork server of workers forks, in its jail: workers' jailed halves.

It imports all that a worker needs before it takes an order, so that a worker costs
little.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial

from broker.core import limits
from broker.helpers.process.fork_server import Forking, StartedChild
from broker.helpers.worker_jail.entering import fork_jailed
from broker.helpers.worker_jail.worker_filter import worker_filter
from broker.ipc import fork_server as messages
from broker.ipc.wayland_rules import traced
from broker.programs.worker import run_worker
from broker.wire.one_way import MessagePipe


def start_worker(
    missing: str,
    order: messages.ForkWorker,
    fds: Sequence[int],
    leave: Callable[[], None],  # noqa: ARG001 -- the jail closes all that is not named
) -> StartedChild:
    """Fork a worker's jailed half as a child of the jailed fork server.

    ``missing``: why this process is in no jail, or "".  Raises SetupError when the
    worker's jail cannot be built.
    """
    supervisor, listener, keeper, pipe = fds

    def inside(achieved: messages.Jail) -> None:
        display = socket.socket(fileno=listener)
        # Here and not in the broker: the process that closes a listening socket last
        # drops its backlog, and a client may be waiting in this one.
        display.listen(limits.BACKLOG)
        run_worker(
            socket.socket(fileno=supervisor),
            MessagePipe(pipe),
            display,
            socket.socket(fileno=keeper),
            achieved,
        )

    allow = order.allow_unjailed
    jailed = fork_jailed(
        inside, fds, allow_unjailed=allow, enclosed=not missing, missing=missing
    )
    return StartedChild(jailed.pid, jailed.pidfd, jailed.jail)


def prepare(missing: str) -> Forking:
    """Return how workers are forked; ``missing``: why this process is in no jail."""
    worker_filter()  # compiled once; workers inherit it
    if traced():
        # Now: a worker that wants it cannot open files any more.
        from broker.jail.wayland.protocol import trace  # noqa: F401
    return Forking({messages.FORK_WORKER: partial(start_worker, missing)})
