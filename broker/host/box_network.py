"""An interface in the network namespace of a box or container, by its first process."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from broker.core.errors import UpstreamError
from broker.host.box_resolver import resolver_lines
from broker.host.network.addresses import RESOLVER
from broker.host.network.namespace import (
    BoxNetwork,
    find_passt,
    refuse_own,
    start_guard,
    start_network,
)
from broker.host.network.passt import (
    RESOLV_CONF,
    passt_args,
    require_passt,
    resolver_sockets,
)
from broker.host.network.switch.switches import SwitchSeat

_PIDFD_GET_NET_NAMESPACE = 0xFF04


async def start_box_network(
    leader: int, resolv_conf: Path = RESOLV_CONF, *, asks: socket.socket | None = None
) -> BoxNetwork:
    """Give the network namespace of a process an interface behind the frame filter.

    ``asks``: where the filter asks about each flow; None: it carries all of them.
    ``leader`` is its pidfd.  Raises SetupError when passt or the kernel's veth is
    missing, UpstreamError when the process has ended or has no namespace of its own.
    """
    passt = require_passt(find_passt())
    forward = resolver_lines(resolv_conf) == f"nameserver {RESOLVER}\n"
    with ExitStack() as ours:
        namespace = _namespace_of(leader)
        ours.callback(os.close, namespace)
        argv = partial(passt_args, passt, forward_dns=forward and asks is None)
        given: tuple[int, ...] = (namespace,)
        if asks is not None:
            names = map(ours.enter_context, resolver_sockets(resolv_conf))
            given = (namespace, asks.fileno(), *(one.fileno() for one in names))
        return await start_network("veth" if asks is None else "rules", given, argv)


async def start_box_card(leader: int, seat: SwitchSeat, name: str) -> BoxNetwork:
    """Give the network namespace of a process an interface at a switch.

    ``leader`` is its pidfd, ``name`` the interface's.  Raises as ``start_box_network``.
    """
    with ExitStack() as ours:
        ours.enter_context(seat.conn)
        namespace = _namespace_of(leader)
        ours.callback(os.close, namespace)
        router = (seat.router,) if seat.router else ()
        words = (name, seat.address, seat.mac, *router)
        fds = (seat.conn.fileno(), namespace)
        guard = await start_guard("switch.cable", fds, words=words)
    return BoxNetwork((guard,))


def _namespace_of(leader: int) -> int:
    try:
        namespace = fcntl.ioctl(leader, _PIDFD_GET_NET_NAMESPACE)
    except OSError as error:
        raise UpstreamError(
            f"the network of the box cannot be found: {error.strerror}"
        ) from error
    try:
        refuse_own(namespace)
    except UpstreamError:
        os.close(namespace)
        raise
    return int(namespace)
