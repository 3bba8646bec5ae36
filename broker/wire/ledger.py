"""What both ends of a connection note of its ordered rows.

Host and viewer use it for leases.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext

import msgspec

from broker.wire.row import AnyRow


class Ledger:
    """What both ends note of ordered rows, in the order of their messages.

    The base notes nothing, and lets calls be served in any order.
    """

    def note_call(self, call: int, row: AnyRow, request: msgspec.Struct) -> None:
        """Note a call that begins, at either end.

        Raises ValueError with the rule that the call breaks.
        """

    def turn(
        self,
        request: msgspec.Struct,  # noqa: ARG002 -- for those that have an order
    ) -> AbstractAsyncContextManager[object]:
        """Return the turn of a call at its serving end, in the order of their messages.

        It is entered when the calls that have to precede it have been served.
        """
        return nullcontext()

    def note_answer(
        self, call: int, row: AnyRow, request: msgspec.Struct, *, is_done: bool
    ) -> None:
        """Note the end of a call, at either end; ``is_done``: it has not failed."""
