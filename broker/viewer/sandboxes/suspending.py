"""Suspending and resuming sandboxes for the control socket."""

from __future__ import annotations

from collections.abc import Callable

from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.core.names import LeaseId, sandboxes_named, take_sandbox_name
from broker.host_and_viewer.sandbox_names import not_running
from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves
from broker.ipc.host_viewer import Machines
from broker.viewer.role import ViewerRole


class SuspendControl:
    """Answers ``Suspend``."""

    def __init__(
        self, host: Machines, viewer: ViewerRole, live: Callable[[], list[Lease]]
    ) -> None:
        self._host = host
        self._viewer = viewer
        self._live = live
        self._unknown: set[LeaseId] = set()
        """Sandboxes of which an order had no answer: they are asked again."""

    @serves(methods.SUSPEND)
    async def suspend(
        self, exchange: Exchange[api.SuspendAnswer], request: api.SuspendRequest
    ) -> api.SuspendAnswer:
        """Suspend or resume one sandbox, or all of a record, in turn."""
        del exchange
        name, found = take_sandbox_name(request.sandbox), self._live()
        pairs = [(lease.sandbox, lease.record) for lease in found]
        named = set(sandboxes_named(name, pairs))
        if not named:
            raise not_running(name, pairs)
        done = [lease for lease in found if lease.sandbox in named]
        unchanged: list[str] = [
            lease.sandbox
            for lease in done
            if not await self._suspend(lease, suspended=request.suspended)
        ]
        names: list[str] = [lease.sandbox for lease in done]
        return api.SuspendAnswer(sandboxes=names, unchanged=unchanged)

    async def _suspend(self, lease: Lease, *, suspended: bool) -> bool:
        """Stop a sandbox's programs, or let them run again; its windows stay.

        Returns whether that changed anything.

        Raises RefusedError, UpstreamError.
        """
        guest = self._viewer.guest(lease.id)
        if guest is None or guest.stopping or guest.state == "starting":
            raise RefusedError(f"{lease.sandbox} is starting or stopping")
        if guest.suspended is suspended and lease.id not in self._unknown:
            return False
        before = guest.suspended
        guest.suspended = True  # a request that comes meanwhile is refused
        # The client may go away, or the host, before it is known whether it was done.
        # guard: what may be suspended can be resumed
        self._unknown.add(lease.id)
        try:
            await self._host.suspend(lease.id, suspended=suspended)
        except RefusedError:
            self._unknown.discard(lease.id)
            guest.suspended = before
            raise
        self._unknown.discard(lease.id)
        guest.suspended = suspended
        if suspended:
            # Else it would hear what waits, a minute and more, when it is resumed.
            # guard: a suspended sandbox hears nothing
            await guest.sound.set_microphone(allow=False)
            for users in (self._viewer.cameras, self._viewer.screens):
                # guard: a suspended sandbox sees nothing
                await users.take_back(lease.sandbox)
        return True
