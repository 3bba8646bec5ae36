"""The method of the control socket that lists what sandboxes have shown."""

from __future__ import annotations

from itertools import islice

from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves
from broker.viewer.notifications.board import Board

_ROWS = 200
"""Of one answer: each may have 600 characters, and four bytes for each of them."""


class NotificationControl:
    """The history of notifications, which only memory has."""

    def __init__(self, board: Board) -> None:
        self._board = board

    @serves(methods.NOTIFICATIONS)
    async def notifications(
        self,
        exchange: Exchange[api.NotificationsAnswer],
        request: api.NotificationsRequest,
    ) -> api.NotificationsAnswer:
        """The newest notifications, of one sandbox or of all."""
        del exchange
        sandbox = request.sandbox or ""
        rows = sorted(self._board.history(sandbox), key=lambda row: row.when)
        if request.clear:
            self._board.clear(sandbox)
        omitted = max(0, len(rows) - _ROWS)
        return api.NotificationsAnswer(
            notifications=[
                api.NotificationRow(
                    sandbox=row.sandbox,
                    when=row.when,
                    summary=row.summary,
                    body=row.body,
                    urgency=row.urgency,
                    outcome=row.outcome,
                )
                for row in islice(rows, omitted, None)
            ],
            omitted=omitted,
        )
