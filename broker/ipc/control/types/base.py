"""Base types of all requests and answers, and the caller's identity."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

INTERFACE = "io.vitrail.Broker"

_Item = TypeVar("_Item")
Emit = Callable[[_Item], Awaitable[None]]
"""Sends an item before the answer.  Waits while the client is slow; when the client has
gone, the method is cancelled.  For a client that did not ask for more than one answer,
it does nothing."""


@dataclass(frozen=True)
class Caller:
    """The client: the process that connected, as the kernel reported then.

    For the log only; the process may have ended, and its number be another's.
    """

    pid: int
    uid: int


class ApiRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A client's request: an unknown field is refused, not ignored."""


class ApiAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A broker's answer, or a part of it."""


class Nothing(ApiRequest, frozen=True, kw_only=True):
    """No parameters; also the answer that has none."""


class Version(ApiAnswer, frozen=True, kw_only=True):
    """Which broker this is."""

    version: str
    role: str
    """``local``, ``host`` or ``viewer``."""
    pid: int
    display: str = ""
    """Socket of the compositor that the broker was started for; empty for any, and a host."""


class StopRequest(ApiRequest, frozen=True, kw_only=True):
    """End a sandbox, or all that this broker started."""

    sandbox: str | None = None
    """None: all."""
    grace: float | None = None
    """Seconds for the machine to switch itself off; None: the broker's default."""


class StopAnswer(ApiAnswer, frozen=True, kw_only=True):
    """Which sandboxes ended."""

    stopped: list[str]
