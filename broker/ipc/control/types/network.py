"""Flows of sandboxes to hosts outside."""

from __future__ import annotations

from broker.ipc.control.types.base import ApiAnswer, ApiRequest


class NetworkRequest(ApiRequest, frozen=True, kw_only=True):
    """Whose flows; null means those of all sandboxes."""

    sandbox: str | None = None


class FlowStatus(ApiAnswer, frozen=True, kw_only=True):
    """An open flow; all but ``rule`` is as the sandbox's frame filter reports it."""

    sandbox: str
    host: str
    """The name that led to its address, or the address."""
    address: str
    protocol: str
    """``tcp``, ``udp`` or ``icmp``."""
    port: int
    """0: it has none."""
    rule: str
    """Which one allows it: ``file:line``."""
    since: float
    """Seconds since 1970."""
    bytes_from_sandbox: int
    bytes_to_sandbox: int
    rate_from_sandbox: float
    """Bytes a second."""
    rate_to_sandbox: float


class NetworkAnswer(ApiAnswer, frozen=True, kw_only=True):
    """Open flows, by sandbox, oldest first; ``omitted`` ones did not fit into it."""

    flows: list[FlowStatus]
    omitted: int = 0


class ForwardRequest(ApiRequest, frozen=True, kw_only=True):
    """Forward a port of the user's loopback to a sandbox's port.

    With more only; it ends when the caller hangs up.
    """

    sandbox: str
    port: int
    local: int
    """0: the broker chooses it."""
    localhost: bool | None = None
    """Whether to listen on 127.0.0.1 instead of the sandbox's own loopback address."""


class ForwardItem(ApiAnswer, frozen=True, kw_only=True):
    """The forward has begun, with ``address`` and ``local``; or a connection failed."""

    sandbox: str = ""
    address: str = ""
    """The IPv4 loopback address on which the port is."""
    local: int | None = None
    failed: str = ""
