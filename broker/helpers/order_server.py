"""The orders of the viewer: a process of the starter's, which forks a child for each.

It reads no order: a child does (``session.child``).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from typing import TypeAlias

from broker.helpers.forked_part import end_with_parent
from broker.helpers.process.fork_server import ForkLoop, StartedChild, forking
from broker.helpers.process.process_name import set_name
from broker.ipc import fork_server as fork_messages

CarryOut: TypeAlias = Callable[[bytes, Sequence[int]], None]
"""Carries out an order, with the authority's key and the child's descriptors."""


class OrderServer:
    """The process ``vitrail-orders``: forks a session child for each order.

    A viewer that was taken over attaches descriptors that are slow to write to, or to
    close: then its own orders wait, and no others.  The viewer shares the places among
    its sandboxes (``viewer.orders.order_places``): this process reads no order.
    """

    def __init__(self, carry_out: CarryOut, key: bytes) -> None:
        """``carry_out`` is called in a child for each order."""
        self._loop = ForkLoop()
        self._carry_out = carry_out
        self._key = key

    def run(self, fd: int) -> None:
        """Serve this socket until the viewer or the starter has gone."""
        end_with_parent()
        set_name("vitrail-orders")
        starts = {fork_messages.FORK_SESSION: self._fork_session_child}
        viewer = socket.socket(fileno=fd)
        self._loop.add_fork_client(viewer, starts)
        self._loop.run()

    def _fork_session_child(
        self,
        order: fork_messages.ForkMessage,
        fds: Sequence[int],
        leave: Callable[[], None],
    ) -> StartedChild:
        """Fork a session child for an order; ``leave`` runs first in the child.

        Raises OSError, EAGAIN for too many children.
        """
        # guard: orders of a viewer are few at one time
        if self._loop.children >= fork_messages.ORDERS:
            raise OSError(
                errno.EAGAIN, f"{fork_messages.ORDERS} orders are being carried out"
            )
        return forking(self._session)(order, fds, leave)

    def _session(self, _: fork_messages.ForkSession, fds: Sequence[int]) -> None:
        self._carry_out(self._key, fds)
