"""What the sandboxes have in common that use the one security key."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import trio

from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.core.limits import devices as limits
from broker.core.names import LeaseId
from broker.core.token_bucket import TokenBucket
from broker.helpers.prompt.phrases import request_of
from broker.helpers.prompt.translation import tr
from broker.viewer.uses.use_signs import SECURITY_KEY, UseSigns


@dataclass(eq=False)
class _Record:
    """What the sandboxes of one record share."""

    turn: trio.Lock = field(default_factory=trio.Lock)
    requests: TokenBucket = field(
        default_factory=lambda: TokenBucket(
            limits.SECURITY_KEY_REQUESTS_PER_SECOND, limits.SECURITY_KEY_REQUESTS_BURST
        )
    )


class SharedKey:
    """Its places, who has the key now, and the PINs that were wrong.

    Requests and PINs are counted by record: a sandbox has no new tries by connecting or
    starting again, nor a disposable by being another one.
    """

    def __init__(self, signs: UseSigns | None = None) -> None:
        """Set up the shared key; ``signs`` show the user which request has it."""
        self._signs = signs
        self._key = trio.Lock()
        self._records: dict[str, _Record] = {}
        self._places: dict[LeaseId, int] = {}
        self._wrong: dict[str, int] = {}

    @contextlib.contextmanager
    def place(self, lease: LeaseId) -> Iterator[None]:
        """Hold a sandbox's connection to the key.

        Raises RefusedError for too many.
        """
        taken = self._places.get(lease, 0)
        # guard: connections to the security key
        if taken >= limits.SECURITY_KEY_CONNECTIONS:
            raise RefusedError(
                f"{taken} programs of the sandbox, the limit, already use the security key"
            )
        self._places[lease] = taken + 1
        try:
            yield
        finally:
            self._places[lease] -= 1
            if not self._places[lease]:
                del self._places[lease]

    def _record(self, lease: Lease) -> _Record:
        return self._records.setdefault(lease.record, _Record())

    async def pace(self, lease: Lease) -> None:
        """Wait until the record may send one more request."""
        requests = self._record(lease).requests
        early = requests.early(trio.current_time())
        # guard: requests to the security key have a pace
        while early > 0:
            # A rest that is lost in the clock's rounding would never pass.
            await trio.sleep(max(early, 0.001))
            early = requests.early(trio.current_time())
        requests.take(trio.current_time())

    @contextlib.asynccontextmanager
    async def turn(self, lease: Lease) -> AsyncIterator[None]:
        """Hold the key exclusively while the block runs, in order of arrival.

        A record waits once, however many programs and sandboxes of it ask.
        """
        # guard: a record has one turn among the others'
        turn = self._record(lease).turn
        # guard: one request has the security key
        key = self._key
        async with turn, key:
            yield

    @contextlib.contextmanager
    def shown(self, lease: Lease, words: str) -> Iterator[None]:
        """Show for whom a touch is, while the block runs; ``words`` are escaped."""
        request = request_of(words)
        text = tr(
            "{name} is waiting for your touch {request}",
            name=lease.sandbox,
            request=request,
        )
        # guard: who has the security key is shown
        if self._signs is None:
            yield
            return
        name = lease.sandbox
        self._signs.show(SECURITY_KEY, name, active=True, title=text)
        try:
            yield
        finally:
            self._signs.show(SECURITY_KEY, name, active=False)

    def enter_pin(self, lease: Lease) -> int:
        """Count a PIN as a wrong one before it is; return how many were before."""
        before = self._wrong.get(lease.record, 0)
        # A process that ends, or does not report the key's answer, has had its try.
        # guard: wrong PINs are counted
        self._wrong[lease.record] = before + 1
        return before

    def not_entered(self, lease: Lease) -> None:
        """The user, or a rule, has said no to it."""
        if self._wrong.get(lease.record):
            self._wrong[lease.record] -= 1

    def right_pin(self, lease: Lease) -> None:
        """The key has taken a PIN of this sandbox."""
        self._wrong.pop(lease.record, None)
