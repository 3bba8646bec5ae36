"""The fork server of helpers, whose keepers connect to the compositor that a test names.

A broker's connect to the one of their session.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.ipc.fork_server import ForkKeeper
from broker.programs import fork_server
from broker.programs.forks import helpers


def _become(
    order: ForkKeeper, fds: Sequence[int], program: bytes, compositor: str
) -> None:
    del compositor
    _become_keeper(order, fds, program, order.compositor)


_become_keeper, helpers.become_keeper = helpers.become_keeper, _become

if __name__ == "__main__":
    fork_server.main()
