"""How fast a guest may send to hosts that it has not sent to lately.

A packet to an address of the local network makes an entry in the kernel's table of
neighbours, which has 1,024 of each family for the whole machine (gc_thresh3, arp(7)).
It is for ``network = "user"``; flows have their own pace.  Sans-IO.

The packet guard of a sandbox runs this, jailed; the host only starts it.
"""

from __future__ import annotations

from collections import OrderedDict

from broker.core.limits import network as limits
from broker.core.token_bucket import TokenBucket
from broker.host.network.frameguard.packets import ETHERNET, IPV4, IPV6

_RECEIVER = {
    IPV4: slice(ETHERNET + 16, ETHERNET + 20),
    IPV6: slice(ETHERNET + 24, ETHERNET + 40),
}


class HostPace:
    """The hosts that a guest has sent to, the one that is new longest ago first."""

    def __init__(self) -> None:
        self._hosts: OrderedDict[bytes, None] = OrderedDict()
        self._pace = TokenBucket(limits.FLOWS_PER_SECOND, limits.FLOWS_BURST)

    def may_leave(self, untrusted_frame: bytes, now: float) -> bool:
        """Return whether a guest's frame may pass; count a host that is new."""
        receiver = _RECEIVER.get(untrusted_frame[12:14])
        if receiver is None or (host := untrusted_frame[receiver]) in self._hosts:
            return True
        # guard: new hosts have a pace
        if self._pace.early(now) > 0:
            return False
        self._pace.take(now)
        self._hosts[host] = None
        if len(self._hosts) > limits.HOSTS:
            self._hosts.popitem(last=False)
        return True
