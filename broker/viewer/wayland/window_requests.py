"""``brokerctl windows`` and ``kill-window``, on the side that has the screen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import trio

from broker.core import limits
from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from broker.core.names import SandboxName
from broker.ipc import worker
from broker.ipc.control import api, methods
from broker.ipc.control.fitting import AROUND
from broker.ipc.control.method import Exchange, serves
from broker.viewer.role import ViewerRole
from broker.viewer.sandboxes.guest import Guest
from broker.wire.faults import NotFoundError

_STATISTICS_SECONDS = 1.0
"""A worker that does not say its numbers must not hold up a whole status."""
_Rows = TypeVar("_Rows", api.WindowsAnswer, api.NetworkAnswer)
_LOOK_SECONDS = 0.25
"""Between two looks for a subscriber: workers report windows only when asked."""


@dataclass(frozen=True)
class WindowsPart:
    """The windows of all guests of a viewer."""

    viewer: ViewerRole

    @serves(methods.WINDOWS)
    async def listed(
        self, exchange: Exchange[api.WindowsAnswer], request: api.WindowsRequest
    ) -> api.WindowsAnswer:
        """List the windows of sandboxes; with ``more``, again at each change.

        Raises NotFoundError.
        """
        answer = await self._listed(request)
        while exchange.more:
            await exchange.emit(answer)
            last = answer
            while answer == last:
                await trio.sleep(_LOOK_SECONDS)
                answer = await self._listed(request)
        return answer

    async def _listed(self, request: api.WindowsRequest) -> api.WindowsAnswer:
        """Ask every worker for its windows at the same time."""
        guests = self.viewer.guests()
        if request.sandbox is not None:
            guests = self.viewer.named(request.sandbox)
        found: dict[SandboxName, list[worker.WindowReport]] = {}
        silent: list[str] = []

        async def ask(guest: Guest) -> None:
            if guest.worker is None:
                return
            try:
                found[guest.lease.sandbox] = await guest.worker.windows()
            except UpstreamError:
                silent.append(guest.lease.sandbox)

        async with trio.open_nursery() as nursery:
            for guest in guests:
                nursery.start_soon(ask, guest)
        windows = [_status(name, w) for name in sorted(found) for w in found[name]]
        answer = api.WindowsAnswer(windows=windows, silent=sorted(silent))
        return fit_by_sandbox(answer, "windows")

    @serves(methods.WINDOW_CLOSE)
    async def close(
        self, exchange: Exchange[api.Nothing], request: api.WindowCloseRequest
    ) -> api.Nothing:
        """Close a window, or end it by force, which is recorded.

        Raises NotFoundError, UpstreamError.
        """
        guest = self.viewer.one(request.sandbox)
        if guest.worker is None:
            raise NotFoundError(f"{guest.lease.sandbox} has no windows")
        if not request.ask:
            # `kill-window` cuts. A window that has to be killed belongs to an
            # application that ignores requests. So the verb ends the connection, and
            # `--ask` is the polite way. The numbers of windows are never used twice, so
            # a window that opened meanwhile is not hit.
            await guest.screen.require_kill_logged(request.window, exchange.caller.pid)
        try:
            await guest.worker.close_window(request.window, cut=not request.ask)
        except RefusedError as error:
            raise NotFoundError(error.message, hint=error.hint) from error
        return api.Nothing()

    async def limits(self) -> dict[SandboxName, list[api.LimitStatus]]:
        """Ask all workers; return each sandbox's use of limited resources."""
        found: dict[SandboxName, list[api.LimitStatus]] = {}

        async def ask(guest: Guest) -> None:
            if guest.worker is not None:
                said = await guest.worker.statistics()
                found[guest.lease.sandbox] = [_limit(use) for use in said.uses]

        with trio.move_on_after(_STATISTICS_SECONDS):
            async with trio.open_nursery() as nursery:
                for guest in self.viewer.guests():
                    nursery.start_soon(ask, guest)
        return found


def _limit(use: worker.Use) -> api.LimitStatus:
    return api.LimitStatus(
        what=printable(use.what, 40), now=use.now, most=use.most, refused=use.refused
    )


def _status(sandbox: SandboxName, untrusted: worker.WindowReport) -> api.WindowStatus:
    """Return the row of a window that a worker reported."""
    return api.WindowStatus(
        sandbox=sandbox,
        window=untrusted.number,
        title=printable(untrusted.title),
        app_id=printable(untrusted.app_id),
        width=untrusted.width,
        height=untrusted.height,
        focused=untrusted.focused,
    )


def fit_by_sandbox(
    answer: _Rows, key: str, limit: int = limits.CONTROL_MESSAGE_BYTES - AROUND
) -> _Rows:
    """Return an answer's rows, its field ``key``, in at most ``limit`` bytes of JSON.

    Sandboxes with more than their equal share of it lose their newest ones, and
    ``omitted`` counts these.
    """
    encode = msgspec.json.Encoder().encode
    if len(encode(answer)) <= limit:
        return answer
    rows = getattr(answer, key)
    bare = msgspec.structs.replace(answer, **{key: []}, omitted=len(rows))
    room = share = max(0, limit - len(encode(bare)))
    sizes: Counter[str] = Counter()
    for row in rows:
        sizes[row.sandbox] += len(encode(row)) + 1
    for number, size in enumerate(sorted(sizes.values())):
        share = room // (len(sizes) - number)
        room -= min(size, share)
    used: Counter[str] = Counter()
    kept = []
    for row in rows:
        used[row.sandbox] += len(encode(row)) + 1
        # guard: a sandbox with many windows leaves room for the others'
        if used[row.sandbox] <= share:
            kept.append(row)
    omitted = len(rows) - len(kept)
    return msgspec.structs.replace(answer, **{key: kept}, omitted=omitted)
