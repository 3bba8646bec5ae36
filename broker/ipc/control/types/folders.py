"""Directories and which sandbox has them."""

from __future__ import annotations

from broker.ipc.control.types.base import ApiAnswer, ApiRequest


class FolderStatus(ApiAnswer, frozen=True, kw_only=True):
    """A directory that a sandbox has."""

    path: str
    """Here; escaped."""
    sandbox: str
    inside: str
    """Where it is in the sandbox."""
    write: bool
    since: float
    """Seconds since 1970."""


class FoldersAnswer(ApiAnswer, frozen=True, kw_only=True):
    """The shared directories."""

    folders: list[FolderStatus]


class FolderShareRequest(ApiRequest, frozen=True, kw_only=True):
    """Share a directory."""

    path: str
    """Absolute."""
    sandbox: str
    write: bool | None = None


class FolderUnshareRequest(ApiRequest, frozen=True, kw_only=True):
    """Take a directory back."""

    folder: str
    """Its path here, or its name in the sandbox."""
    sandbox: str
    force: bool | None = None
    """End the sandbox where it has files of the folder open."""


class FolderAnswer(ApiAnswer, frozen=True, kw_only=True):
    """A directory that is shared from now on, or no longer."""

    path: str
    sandbox: str
    inside: str
    write: bool
