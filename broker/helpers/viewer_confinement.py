"""What the viewer takes from itself before it serves a sandbox.

It shows windows, plays sound and moves files, by orders (``ipc.session``) and by
descriptors that it is given.  A viewer that was taken over executes nothing, connects to
nothing, and opens no file of the user's; what the authority has permitted it can order,
and nothing else.  A kernel without Landlock leaves it the files.

The viewer calls it once, before its event loop begins.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from broker.core.errors import SetupError
from broker.helpers import landlock
from broker.helpers.apparmor import add_profile
from broker.helpers.process.hardening import harden
from broker.helpers.process.program_files import program_files

_SYSTEM = (Path("/etc"), Path("/proc/self"), Path("/proc/sys"))


def confine_viewer(program: bytes, read: Iterable[Path], write: Iterable[Path]) -> None:
    """Confine this process (one thread) to these files and its sockets.

    ``program`` is its ``viewer_filter``.  Before it imports the code of the viewer:
    that is executed confined.

    Raises SetupError.
    """
    # guard: no thread of the viewer was there before it was confined
    if len(os.listdir("/proc/self/task")) != 1:  # noqa: PTH208 -- names are not needed
        raise SetupError("cannot confine the viewer: it has more than one thread")
    add_profile("viewer")
    try:
        harden(program)
        landlock.restrict(
            [*program_files(), *_SYSTEM, *read], write, landlock.ABSTRACT_SOCKETS
        )
    except OSError as error:
        raise SetupError(f"cannot confine the viewer to its files: {error}") from error
