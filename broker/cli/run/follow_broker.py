"""Follow the broker for a screen that stays: look again after its events, wait for a next one.

Nothing polls while nothing changes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

import trio

from broker.cli.run.connect import open_client
from broker.core.errors import VitrailError
from broker.core.paths import Paths
from broker.ipc.control import methods
from broker.ipc.control.api import EventItem, EventsRequest
from broker.ipc.control.client import Client

_AGAIN_SECONDS: Final = 5.0
"""Until a broker that has gone is looked for again."""
_TOGETHER_SECONDS: Final = 0.2
"""Events within this time are one change."""

_State = TypeVar("_State")


async def _nothing(_item: EventItem) -> None:
    await trio.lowlevel.checkpoint()


def _for_ever(_state: object) -> float:
    return float("inf")


class BrokerFollower(Generic[_State]):
    """Calls ``show`` with each new state, and ``event`` with each event of the log.

    ``look`` asks the broker for the state, ``absent`` returns it without a broker.
    ``patience``: the seconds after which a state is looked at again without an event.
    """

    def __init__(
        self,
        paths: Paths,
        look: Callable[[Client], Awaitable[_State]],
        absent: Callable[[], Awaitable[_State]],
        show: Callable[[_State], Awaitable[None]],
        *,
        event: Callable[[EventItem], Awaitable[None]] = _nothing,
        patience: Callable[[_State], float] = _for_ever,
    ) -> None:
        self._paths = paths
        self._look = look
        self._absent = absent
        self._show = show
        self._event = event
        self._patience = patience
        self._changed = trio.Event()

    def look_again(self) -> None:
        """Look again soon, as after a change of a file, which may be no event."""
        self._changed.set()

    async def run(self) -> None:
        """Follow until cancelled, whether or not a broker runs."""
        while True:
            # Errors of a nursery are in a group, which contextlib.suppress passes on.
            try:
                await self._while_it_runs()
            except* (VitrailError, trio.BrokenResourceError):
                pass  # it has ended, and the state without one says so
            self._changed = trio.Event()
            await self._show(await self._absent())
            with trio.move_on_after(_AGAIN_SECONDS):
                await self._changed.wait()

    async def _while_it_runs(self) -> None:
        """Show the broker's state at each change, until it ends."""
        async with open_client(self._paths) as asked, trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, nursery.cancel_scope)
            while True:
                self._changed = trio.Event()
                state = await self._look(asked)
                await self._show(state)
                with trio.move_on_after(self._patience(state)):
                    await self._changed.wait()
                    await trio.sleep(_TOGETHER_SECONDS)

    async def _follow(self, scope: trio.CancelScope) -> None:
        """Receive events until the broker closes the connection; cancel ``scope`` then."""

        async def note(item: EventItem) -> None:
            self._changed.set()
            await self._event(item)

        with suppress(VitrailError):
            async with open_client(self._paths) as events:
                await events.call(methods.EVENTS, EventsRequest(), note)
        scope.cancel()
