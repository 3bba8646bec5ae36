"""``vitrail.Secret``: one secret of the user's Secret Service, by its name.

A locked keyring asks its user for the password.  The service does not tell a dismissed
prompt from a secret that it does not have, but the latter is known at once.
"""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.stderr_log import log_stderr
from broker.ipc.session.service_orders import ASK_SECRET, AskSecret
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.orders.session_orders import UserSession
from broker.viewer.transfer.meter import Declined

_TURN_SECONDS = 45.0
"""For an earlier request of the record: the permit is good for a minute."""
_DISMISSED_SECONDS = 0.5
"""A user does not dismiss a prompt faster."""


class UserSecrets:
    """Reads secrets of the user's for sandboxes: one at a time for each record."""

    def __init__(self, session: UserSession) -> None:
        self._session = session
        self._turns = defaultdict[str, trio.Lock](trio.Lock)
        self._declined = Declined("requests for a secret were dismissed")

    @asynccontextmanager
    async def reading(
        self, record: str, warrant: bytes, name: str
    ) -> AsyncIterator[socket.socket]:
        """Read a secret for a record; yield a socket that delivers it.

        ``name`` has the form of a service's argument.  Raises ShareableError when the user
        has no secret of this name, it cannot be read, or the user has dismissed
        several requests of the record.
        """
        async with self._turn(record):
            # guard: requests for a secret that are dismissed come no more
            self._declined.require_few(record)
            near, far = await self._read(record, warrant, name)
        with near, far:
            yield near

    @asynccontextmanager
    async def _turn(self, record: str) -> AsyncIterator[None]:
        """Wait for the record's earlier requests.  Raises ShareableError after a while."""
        turn = self._turns[record]
        with trio.move_on_after(_TURN_SECONDS) as patience:
            # guard: a record has one request for a secret at a time
            await turn.acquire()
        if patience.cancelled_caught:
            raise ShareableError("an earlier request for a secret waits for the user")
        try:
            yield
        finally:
            turn.release()
            if not turn.locked():  # nor is it waited for
                self._turns.pop(record, None)

    async def _read(
        self, record: str, warrant: bytes, name: str
    ) -> tuple[socket.socket, socket.socket]:
        """Have a session child read a secret; return a socket that delivers it.

        The second socket is its far end, which the caller keeps open until then.  Raises
        ShareableError.
        """
        began, dismissed = trio.current_time(), True
        try:
            answer = await self._session.carry_out(
                ASK_SECRET, AskSecret(name), warrant=warrant
            )
            dismissed = False
        except RefusedError:
            dismissed = False  # nothing was shown
            raise
        except (SetupError, UpstreamError) as error:
            dismissed = trio.current_time() - began > _DISMISSED_SECONDS
            # The error has no output of it: the secret is in no log.
            log_stderr(f"vitrail: cannot read the secret {name}: {error.message}")
            raise ShareableError(f"the user's desktop has no secret {name}") from error
        finally:
            # A slow failure was a dismissed prompt.  Also if the caller has hung up.
            if dismissed:
                self._declined.note(record)
        near, far = (socket.socket(fileno=fd) for fd in answer.fds)
        return near, far
