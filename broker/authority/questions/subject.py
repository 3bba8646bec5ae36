"""The subject of a question and of its remembered answer."""

from __future__ import annotations

from typing import NamedTuple


class Subject(NamedTuple):
    """The subject of a grant, which serves all requests with an equal subject."""

    lease: str
    service: str
    argument: str
    target: str
    """The target that the sandbox named."""
    mime: str | None
    scheme: str | None
    host: str | None
    protocol: str | None = None
    port: int | None = None
    key: str | None = None
    source: str = ""
    write: bool = False
    raw: bool = False
    way: str = ""
    about: str = ""
