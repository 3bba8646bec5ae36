"""Calls of a desktop's own programs on its session bus."""

from __future__ import annotations

from typing import Any

from jeepney import DBusAddress, MessageType, new_method_call
from jeepney.io.blocking import open_dbus_connection


class UnansweredError(Exception):
    """The desktop does not serve that, or not yet."""


def call_desktop(
    address: str, where: DBusAddress, member: str, types: str = "", *args: Any
) -> Any:
    """Call a program on the bus of this address; return the answer's values."""
    message = new_method_call(where, member, types or None, args)
    with open_dbus_connection(address) as bus:
        reply = bus.send_and_get_reply(message, timeout=60)
    if reply.header.message_type is not MessageType.method_return:
        raise UnansweredError(str(reply.body))
    return reply.body
