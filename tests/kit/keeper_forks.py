"""The fork server of helpers, whose keepers connect to the compositor that a test names.

A broker's connect to the one of their session.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker.ipc.fork_server import ForkKeeper
from broker.programs import helper_forks


def _become(order: ForkKeeper, fds: Sequence[int], program: bytes, _: str) -> None:
    _become_keeper(order, fds, program, order.compositor)


_become_keeper, helper_forks.become_keeper = helper_forks.become_keeper, _become

if __name__ == "__main__":
    helper_forks.main()
