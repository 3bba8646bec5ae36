"""Whose orders are carried out at one time: those that sandboxes cause, and all others.

The starter's process forks a child for each order and reads none, so it knows no record.
It has ``fork_server.ORDERS`` places; sandboxes share some of them, and the rest is kept
for what the user does and for the broker's own orders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from broker.core.errors import RefusedError
from broker.core.fair_share import counted, may_take
from broker.ipc.fork_server import ORDERS, ORDERS_OF_USER

_cause: ContextVar[str] = ContextVar("record", default="")
"""The record that has caused what a task does; tasks have that of who starts them."""


@contextmanager
def caused_by(record: str) -> Iterator[None]:
    """Count the orders of the block, and of the tasks that it starts, to a record.

    Empty: to no record.
    """
    before = _cause.set(record)
    try:
        yield
    finally:
        _cause.reset(before)


class OrderPlaces:
    """Counts the orders of one viewer that its sandboxes have caused, by record."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place for an order while the block runs.

        Raises RefusedError where the record that has caused it has its share: the text
        does not tell what others have.
        """
        record = _cause.get()
        if not record:
            yield
            return
        most, taken = ORDERS - ORDERS_OF_USER, self._taken.total()
        # guard: orders that a record causes leave places to others
        if not may_take(self._taken[record], taken, most):
            raise RefusedError(
                "the sandbox has too many operations on the user's desktop in progress",
                hint="try again when some of them have ended",
            )
        with counted(self._taken, record):
            yield
