"""Messages to services of the user's desktop, by the rows of the table of bus calls.

No input or output: the viewer sends them with trio, a session child without.
"""

from __future__ import annotations

import secrets

from jeepney import DBusAddress, MatchRule, Message, new_method_call
from jeepney.bus_messages import message_bus

from shims.files.bus_calls import BUS_OBJECTS, PORTAL_PATH

PROPERTIES = "org.freedesktop.DBus.Properties"
REQUEST = "org.freedesktop.portal.Request"
Options = dict[str, tuple[str, object]]
"""Values with their types."""


def desktop_call(
    interface: str, member: str, *values: object, owner: str = "", path: str = ""
) -> Message:
    """Return the message of a call at the user's desktop.

    ``owner``: the unique name of the service, if it is known.
    """
    known = BUS_OBJECTS[interface]
    address = DBusAddress(path or known.path, owner or known.name, interface)
    types = known.rows[member].takes
    return new_method_call(address, member, types or None, values)


def desktop_property(interface: str, name: str) -> Message:
    """Return the message that reads a property of a desktop's service."""
    service = BUS_OBJECTS[interface]
    address = DBusAddress(service.path, service.name, PROPERTIES)
    return new_method_call(address, "Get", "ss", (interface, name))


def rules_of(interface: str) -> tuple[MatchRule, MatchRule]:
    """Return the rules for an interface's signals, and for changes of its owner."""
    known = BUS_OBJECTS[interface]
    signals = MatchRule(type="signal", interface=interface, path=known.path)
    return signals, owner_changes(known.name)


def owner_changes(name: str) -> MatchRule:
    """Return the rule for the bus' own signal that a name has another owner."""
    rule = MatchRule(
        type="signal", interface=message_bus.interface, member="NameOwnerChanged"
    )
    rule.add_arg_condition(0, name)
    return rule


def portal_signal(owner: str, path: str, interface: str, member: str) -> MatchRule:
    """Return the rule for a signal of the portal, which has this unique name."""
    # guard: an answer is the portal's own
    return MatchRule(
        type="signal", sender=owner, path=path, interface=interface, member=member
    )


class PortalRequest:
    """A request to the desktop's portal: its messages, and the rules for its answer."""

    def __init__(self, bus_name: str, owner: str) -> None:
        """``bus_name``: our unique name; ``owner``: the portal's."""
        self._owner, self._token = owner, f"vitrail{secrets.token_hex(8)}"
        sender = bus_name.lstrip(":").replace(".", "_")
        handle = f"{PORTAL_PATH}/request/{sender}/{self._token}"
        self.response = portal_signal(owner, handle, REQUEST, "Response")
        self.ended = owner_changes(owner)
        self.close = desktop_call(REQUEST, "Close", owner=owner, path=handle)

    def call(
        self, interface: str, member: str, *first: object, options: Options
    ) -> Message:
        """Return the message that makes the request."""
        last = {**options, "handle_token": ("s", self._token)}
        return desktop_call(interface, member, *first, last, owner=self._owner)
