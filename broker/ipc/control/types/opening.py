"""The user's own files and links, opened in or copied to a sandbox."""

from __future__ import annotations

from broker.ipc.control.types.base import ApiAnswer, ApiRequest
from broker.ipc.control.types.running import Progress


class OpenRequest(ApiRequest, frozen=True, kw_only=True):
    """Open an address or a file, or copy files; exactly one of them."""

    url: str | None = None
    path: str | None = None
    """Absolute; of a file that is to be opened."""
    edit: bool | None = None
    """With ``path``: it is replaced by the edited file, where a rule says so."""
    copy: list[str] | None = None
    """Absolute; files and directories that are kept in ``~/Incoming`` there."""
    sandbox: str | None = None
    """A record's or a running sandbox's name; null: the rules choose."""


class OpenItem(ApiAnswer, frozen=True, kw_only=True):
    """One of the two; the last one of a call is ``sandbox``."""

    progress: Progress | None = None
    sandbox: str = ""
    """Where it was opened or kept."""
    detail: str = ""
    """The result, for the user: what became of an edited file, or was not copied."""
