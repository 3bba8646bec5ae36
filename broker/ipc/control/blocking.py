"""A client of the control socket without an event loop.

Only programs of broker/cli run this (brokerctl, the manager), with the user's rights.

For verbs that ask once and end (``status``): importing trio takes longer than
the question.  Each wait has a deadline, but for methods that wait themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from broker.core.errors import VitrailError
from broker.core.paths import Paths
from broker.ipc.control import varlink
from broker.ipc.control.answers import answer_in, reply_in
from broker.ipc.control.blocking_connection import (
    ANSWER_SECONDS,
    STARTED_BY,
    Connection,
    open_connection,
)
from broker.ipc.control.method import Method
from broker.ipc.control.shared_methods import GET_VERSION
from broker.ipc.control.types.base import Nothing

_Request = TypeVar("_Request", bound=msgspec.Struct)
_Answer = TypeVar("_Answer", bound=msgspec.Struct)


class BlockingClient:
    """A connection to a broker; made by ``open_blocking``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._answered = False

    def call(
        self,
        method: Method[_Request, _Answer],
        request: _Request,
        on_item: Callable[[_Answer], None] | None = None,
    ) -> _Answer:
        """Call a method of the broker; ``on_item`` gets the items before the answer.

        Raises what the broker refuses with, or UpstreamError when it does not
        answer in time.
        """
        if method.waits and not self._answered:
            # guard: a silent broker is not waited for without an end, by a verb without a loop
            self._wait_answer()
        message = varlink.request(method.name, request, more=on_item is not None)
        self._connection.send(message, None if method.waits else ANSWER_SECONDS)
        while True:
            reply = reply_in(self._connection.receive())
            self._answered = True
            answer = answer_in(reply, method.answer)
            if on_item is None or not reply.continues:
                return answer
            on_item(answer)

    def _wait_answer(self) -> None:
        """Return when the broker has answered, whatever it says.  Raises UpstreamError."""
        try:
            self.call(GET_VERSION, Nothing())
        except VitrailError:
            if not self._answered:
                raise


@contextmanager
def open_blocking(
    paths: Paths, *, start: str | Callable[[], str] = STARTED_BY
) -> Iterator[BlockingClient]:
    """Connect to this user's broker.  Raises SetupError as ``open_connection``."""
    with open_connection(paths, start) as connection:
        yield BlockingClient(connection)
