"""How a fork server is executed: its command line and its variables.

Whichever process executes a fork server uses this: the broker's program when it starts,
a session child by the viewer's order, the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from broker.helpers.fork_profiles import FORK_SERVER
from broker.helpers.process.popen import our_program
from broker.ipc.fork_server import ALLOW_UNJAILED, ForkServerKind

UNJAILED = "VITRAIL_ALLOW_UNJAILED"
"""The starter's variable that says that the user permits workers without a jail."""


def command(
    kind: ForkServerKind,
    controls: Sequence[int],
    more: Sequence[int] = (),
    *,
    compositor: str = "",
    allow_unjailed: bool = False,
) -> list[str]:
    """Return the command line of a server whose clients are at these sockets.

    Keepers connect to ``compositor``, whatever a client orders; without one to none.
    ``more``: descriptors; of workers' server the pidfd of a process that it ends with.
    """
    numbers = ",".join(map(str, controls))
    if kind is ForkServerKind.WORKERS:
        compositor = ALLOW_UNJAILED if allow_unjailed else ""
    return our_program(FORK_SERVER, kind, numbers, compositor, *map(str, more))


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that it needs: workers and pumps see no others."""
    # guard: a pump has no variables of the session
    names = ("PATH", "VITRAIL_DEBUG", "VITRAIL_RELAY_PYTHON")
    return {name: environ[name] for name in names if name in environ}
