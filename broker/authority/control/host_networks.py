"""The authority's order to its host: cut networks for a lockdown, or restore them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

from broker.core.errors import UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.lease import Lease
from broker.core.stderr_log import log_stderr
from broker.ipc.control.answers import answer_in
from broker.ipc.control.authority_methods import CUT_NETWORKS
from broker.ipc.control.dispatch import Forward
from broker.ipc.control.method import Exchange
from broker.ipc.control.types.base import INTERFACE, Caller
from broker.ipc.control.types.leases import CutNetworksRequest
from broker.ipc.control.varlink import Call, raw

_ANSWER_SECONDS = 5.0


async def _ignore(_item: msgspec.Raw) -> None:
    """Take an item of a call that has none."""
    await trio.lowlevel.checkpoint()


@dataclass(frozen=True)
class HostNetworks:
    """The networks of the sandboxes of one broker."""

    host: Forward | None
    """The host; None if sandboxes are on another machine, with its own lockdown."""
    leases: Callable[[], list[Lease]]

    async def cut(self, *, cut: bool) -> list[str]:
        """Have the host cut or restore networks; return sandboxes that still have one.

        Without the host's answer these are all.  Raises UpstreamError if networks are
        not restored.
        """
        untrusted_open: list[str] | None = None
        reason = "it did not answer in time"
        if self.host is not None:
            request = raw(CutNetworksRequest(cut=cut))
            call = Call(f"{INTERFACE}.{CUT_NETWORKS.name}", request)
            caller = Caller(os.getpid(), os.getuid())
            exchange: Exchange[Any] = Exchange(caller, more=False, emit=_ignore)
            try:
                with trio.move_on_after(_ANSWER_SECONDS):
                    reply = await self.host(call, exchange)
                    untrusted_open = answer_in(reply, CUT_NETWORKS.answer).open
            except VitrailError as error:
                reason = str(error)
            if untrusted_open is None:
                log_stderr(f"vitrail: the host did not change networks: {reason}")
                if not cut:
                    raise UpstreamError(
                        f"networks are not restored: the host failed: {reason}",
                        hint="stop and start the sandboxes that need their network",
                    )
        if untrusted_open is not None:
            return [printable(name, 60) for name in untrusted_open]
        # guard: a host that does not answer has cut nothing
        return [lease.sandbox for lease in self.leases()] if cut else []
