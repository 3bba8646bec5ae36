"""A starter of the authority's helpers: its real code, in a process of its own."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from broker.authority.helper_starter import HelperStarter
from broker.helpers.process.popen import start_process

_SERVES = f"""
import socket, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from broker.helpers import starter
if sys.argv[2] == "dies":
    starter.popen.our_program = lambda *_: ["false"]
starter.serve_authority(socket.socket(fileno=int(sys.argv[1])))
"""


@contextmanager
def helper_starter(
    environ: Mapping[str, str] | None = None, *, dies: bool = False
) -> Iterator[HelperStarter]:
    """Start it with this environment; its helpers end with the block.

    ``dies``: each of them ends at once.
    """
    sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        words = (str(theirs.fileno()), "dies" if dies else "")
        argv = [sys.executable, "-c", _SERVES, *words]
        process = start_process(
            argv, env=environ, pass_fds=[theirs.fileno()], outlive_us=True
        )
    try:
        yield HelperStarter(sock)
    finally:
        sock.close()
        process.wait(60)


def ended_starter() -> HelperStarter:
    """A starter that has ended: it starts nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        return HelperStarter(sock)
