"""``crosvm VERB … SOCKET``: one request to a running crosvm, by a process in a jail.

The protocol of crosvm's control socket is not documented, only its verbs are.  The
program that speaks it reads what a crosvm answers, which its guest may have taken over.
So it has a jail like that of a VMM: itself, libraries and a ``/proc`` of its own
processes, through which it opens the socket by the number of a descriptor.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from broker.core.errors import SetupError
from broker.helpers.process.spawn import run_tool
from broker.host.vmm.vmm_jail import (
    JailError,
    JailView,
    jailed_words,
    why_no_jail,
)


async def ask_crosvm(
    words: Sequence[str],
    socket: int,
    *,
    deadline: float,
    fds: Sequence[int] = (),
) -> bytes:
    """Run ``crosvm WORDS SOCKET`` in a jail and return its standard output.

    ``socket`` is a descriptor of the socket's file; ``fds`` are further ones that
    ``words`` name below ``/proc/self/fd``.

    Raises SetupError when crosvm is not installed, JailError where no jail can
    be built, UpstreamError when crosvm fails or takes longer than ``deadline``
    seconds.
    """
    found = shutil.which("crosvm")
    if found is None:
        raise SetupError(
            "crosvm is not installed",
            hint="install it as docs/launchers/vmm.md describes",
        )
    program = Path(os.path.realpath(found))
    argv = [str(program), *words, f"/proc/self/fd/{socket}"]
    passed = (*fds, socket)
    reason = await why_no_jail()
    # guard: another launcher's crosvm is asked from a jail or not at all
    if reason:
        raise JailError(f"cannot run the crosvm client without a jail: {reason}")
    # guard: what crosvm answers is read in a jail
    with jailed_words(JailView(program, proc=True), argv) as (jailed, filter_fd):
        return await run_tool(
            jailed, deadline=deadline, pass_fds=(*passed, filter_fd), name="crosvm"
        )
