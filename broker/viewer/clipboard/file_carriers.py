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

CarryFiles: TypeAlias = "Callable[[Guest, str, Sequence[str]], Awaitable[None]]"
CarryDropped: TypeAlias = Callable[[Lease, str], Awaitable[None]]


async def _no_files(_guest: Guest, _target: str, _files: Sequence[str]) -> None:
    """Refuse files: the broker has no service that copies them."""
    raise RefusedError(reasons.FILES)


async def _no_dropped(_target: Lease, _untrusted_key: str) -> None:
    """Refuse the user's files, as ``_no_files``."""
    raise RefusedError(reasons.FILES)


class FileCarriers:
    """Has files copied by the services that decide about them."""

    of_sandboxes: CarryFiles = staticmethod(_no_files)
    """Copies files of a sandbox to another one."""
    of_the_user: CarryDropped = staticmethod(_no_dropped)
    """Copies files of the user's, by the portal's key to them."""

    def __init__(self, guest: Callable[[str], Guest | None], notify: Notify) -> None:
        self._guest, self._notify = guest, notify

    async def pasted(self, action: w.CarryFiles) -> None:
        """Have files copied to where they were pasted or dropped.

        Notify the outcome.
        """
        guest = self._guest(action.source)
        with self._reported(action.source, action.target):
            if guest is None or self._guest(action.target) is None:
                raise RefusedError(reasons.GONE)
            await self.of_sandboxes(guest, action.target, action.files)

    async def dropped(self, action: w.CarryDropped) -> None:
        """Have the user's files copied to the sandbox that they were dropped on."""
        guest = self._guest(action.target)
        with self._reported("desktop", action.target, charged=action.target):
            if guest is None:
                raise RefusedError(reasons.GONE)
            await self.of_the_user(guest.lease, action.untrusted_key)

    @contextmanager
    def _reported(
        self, source: str, target: str, *, charged: str = ""
    ) -> Iterator[None]:
        """Notify the user how the copy of files in the block ended.

        ``charged``: whose budget of notifications a failure counts to.
        """
        way = f"{source} → {target}"
        try:
            yield
        except VitrailError as error:
            # No command line shows the hint of what the user has dropped.
            hint = f"; {error.hint}" if charged and error.hint else ""
            text = f"{error.message}{hint}"
            self._notify(
                f"Files not copied: {way}", printable(text, 400), sandbox=charged
            )
        else:
            text = f"the files are in ~/Incoming/{source}"
            self._notify(f"Files copied: {way}", text)
