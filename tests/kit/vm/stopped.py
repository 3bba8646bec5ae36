"""Stop a micro VM and let it go on, by QMP on its broker's own connection.

``python -m tests.kit.vm.stopped stop|cont`` is run with the rights of root on a machine
of the test's own (``changing_machine.as_root``): QEMU takes one connection of a monitor at
a time, and no other program of the user reaches into a broker's process.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from broker.host.vmm.control import QMP_SOCKET
from broker.host.vmm.qmp import encode_command

_PIDFD_GETFD = 438
_OURS = 1 << 40
"""The number of our command: its broker waits for no answer to that one."""
_libc = ctypes.CDLL(None, use_errno=True)


def _monitors() -> Iterator[socket.socket]:
    """Yield a copy of each process's connection to a monitor."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            pidfd = os.pidfd_open(int(entry.name))
            try:
                for fd in sorted(os.listdir(entry / "fd"), key=int):
                    if not os.readlink(entry / "fd" / fd).startswith("socket:"):
                        continue
                    copy = _libc.syscall(_PIDFD_GETFD, pidfd, int(fd), 0)
                    if copy >= 0:
                        yield from _monitor(socket.socket(fileno=copy))
            finally:
                os.close(pidfd)


def _monitor(sock: socket.socket) -> Iterator[socket.socket]:
    with sock, suppress(OSError):
        name = sock.getpeername() if sock.family == socket.AF_UNIX else ""
        if isinstance(name, str) and name.endswith(f"/{QMP_SOCKET}"):
            yield sock


def main() -> None:
    """Send the command to each monitor; there must be one."""
    count = 0
    for sock in _monitors():
        sock.sendall(encode_command(sys.argv[1], _OURS))
        count += 1
    assert count == 1, f"{count} connections to a monitor"


if __name__ == "__main__":
    main()
