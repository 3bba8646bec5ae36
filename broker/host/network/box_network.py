"""An interface in the network namespace of a box or container, by its first process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.core.errors import UpstreamError
from broker.host.network.namespace import refuse_own, start_card, start_network
from broker.host.network.passt import GuestNetwork
from broker.host.network.resolvers import RESOLV_CONF
from broker.host.network.switch.switches import SwitchSeat

_PIDFD_GET_NET_NAMESPACE = 0xFF04


async def start_box_network(
    leader: int, resolv_conf: Path = RESOLV_CONF, *, decided: bool = False
) -> GuestNetwork:
    """Give the network namespace of a process an interface with the frame filter.

    ``leader`` is its pidfd, ``decided`` as in ``start_network``.  Raises SetupError when
    passt or the kernel's veth is missing, UpstreamError when the process has ended or has
    no namespace of its own.
    """
    with _namespace_of(leader) as namespace:
        return await start_network(namespace, decided=decided, resolv_conf=resolv_conf)


async def start_box_card(leader: int, seat: SwitchSeat, name: str) -> GuestNetwork:
    """Give a process's network namespace an interface at a switch of sandboxes.

    ``leader`` is its pidfd, ``name`` the interface's.  Raises as ``start_box_network``.
    Starts a packet guard, which makes it and carries its frames.
    """
    with seat.conn, _namespace_of(leader) as namespace:
        return await start_card(namespace, seat, name)


@contextmanager
def _namespace_of(leader: int) -> Iterator[int]:
    """Hold a process's network namespace open; refuse the broker's own."""
    try:
        namespace = int(fcntl.ioctl(leader, _PIDFD_GET_NET_NAMESPACE))
    except OSError as error:
        raise UpstreamError(
            f"cannot open the sandbox's network namespace: {error.strerror}"
        ) from error
    try:
        refuse_own(namespace)
        yield namespace
    finally:
        os.close(namespace)
