"""The way back of a file that is being edited in another sandbox.

The program that the broker has started there gets a token with the file.  When the
editor has ended and the content has changed, it asks by that token, once, and the
bytes go through both workers, or to a process of the user's, as they came.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from broker.core.errors import RefusedError
from broker.core.transfer.quota import Quota
from broker.viewer.exchange.pipes import PipeEnd
from broker.viewer.sandboxes.programs import LeaseProgram, wait_unless_ended


@dataclass(eq=False)
class Return:
    """One file's way back: ``token`` is the target's, ``quota`` the most it may bring."""

    token: str
    quota: Quota
    sha256: bytes = b""
    """Of the edited file; empty while none came."""
    size: int = 0
    announced: int = 0
    """Bytes, as the target has announced them."""
    _asked: trio.Event = field(default_factory=trio.Event)
    _open: trio.Event = field(default_factory=trio.Event)
    _done: trio.Event = field(default_factory=trio.Event)
    _pipe: PipeEnd | None = None
    _reason: str = ""

    # -- the side that the file came from -------------------------------------------

    async def wait_asked(self, program: LeaseProgram) -> bool:
        """Wait until the target asks to return the file; False: its program has ended.

        Raises RefusedError where it asks for more than may come back.
        """
        await wait_unless_ended(program, self._asked)
        if self._reason:
            raise RefusedError(self._reason)
        return self._asked.is_set()

    async def wait_announced(self) -> None:
        """Wait until the target asks to return the file, however long its program runs.

        Raises RefusedError where it asks for more than may come back.
        """
        await self._asked.wait()
        if self._reason:
            raise RefusedError(self._reason)

    def accept(self, pipe: PipeEnd) -> None:
        """Take the file; it will be written to this end, which is given away."""
        self._pipe = pipe
        self._open.set()

    async def wait_done(self) -> None:
        """Wait for the end of the bytes.  Raises RefusedError when they broke off."""
        await self._done.wait()
        if self._reason:
            raise RefusedError(self._reason)

    def end(self, reason: str) -> None:
        """Stop waiting for the edited file; close its pipe.  Keeps the first reason."""
        if not self._done.is_set():
            self._reason = reason
            self._done.set()
            self._open.set()
            if self._pipe is not None:
                self._pipe.close()  # its reader waits for the end

    # -- the side that has edited it ---------------------------------------------------

    async def wait_open(self, size: int) -> PipeEnd:
        """Announce a return of ``size`` bytes.

        Wait for and return the pipe to write to.

        Raises RefusedError where they are too many, or may not come back any more.
        """
        # guard: size of a returned file
        if size > self.quota.file_size:
            reason = f"the returned file is larger than {self.quota.file_size} bytes"
            self.end(reason)
            self._asked.set()
            raise RefusedError(reason)
        self.announced = size
        self._asked.set()
        await self._open.wait()
        if self._pipe is None or self._pipe.fileno() < 0:
            raise RefusedError(self._reason or "the file is no longer expected")
        return self._pipe
