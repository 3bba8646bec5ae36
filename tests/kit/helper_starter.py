"""A starter of the authority's helpers: the real process."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from broker.authority.helper_starter import HelperStarter
from broker.helpers.starter import start_starter


@contextmanager
def helper_starter(
    environ: Mapping[str, str] | None = None,
) -> Iterator[HelperStarter]:
    """Start it with this environment; its helpers end with the block."""
    sock = start_starter(environ)
    try:
        yield HelperStarter(sock)
    finally:
        sock.close()


def ended_starter() -> HelperStarter:
    """A starter that has ended: it starts nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        return HelperStarter(sock)
