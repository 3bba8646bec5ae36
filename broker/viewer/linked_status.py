"""The status of a viewer whose host is another machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

from typing_extensions import override

from broker.core.lease import Opening
from broker.ipc.control import api
from broker.net.link.lease_book import Announced
from broker.net.link_service.link_status import LinkState
from broker.viewer.viewer_status import ViewerRows


@dataclass(frozen=True)
class LinkedViewerRows(ViewerRows):
    """A viewer's part of the status; its leases and streams are the link's."""

    link: LinkState

    @override
    def leases(self) -> list[api.LeaseStatus]:
        """The leases that the host has announced."""
        if self.link.epoch is None:
            return []
        return [self._announced(a) for a in self.link.epoch.leases.all()]

    def _announced(self, announced: Announced) -> api.LeaseStatus:
        """Return the status of a lease that the host announced."""
        lease = announced.lease
        guest = self.viewer.guest(lease.id)
        return api.LeaseStatus(
            id=lease.id,
            sandbox=lease.sandbox,
            record=lease.record,
            generation=lease.generation,
            peer=f"the host's {announced.peer}",
            since=time.time() if guest is None else guest.since,
            pending=not announced.confirmed,
        )

    @override
    def streams(self) -> list[tuple[Opening, float]]:
        if self.link.epoch is None:
            return []
        return [(s.opening, s.began) for s in self.link.epoch.streams.values()]
