"""What the sandboxes have in common that use the one security key."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.core.names import LeaseId


class SharedKey:
    """Its places, and the PINs that were wrong.

    PINs are counted by record: a sandbox has no new tries by connecting or
    starting again, nor a disposable by being another one.
    """

    def __init__(self) -> None:
        self._places: dict[LeaseId, int] = {}
        self._wrong: dict[str, int] = {}

    @contextlib.contextmanager
    def place(self, lease: LeaseId) -> Iterator[None]:
        """Hold one of a sandbox's places.  Raises RefusedError when there is none."""
        taken = self._places.get(lease, 0)
        # guard: connections to the security key
        if taken >= limits.SECURITY_KEY_CONNECTIONS:
            raise RefusedError(f"{taken} programs of the sandbox use the security key")
        self._places[lease] = taken + 1
        try:
            yield
        finally:
            self._places[lease] -= 1
            if not self._places[lease]:
                del self._places[lease]

    def enter_pin(self, lease: Lease) -> int:
        """Count a PIN as a wrong one before it is; return how many were before."""
        before = self._wrong.get(lease.record, 0)
        # A process that ends, or does not report the key's answer, has had its try.
        # guard: wrong PINs are counted
        self._wrong[lease.record] = before + 1
        return before

    def not_entered(self, lease: Lease) -> None:
        """The person, or a rule, has said no to it."""
        if self._wrong.get(lease.record):
            self._wrong[lease.record] -= 1

    def right_pin(self, lease: Lease) -> None:
        """The key has taken a PIN of this sandbox."""
        self._wrong.pop(lease.record, None)
