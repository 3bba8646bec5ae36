"""What host and viewer both import, loaded before ``vitrail-local`` forks.

Their processes share its pages (fork(2)).  Nothing here is of one part alone.
"""

from __future__ import annotations

import socket

from broker.host_and_viewer import lease_listing, log_client, open_authority
from broker.net.host_pair import pair_end

__all__ = ["lease_listing", "log_client", "open_authority", "pair", "pair_end"]


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the ends of the viewer and of the host."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
