"""The jail of the fork server of workers.

It leaves the user's session here, before it imports what its children need: a fault in
one of those modules has no file, no socket and no network to use.
"""

from __future__ import annotations

import sys

from broker.core.errors import SetupError
from broker.helpers.apparmor import namespaces_hint
from broker.helpers.process import jail
from broker.ipc.fork_server import ALLOW_UNJAILED
from broker.net.without_tls import leave_out_tls


def enter() -> str:
    """Enter the jail; return why there is none where the user permits that, or "".

    Raises SetupError where there can be none.  ``ALLOW_UNJAILED`` is the program's second
    argument where it applies.
    """
    leave_out_tls()
    # Here: it asks ldconfig for a library, which is not in the jail.
    import trio  # noqa: F401

    missing = jail.why_enclose_fails()
    # guard: no worker's code is imported outside of a jail
    if missing and ALLOW_UNJAILED not in sys.argv[2:3]:
        raise SetupError(
            f"cannot create a worker's jail: {missing}", hint=namespaces_hint()
        )
    if not missing:
        jail.enclose()
    return missing
