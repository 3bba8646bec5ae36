"""What services use of the authority: the process that decides and records.

``Permits`` is what a service asks; ``Authority`` is the whole of it, for the role
that announces leases and follows the rules.  ``authority_client`` implements both by
messages to the authority, whose ``Decider`` answers requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from broker.authority.permit import (
    Asked,
    ChosenRequest,
    OnAsk,
    Permit,
    Request,
    nothing_asked,
)
from broker.core.lease import Lease
from broker.ipc import authority as m
from policy.records.model import RecordSet


class Permits(Protocol):
    """Decides requests of sandboxes, and notifies the user."""

    def permit(
        self,
        request: Request,
        *,
        on_ask: OnAsk = nothing_asked,
        covered: Permit | None = None,
        chosen: Asked | None = None,
        gone: trio.Event | None = None,
    ) -> AbstractAsyncContextManager[Permit]:
        """Hold a permit for a request while the block runs; see ``Decider.permit``.

        Raises RefusedError for a no, UpstreamError when the decision could not be
        recorded (so it is a no).
        """
        ...

    async def preview(self, requests: Sequence[Request]) -> Sequence[m.Preview | None]:
        """Return current decisions of records and rules; record and ask nothing.

        To show or to offer something; they permit nothing.  None for a no of the
        record's.  Limits that have a memory are not asked.  A request of the sandbox
        ``@adminvm`` is one of the user's own, about which rules alone decide.
        """
        ...

    async def rules_about(
        self, service: str, source: str, target: str = ""
    ) -> Sequence[m.ShownRule]:
        """Return the rules about a service, a source, and a target unless it is empty.

        In order, without those that only observe.  For a choice of what to offer, as ``preview``.
        """
        ...

    async def choose(self, requests: Sequence[Request]) -> ChosenRequest:
        """Have the user choose one of several requests for one device.

        Nothing is permitted by that: see ``decisions.choice.choose``.
        """
        ...

    def acted(self, lease: str, ago: float = 0.0) -> None:
        """The user has acted (key, button, touch) in a window of a sandbox.

        ``ago``: so many seconds before now.
        """
        ...

    def notify(self, title: str, text: str, *, sandbox: str = "") -> None:
        """Show a notification on the desktop; see ``core.notify``."""
        ...


class Authority(Permits, Protocol):
    """``Permits``, with the lives of leases and the changes of files."""

    @property
    def records(self) -> RecordSet:
        """The records in force."""
        ...

    async def lease_begun(self, lease: Lease) -> None:
        """A sandbox runs: requests of this lease are decided from now on."""
        ...

    async def lease_ended(self, lease: str) -> None:
        """A sandbox has stopped: its grants end, its questions are withdrawn."""
        ...

    async def reload(self) -> None:
        """Read records and rules again, and decide again on live operations.

        Operations that are denied now are cut when this returns.  Raises
        UpstreamError when a change could not be recorded: then the old files stay in
        force, less the permissions that the new ones take away.
        """
        ...

    async def wait_changed(self) -> None:
        """Return when records or rules have changed since the last call returned."""
        ...
