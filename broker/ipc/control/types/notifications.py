"""What sandboxes have shown on the desktop."""

from __future__ import annotations

from broker.ipc.control.types.base import ApiAnswer, ApiRequest


class NotificationsRequest(ApiRequest, frozen=True, kw_only=True):
    """Of which sandbox; null means all of them."""

    sandbox: str | None = None
    clear: bool | None = None
    """Forget them, after this answer."""


class NotificationRow(ApiAnswer, frozen=True, kw_only=True):
    """A notification; its texts are the sandbox's words, escaped."""

    sandbox: str
    when: float
    """Seconds since 1970."""
    summary: str
    body: str
    urgency: int
    outcome: str
    """``shown``, ``counted`` (it was one too many), or how it ended."""


class NotificationsAnswer(ApiAnswer, frozen=True, kw_only=True):
    """Notifications, the oldest first.

    ``omitted``: earlier ones, which did not fit into the answer.
    """

    notifications: list[NotificationRow]
    omitted: int = 0
