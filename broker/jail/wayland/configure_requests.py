"""Requests that the compositor answers with a configure event.

It keeps each event until the program acknowledges it, or a later one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from broker.core.limits import wayland as limits
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.objects import ProtocolObject

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState


def answers(core: ClientState) -> bool:
    """Return whether the program acknowledges its configure events.

    wlroots keeps each until it, or a later one, is acknowledged.
    """
    return all(len(xdg.serials) < limits.WAYLAND_UNANSWERED for xdg in core.windows)


def configuring(step: Callable[..., None]) -> Callable[..., None]:
    """Wrap a handler so that it runs only while the client acknowledges its events."""

    @wraps(step)
    def handler(core: ClientState, obj: ProtocolObject, *args: Any) -> None:  # noqa: ANN401
        # guard: configure events are asked for by who acknowledges them
        if answers(core):
            step(core, obj, *args)

    return handler


def passing(interface: str, name: str) -> Callable[..., None]:
    """Return the handler that forwards a request of this interface."""
    write = emit.request(interface, name)

    def step(core: ClientState, obj: ProtocolObject, *values: int) -> None:
        if obj.sid:
            core.up.data += write(obj.sid, *values)

    return configuring(step)
