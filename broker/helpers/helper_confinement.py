"""The rights that helpers in the session take from themselves: files, programs, processes.

The prompt agent, ``vitrail-access`` and the program that draws frames call it before
they read a message.
"""

from __future__ import annotations

from pathlib import Path

from broker.helpers import landlock
from broker.helpers.filters.keeper_filter import keeper_filter
from broker.helpers.process.hardening import harden
from broker.helpers.process.program_files import program_files

_SYSTEM = (Path("/etc"),)


def confine_helper(scopes: int = landlock.ABSTRACT_SOCKETS | landlock.SIGNALS) -> None:
    """Confine this process (one thread) to programs' files and its sockets.

    It can still connect to UNIX sockets that have a path, as the compositor's.
    ``scopes`` as for ``landlock.restrict``.  Raises OSError, SetupError.
    """
    harden(keeper_filter())
    # guard: a helper of the session opens no file of the user
    landlock.restrict([*program_files(), *_SYSTEM], scopes=scopes)
