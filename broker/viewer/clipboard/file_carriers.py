"""Files that were pasted or dropped: who copies them, and how that is reported."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from broker.core.errors import RefusedError, VitrailError
from broker.core.escape import printable
from broker.core.lease import Lease
from broker.core.notify import Notify
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange import reasons

if TYPE_CHECKING:
    from broker.viewer.sandboxes.guest import Guest

CarryFiles: TypeAlias = "Callable[[Guest, str, Sequence[str]], Awaitable[str]]"
CarryDropped: TypeAlias = Callable[[Lease, str], Awaitable[str]]


async def _no_files(_guest: Guest, _target: str, _files: Sequence[str]) -> str:
    """Refuse files: the broker has no service that copies them."""
    raise RefusedError(reasons.FILES)


async def _no_dropped(_target: Lease, _untrusted_key: str) -> str:
    """Refuse the user's files, as ``_no_files``."""
    raise RefusedError(reasons.FILES)


class FileCarriers:
    """Has files copied by the services that decide about them."""

    of_sandboxes: CarryFiles = staticmethod(_no_files)
    """Copies files of a sandbox to another one; returns what was left out, as text."""
    of_the_user: CarryDropped = staticmethod(_no_dropped)
    """Copies files of the user's, by the portal's key to them; returns the same."""

    def __init__(self, guest: Callable[[str], Guest | None], notify: Notify) -> None:
        self._guest, self._notify = guest, notify

    async def pasted(self, action: w.CarryFiles) -> None:
        """Have files copied to where they were pasted or dropped.

        Notify the outcome.
        """
        guest = self._guest(action.source)
        with self._reported(action.source, action.target) as lines:
            if guest is None or self._guest(action.target) is None:
                raise RefusedError(reasons.GONE)
            lines.append(await self.of_sandboxes(guest, action.target, action.files))

    async def dropped(self, action: w.CarryDropped) -> None:
        """Have the user's files copied to the sandbox that they were dropped on."""
        guest = self._guest(action.target)
        report = self._reported("desktop", action.target, charged=action.target)
        with report as lines:
            if guest is None:
                raise RefusedError(reasons.GONE)
            lines.append(await self.of_the_user(guest.lease, action.untrusted_key))

    @contextmanager
    def _reported(
        self, source: str, target: str, *, charged: str = ""
    ) -> Iterator[list[str]]:
        """Notify the user how the copy of files in the block ended.

        Yields the further lines of that notification.
        ``charged``: whose budget of notifications a failure counts to.
        """
        way, lines = f"{source} → {target}", [f"the files are in ~/Incoming/{source}"]
        try:
            yield lines
        except VitrailError as error:
            # No command line shows the hint of what the user has dropped.
            hint = f"; {error.hint}" if charged and error.hint else ""
            text = f"{error.message}{hint}"
            self._notify(
                f"Files not copied: {way}", printable(text, 400), sandbox=charged
            )
        else:
            self._notify(f"Files copied: {way}", "\n".join(filter(None, lines)))
