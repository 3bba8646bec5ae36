"""The fork server: leave the user's session, then import the worker and fork its halves.

This is all of the fork server that has the user's rights.  ``programs.fork_server_jailed``
is the fork server: its modules, those of the worker among them, are imported in the
jail, where a fault in one of them has no file, no socket and no network to use.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Sequence

import trio  # noqa: F401 -- it asks ldconfig for a library: not in the jail

from broker.core.errors import SetupError
from broker.helpers.apparmor import namespaces_hint
from broker.helpers.process import jail
from broker.helpers.process.fork_server import Start, StartedChild, given_parent, serve
from broker.ipc.fork_server import ALLOW_UNJAILED, Order

_JAILED = "broker.programs.fork_server_jailed"


def _refusing(reason: str) -> Start:
    """Return how each order is refused on a machine without a jail."""

    def refuse(
        order: Order,  # noqa: ARG001
        fds: Sequence[int],  # noqa: ARG001
        leave: Callable[[], None],  # noqa: ARG001
    ) -> StartedChild:
        raise SetupError(
            f"cannot create a worker's jail: {reason}", hint=namespaces_hint()
        )

    return refuse


def main() -> None:
    """Entry point: enter the jail and become the fork server.

    Arguments: the number of our socket; ``ALLOW_UNJAILED`` where it applies, or ""; the
    number of a pidfd, of a process that this one ends with, if there is one.
    """
    missing = jail.why_enclose_fails()
    # guard: no worker's code is imported outside of a jail
    if missing and ALLOW_UNJAILED not in sys.argv[2:3]:
        serve("vitrail-forks", _refusing(missing), parent=given_parent())
        return
    if not missing:
        jail.enclose()
    sys.argv[2:3] = [missing]
    runpy.run_module(_JAILED, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
