"""Questions to the user, and the answers that last."""

from __future__ import annotations

from broker.ipc.control.types.base import ApiAnswer, ApiRequest


class PendingQuestion(ApiAnswer, frozen=True, kw_only=True):
    """A question that waits for the user."""

    id: int
    sandbox: str
    record: str
    label: str
    color: str
    service: str
    argument: str
    words: str
    """The operation that the sandbox requests, in plain words."""
    details: list[str] = []
    """What else is permitted, then claims (``TITLE, it says``), each ``title: value``."""
    targets: list[str]
    """The targets that the user may choose."""
    default_target: str
    """The preselected target; empty: none."""
    keeps: list[str]
    """How long a yes may hold: ``once``, ``time`` (``seconds``), ``session``."""
    seconds: int
    remembers: str = ""
    """The requests that a yes for longer than once serves, where these are more than the
    question shows."""
    rule: str
    left: float
    """Seconds until the answer is no."""
    shown: bool
    """Whether it is on the screen now."""


class PendingAnswer(ApiAnswer, frozen=True, kw_only=True):
    """All questions that wait, oldest first."""

    questions: list[PendingQuestion]


class QuestionAnswerRequest(ApiRequest, frozen=True, kw_only=True):
    """Answer a question in the user's place."""

    id: int
    allow: bool
    target: str | None = None
    """None: the one chosen beforehand."""
    keep: str | None = None
    """None: once."""


class GrantStatus(ApiAnswer, frozen=True, kw_only=True):
    """An answer that is remembered."""

    id: str
    sandbox: str
    service: str
    argument: str
    about: str = ""
    """What else it is for: a host, an address without one, a folder's path, a printer,
    how it is done."""
    target: str
    keep: str
    """``time`` or ``session``."""
    rule: str
    left: float | None = None
    """Seconds that it still holds; None: until the sandbox stops."""
    live: int = 0
    """How many operations it permits now."""


class GrantsAnswer(ApiAnswer, frozen=True, kw_only=True):
    """All grants, oldest first."""

    grants: list[GrantStatus]


class GrantRevokeRequest(ApiRequest, frozen=True, kw_only=True):
    """Take grants back, and cut the streams that they allowed."""

    id: str | None = None
    """None: all of them."""


class LockdownRequest(ApiRequest, frozen=True, kw_only=True):
    """Begin a lockdown, or lift it."""

    begin: bool | None = None
    """Null: it is only shown."""
    networks: bool | None = None
    """With ``begin``: networks end, too.  Ended ones stay so."""


class LockdownAnswer(ApiAnswer, frozen=True):
    """The lockdown as it is now."""

    locked: bool
    networks: bool
    unkept: str = ""
    """Why it would not survive a restart of the broker; empty: it does."""
    open_networks: list[str] = []
    """Sandboxes whose network still works, although ``networks`` are denied."""
