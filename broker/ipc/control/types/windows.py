"""Windows on the screen."""

from __future__ import annotations

from broker.ipc.control.types.base import ApiAnswer, ApiRequest


class WindowsRequest(ApiRequest, frozen=True, kw_only=True):
    """Which windows; null means those of all sandboxes."""

    sandbox: str | None = None


class WindowStatus(ApiAnswer, frozen=True, kw_only=True):
    """A window on the screen; title and application id are the guest's words.

    They are escaped, and without our prefix.  Sizes are of the content, in
    logical pixels.
    """

    sandbox: str
    window: int
    """Its number in its sandbox; never used twice."""
    title: str
    app_id: str
    width: int
    height: int
    focused: bool


class WindowsAnswer(ApiAnswer, frozen=True, kw_only=True):
    """Windows, by sandbox, oldest first; ``silent`` sandboxes did not answer.

    ``omitted`` windows did not fit into the answer; those of one sandbox always do.
    """

    windows: list[WindowStatus]
    silent: list[str] = []
    omitted: int = 0


class WindowCloseRequest(ApiRequest, frozen=True, kw_only=True):
    """Cut the connection of a window; with ``ask`` ask its application to close it."""

    sandbox: str
    window: int
    ask: bool | None = None
