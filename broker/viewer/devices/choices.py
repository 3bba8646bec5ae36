"""The question about a device that rules let go to more than one sandbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from broker.authority.channel.interface import Permits
from broker.authority.decisions.choice import ChoiceText, ChosenRequest
from broker.authority.permit import Request
from broker.core.errors import VitrailError
from broker.core.stderr_log import isolated, log_stderr
from broker.ipc.devices.messages import DeviceItem


class DeviceChoices:
    """Open questions and declined devices, by the numbers of the plug-ins."""

    def __init__(
        self,
        decider: Permits,
        attach: Callable[[DeviceItem, ChosenRequest], Awaitable[None]],
    ) -> None:
        """``attach``: called with what the user has chosen; does not raise."""
        self._decider = decider
        self._attach = attach
        self._open: dict[int, trio.CancelScope] = {}
        self._declined: set[int] = set()

    async def ask(self, item: DeviceItem, requests: Sequence[Request]) -> None:
        """Have the user choose, once for each plug-in, until it is withdrawn."""
        # guard: a declined device is not asked about again
        if item.number in self._open or item.number in self._declined:
            return
        with isolated():
            choice = await self._choice(item, requests)
            if choice is not None:
                await self._attach(item, choice)

    async def _choice(
        self, item: DeviceItem, requests: Sequence[Request]
    ) -> ChosenRequest | None:
        words = f"to attach {item.title}"
        scope = self._open[item.number] = trio.CancelScope()
        try:
            with scope:
                return await self._decider.choose(
                    requests, ChoiceText(words, requests[0].details)
                )
        except VitrailError as error:
            self._declined.add(item.number)
            log_stderr(f"vitrail: {item.title} is not attached: {error}")
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
        self._declined &= there
        for number in self._open.keys() - there:
            self.withdraw(number)
