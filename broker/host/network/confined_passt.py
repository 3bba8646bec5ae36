"""Execute passt in our own seccomp filter, on ports that the kernel chooses.

It is ``packet_guard passt LIBRARY COMMAND…``, which the host starts in the place of passt.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import NoReturn

from broker.helpers.filters.libseccomp import seccomp as libseccomp
from broker.helpers.filters.seccomp import SeccompRules
from broker.helpers.process.hardening import confine

_PORT_SHARING = (socket.SO_REUSEADDR, socket.SO_REUSEPORT)


def passt_filter() -> bytes:
    """Compile the filter of passt: it shares no port.

    The option is answered by success and not set.  passt installs a filter of its own,
    too.
    """
    rules = SeccompRules(default=libseccomp.ALLOW)
    for option in _PORT_SHARING:
        level = rules.equal(1, socket.SOL_SOCKET)
        # guard: passt shares no port with another program
        rules.refuse("setsockopt", 0, level, rules.equal(2, option))
    # passt of 2025 looks so for datagrams that came to a new socket before it was
    # connected, and drops those that are not to the port that it bound: answers, too.
    peeks = socket.MSG_PEEK | socket.MSG_DONTWAIT
    rules.refuse("recvmsg", errno.EAGAIN, rules.equal(2, peeks))
    return rules.program()


def execute_passt(library: str, command: list[str]) -> NoReturn:
    """Execute this command line of passt in place of this process, confined for good.

    Raises SetupError when the kernel has no filters, OSError when a file is gone.
    """
    # By its descriptor: ld.so(8) splits the variable at spaces and colons.
    fd = os.open(library, os.O_RDONLY)
    os.set_inheritable(fd, True)  # noqa: FBT003 -- it has no name
    confine(passt_filter())
    # guard: a guest names no port of this machine
    environment = {**os.environ, "LD_PRELOAD": f"/proc/self/fd/{fd}"}
    os.execve(command[0], command, environment)  # noqa: S606 -- no shell
