"""The fork servers: one program, and a profile for each process.

``fork_server KIND CLIENTS COMPOSITOR|ALLOW_UNJAILED …``.  It enters the jail of the
profile, imports what its children need, and then takes orders.  Its death ends no worker:
each is held by its keeper and by the broker, which starts another fork server when it
next needs one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from broker.core.errors import SetupError
from broker.helpers.fork_profiles import FORK_PROFILES
from broker.helpers.process.fork_server import StartedChild, given_parent, serve
from broker.ipc.fork_server import FORK_WORKER, ForkMessage, ForkServerKind


def main() -> None:
    """Entry point: enter the profile's jail, and fork its children on order.

    Arguments: the profile, the numbers of our sockets, and the path of the compositor's
    socket, or for workers ``ALLOW_UNJAILED`` if it applies.  Further numbers belong to
    the profile: for workers that of a pidfd, of a process that this one ends with.
    """
    profile = FORK_PROFILES[ForkServerKind(sys.argv.pop(1))]
    parent = given_parent() if profile.ends_alone else -1
    try:
        missing = _imported(profile.jail)() if profile.jail else ""
    except SetupError as error:
        serve(
            profile.process,
            {FORK_WORKER: partial(_refuse, error)},
            parent=parent,
        )
        return
    forking = _imported(profile.children)(missing)
    # A keeper kills its jailed half when the broker dies, and may have died first.
    # guard: jailed halves end with the broker
    end_children = profile.ends_alone
    serve(
        profile.process,
        forking.starts,
        present=forking.present,
        end_children=end_children,
        parent=parent,
    )


def _refuse(
    error: SetupError,
    order: ForkMessage,  # noqa: ARG001
    fds: Sequence[int],  # noqa: ARG001
    leave: Callable[[], None],  # noqa: ARG001
) -> StartedChild:
    """Refuse an order on a machine without a jail.  Raises SetupError."""
    raise SetupError(error.message, hint=error.hint)


def _imported(dotted: str) -> Callable[..., Any]:
    """Return the function that ``MODULE:FUNCTION`` names."""
    module, _, name = dotted.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


if __name__ == "__main__":
    main()
