"""``org.freedesktop.portal.Notification``, by the notification service of the guest's bus.

GLib uses it if ``GTK_USE_PORTAL`` is set, and no other one then.  That service is
``notifications`` or a program of the image.  An answer goes to the program as an action
of its GApplication, or as ``ActionInvoked``.
Sources: the documentation of XDG Desktop Portal; the Desktop Notifications
Specification 1.2; the Desktop Entry Specification, D-Bus Activation.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from shims.files.bus_calls import BUS_OBJECTS
from shims.files.bus_messages import MEMBER, REPLY, SENDER, BusMessage
from shims.files.bus_service import BUS, BusInterface
from shims.files.notifications import NOTIFICATIONS_NAME
from shims.files.protocol import tell

if TYPE_CHECKING:
    from typing import Any, ClassVar, Dict, List, Optional, Tuple

    from shims.files.bus_service import BusService, Values

SERVICE = (NOTIFICATIONS_NAME, BUS_OBJECTS[NOTIFICATIONS_NAME].path, NOTIFICATIONS_NAME)
SERVICE_SIGNALS = {"ActionInvoked": "us", "NotificationClosed": "uu"}
NOTIFICATION = "org.freedesktop.portal.Notification"
APPLICATION = "org.freedesktop.Application"
NOTIFICATIONS_AT_ONCE = 256
URGENCIES = {"low": 0, "urgent": 2}  # the others: 1, normal
NOTIFICATION_SIGNALS = f"type='signal',interface='{NOTIFICATIONS_NAME}'"


class PortalNote:
    """A notification of one program: the content to show, and the number it has."""

    def __init__(self, sender: str, name: str) -> None:
        self.sender, self.name = sender, name
        self.content: Optional[Tuple[Any, ...]] = None
        """The arguments of Notify without the number; None: it is withdrawn."""
        self.actions: Dict[str, Tuple[str, List[Tuple[str, Any]]]] = {}
        """Action and parameters by the key of a button."""
        self.owner, self.number = "", 0
        """The service's unique name, and its number of the notification."""
        self.awaited = False
        """Whether the number of the sent content is on its way."""


class PortalNotifications(BusInterface):
    """Notifications of programs of this bus, at the bus's own service."""

    interface = NOTIFICATION
    facts: ClassVar[Values] = {"version": ("u", 1)}

    def __init__(self, portal: BusService) -> None:
        self._portal = portal
        self._notes: Dict[Tuple[str, str], PortalNote] = {}

    def busy(self) -> int:  # type: ignore[explicit-override]
        """See ``BusInterface``: as long as something is shown, its answer may come."""
        return len(self._notes)

    def forget_program(self, sender: str) -> None:  # type: ignore[explicit-override]
        """Forget the notes of a program or service; what is shown stays."""
        for key, note in list(self._notes.items()):
            if sender in (note.sender, note.owner):
                del self._notes[key]

    def _add(self, call: BusMessage) -> Tuple[Any, ...]:
        """Show a notification, or change it."""
        untrusted_name, untrusted_values = call.typed_body()
        key = (call.text(SENDER), untrusted_name)
        # guard: a program of the guest fills no memory of the portal by notifications
        if key not in self._notes and len(self._notes) >= NOTIFICATIONS_AT_ONCE:
            del self._notes[next(iter(self._notes))]
        note = self._notes.setdefault(key, PortalNote(*key))

        def text(name: str, values: Values = untrusted_values) -> str:
            kind, value = values.get(name, ("s", ""))
            return value if kind == "s" else ""

        def parameters(name: str, values: Values) -> List[Tuple[str, Any]]:
            return [values[name]] if name in values else []

        target = parameters("default-action-target", untrusted_values)
        note.actions = {"default": (text("default-action"), target)}
        buttons_shown = ["default", ""]
        kind, buttons = untrusted_values.get("buttons", ("", []))
        for number, button in enumerate(buttons if kind == "aa{sv}" else []):
            target = parameters("target", button)
            note.actions[str(number)] = (text("action", button), target)
            buttons_shown += [str(number), text("label", button)]
        urgency = ("y", URGENCIES.get(text("priority"), 1))
        note.content = (
            text("title"),
            text("body"),
            buttons_shown,
            {"urgency": urgency},
            -1,
        )
        call.after.append(lambda: self._update(note))
        return ()

    def _remove(self, call: BusMessage) -> Tuple[Any, ...]:
        """Withdraw a notification."""
        note = self._notes.get((call.text(SENDER), call.body[0]))
        if note is not None:
            note.content = None
            call.after.append(lambda: self._update(note))
        return ()

    # -- the service ----------------------------------------------------------------

    def _update(self, note: PortalNote) -> None:
        """Send a note's content, unless the number of an earlier one is awaited."""
        if note.awaited:
            return
        if note.content is None:
            self._forget(note)
            if note.number:
                self._portal.call(SERVICE, "CloseNotification", "u", (note.number,))
            return
        note.awaited = True
        body = ("", note.number, "", *note.content)
        on_reply = functools.partial(self._set_number, note, note.content)
        self._portal.call(SERVICE, "Notify", "susssasa{sv}i", body, on_reply)

    def _set_number(
        self, note: PortalNote, content: Tuple[Any, ...], reply: BusMessage
    ) -> None:
        """Note the number of a shown note; send what has changed meanwhile."""
        note.awaited = False
        if reply.kind != REPLY or reply.signature != "u":
            tell(f"vitrail: the notification is not shown: {reply.body}")
            self._forget(note)
            return
        note.owner, (note.number,) = reply.text(SENDER), reply.body
        if note.content is not content:
            self._update(note)

    def _forget(self, note: PortalNote) -> None:
        if self._notes.get((note.sender, note.name)) is note:
            del self._notes[note.sender, note.name]

    def handle_signal(self, message: BusMessage) -> None:
        """Handle an answer of the user, or the end of a notification."""
        member = message.text(MEMBER)
        if SERVICE_SIGNALS.get(member) != message.signature:
            return
        number, value = message.body
        for note in list(self._notes.values()):
            # guard: an answer comes from the service that shows the notification
            if (note.owner, note.number) != (message.text(SENDER), number):
                continue
            if member == "NotificationClosed":
                self._forget(note)
            elif value in note.actions:
                self._invoke(note, *note.actions[value])

    # -- the program ----------------------------------------------------------------

    def _invoke(
        self, note: PortalNote, action: str, parameters: List[Tuple[str, Any]]
    ) -> None:
        """Send a note's program the action of a pressed button."""
        no_data: Values = {}
        if action and not action.startswith("app."):
            body = (note.name, action, parameters)
            self._portal.signal(
                NOTIFICATION, "ActionInvoked", *body, program=note.sender
            )
            return

        def activate(name: str, reply: BusMessage) -> None:
            if reply.body != (note.sender,):
                return
            path = "/" + name.replace(".", "/").replace("-", "_")
            target = (note.sender, path, APPLICATION)
            if action:
                body = (action[len("app.") :], parameters, no_data)
                self._portal.call(target, "ActivateAction", "sava{sv}", body)
            else:
                self._portal.call(target, "Activate", "a{sv}", (no_data,))

        def find_application(reply: BusMessage) -> None:
            """Ask who has each name: the path of a GApplication is made of its own."""
            for name in reply.body[0] if reply.signature == "as" else ():
                on_reply = functools.partial(activate, name)
                self._portal.call(BUS, "GetNameOwner", "s", (name,), on_reply)

        self._portal.call(BUS, "ListNames", on_reply=find_application)
