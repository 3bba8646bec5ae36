"""The fork server in its jail: a fork server of workers' jailed halves.

``programs.fork_server`` builds the jail and runs this.  It imports all that a worker
needs before it takes an order, so that a worker costs little.  Its death ends no
worker: each is held by its keeper and by the broker, which starts another
fork server when it next needs a worker.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence

from broker.core import limits
from broker.core.errors import InternalError
from broker.helpers.process.fork_server import StartedChild, given_parent, serve
from broker.helpers.worker_jail.entering import fork_jailed
from broker.helpers.worker_jail.worker_filter import worker_filter
from broker.ipc import fork_server as messages
from broker.ipc.wayland_rules import traced
from broker.programs.worker import run_worker
from broker.wire.one_way import MessagePipe


def start_worker(
    order: messages.Order,
    fds: Sequence[int],
    leave: Callable[[], None],  # noqa: ARG001 -- the jail closes all that is not named
) -> StartedChild:
    """Fork a worker's jailed half as a child of the jailed fork server.

    Raises SetupError when its jail cannot be built.
    """
    if not isinstance(order, messages.ForkWorker):
        raise InternalError("the order is for another fork server")
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

    allow, missing = order.allow_unjailed, sys.argv[2]
    jailed = fork_jailed(
        inside, fds, allow_unjailed=allow, enclosed=not missing, missing=missing
    )
    return StartedChild(jailed.pid, jailed.pidfd, jailed.jail)


def main() -> None:
    """Entry point: fork jailed halves of workers on order.

    Arguments: the number of our socket; why this process is in no jail, or ""; the
    number of a pidfd as ``programs.fork_server`` has it.
    """
    worker_filter()  # compiled once; workers inherit it
    if traced():
        # Now: a worker that wants it cannot open files any more.
        from broker.jail.wayland.protocol import trace  # noqa: F401
    # A keeper kills its jailed half when the broker dies, and may have died first.
    # guard: jailed halves end with the broker
    serve("vitrail-forks", start_worker, end_children=True, parent=given_parent())


if __name__ == "__main__":
    main()
