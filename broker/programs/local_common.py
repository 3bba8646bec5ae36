"""What host and viewer both import, loaded before ``vitrail-local`` forks.

Their processes share its pages (fork(2)).  Nothing here is of one part alone.
"""

from __future__ import annotations

import socket

from broker.core import token_bucket
from broker.core.files import opened_folder, replace_file, trees
from broker.helpers.mounts import mounts
from broker.helpers.process import fork_client, memory
from broker.host_and_viewer import (
    find_record,
    foundation,
    host_folders,
    lease_listing,
    log_client,
    measured_rows,
    open_authority,
    sandbox_names,
    status_rows,
)
from broker.ipc import acceptor, host_viewer, sealed_memfd
from broker.ipc.control import launch_methods
from broker.net import addresses, hangup, listeners
from broker.net.link_service import far_end, pair_end
from broker.net.peers import peer_process
from broker.net.refused_descriptors import refuse_descriptors
from policy import suggestions
from shims import bundle


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the ends of the viewer and of the host."""
    viewer, host = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # guard: a viewer that was taken over gives the host no file to close
    refuse_descriptors(host)
    return viewer, host
