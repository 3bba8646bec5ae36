"""The question about a device that rules let go to more than one sandbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from broker.authority.permit import ChosenRequest, Request
from broker.core.errors import VitrailError
from broker.core.lease import Lease
from broker.core.stderr_log import isolated, log_stderr
from broker.ipc.devices.messages import DeviceItem
from broker.viewer.authority.interface import Permits


class DeviceChoices:
    """Open questions and declined devices, by the numbers of the plug-ins."""

    def __init__(
        self,
        decider: Permits,
        attach: Callable[[DeviceItem, ChosenRequest], Awaitable[None]],
    ) -> None:
        """Set up choices; ``attach`` is called with what the user chose.

        Does not raise.
        """
        self._decider = decider
        self._attach = attach
        self._open: dict[int, trio.CancelScope] = {}
        self._declined: set[tuple[int, str]] = set()

    def is_declined(self, number: int, lease: Lease) -> bool:
        """Return whether the user has said no to a plug-in for a record's sandboxes.

        A disposable has a fresh name at each start, which a sandbox may cause.
        """
        return (number, lease.record) in self._declined

    def decline(self, number: int, leases: Iterable[Lease]) -> None:
        """Ask no more about a plug-in for the records of these sandboxes."""
        self._declined.update((number, lease.record) for lease in leases)

    async def ask(self, item: DeviceItem, requests: Sequence[Request]) -> None:
        """Ask the user which sandbox gets a device; once for each plug-in."""
        if item.number in self._open:
            return
        with isolated():
            choice = await self._choice(item, requests)
            if choice is not None:
                await self._attach(item, choice)

    async def _choice(
        self, item: DeviceItem, requests: Sequence[Request]
    ) -> ChosenRequest | None:
        """Ask the user; return the choice, None for a refusal or withdrawal."""
        scope = self._open[item.number] = trio.CancelScope()
        try:
            with scope:
                return await self._decider.choose(requests)
        except VitrailError as error:
            self.decline(item.number, [request.lease for request in requests])
            log_stderr(f"vitrail: cannot attach {item.title}: {error}")
        finally:
            del self._open[item.number]
        return None

    def withdraw(self, number: int) -> None:
        """The device was attached on request."""
        scope = self._open.get(number)
        if scope is not None:
            scope.cancel()

    def keep_only(self, there: set[int]) -> None:
        """Withdraw the questions about devices that were unplugged."""
        self._declined = {one for one in self._declined if one[0] in there}
        for number in self._open.keys() - there:
            self.withdraw(number)
