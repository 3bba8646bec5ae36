"""The dialog as objects of the accessibility bus (AT-SPI 2): read, never pressed.

Sans-IO: what the agent shows goes in, signals come out; calls of a screen reader go
in, values come out.  The interfaces are those of at-spi2-core's XML files.

A button tells its key as an action, and ``DoAction`` is false: any program of the
session can call it, and an answer must come from the user's own keyboard or
pointer, after the guard's second.

``vitrail-access`` runs it, not the prompt agent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from broker.helpers.prompt.translation import language, tr
from broker.ipc.prompt import Described

ROOT = "/org/a11y/atspi/accessible/root"
_NULL = "/org/a11y/atspi/null"
_PREFIX = "org.a11y.atspi"
ACCESSIBLE, APPLICATION = f"{_PREFIX}.Accessible", f"{_PREFIX}.Application"
ACTION = f"{_PREFIX}.Action"
PROPERTIES = "org.freedesktop.DBus.Properties"
_VERSION = "2.1"
_LIST, _LIST_ITEM, _RADIO, _BUTTON, _LABEL = 31, 32, 44, 43, 29
_DIALOG, _PROGRAM, _STATIC = 16, 75, 116
_ROLES = {
    _LIST: "list",
    _LIST_ITEM: "list item",
    _RADIO: "radio button",
    _BUTTON: "push button",
    _LABEL: "label",
    _DIALOG: "dialog",
    _PROGRAM: "application",
    _STATIC: "static",
}
"""Numbers and names of AtspiRole."""
_ACTIVE, _CHECKED, _ENABLED, _FOCUSABLE, _FOCUSED, _MODAL = 1, 4, 8, 11, 12, 16
_SELECTED, _SENSITIVE, _SHOWING, _VISIBLE, _READ_ONLY = 23, 24, 25, 30, 43
_SEEN = frozenset({_ENABLED, _SENSITIVE, _SHOWING, _VISIBLE, _READ_ONLY})
"""Numbers of AtspiStateType."""


class AccessibilityEvent(NamedTuple):
    """An event of ``path``: ``interface`` is that after ``org.a11y.atspi.Event.``."""

    path: str
    interface: str
    member: str
    detail: str
    first: int
    second: int
    value: tuple[str, Any]


class UnknownError(Exception):
    """A call that no object here has."""


@dataclass(eq=False)
class _Object:
    path: str
    role: int
    name: str
    states: frozenset[int] = _SEEN
    key: str = ""
    """The key that does what a button does."""
    parent: _Object | None = None
    children: list[_Object] = field(default_factory=list)

    def add(self, child: _Object) -> _Object:
        child.parent = self
        self.children.append(child)
        return child


class Accessible:
    """The objects of one connection to the accessibility bus."""

    def __init__(self, unique_name: str) -> None:
        self._bus = unique_name
        self._desktop = ("", _NULL)
        """The parent of the program, which the registry names."""
        self._number = 0
        self._root = _Object(ROOT, _PROGRAM, "Vitrail")
        self._objects = {ROOT: self._root}
        self._words = Described()
        self._hint: _Object | None = None

    def embedded(self, desktop: tuple[str, str]) -> None:
        """The registry has taken the program in."""
        self._desktop = desktop

    # -- the shown dialog ------------------------------------------------------------

    def update(self, words: Described) -> list[AccessibilityEvent]:
        """Take the dialog's new texts; return the AT-SPI signals about the change."""
        before, self._words = self._words, words
        same = (before.title, before.lines) == (words.title, words.lines)
        if words.title and same and _rows(before) == _rows(words):
            return self._changed(before, words)
        signals = self._gone() if before.title else []
        return signals + (self._appeared(words) if words.title else [])

    def _new(self, role: int, name: str, states: Iterable[int] = _SEEN) -> _Object:
        self._number += 1
        made = _Object(f"/org/a11y/atspi/accessible/{self._number}", role, name)
        made.states = frozenset(states)
        self._objects[made.path] = made
        return made

    def _appeared(self, words: Described) -> list[AccessibilityEvent]:
        """Add the dialog's objects; return the signals that announce them."""
        dialog = self._root.add(
            self._new(_DIALOG, words.title, _SEEN | {_ACTIVE, _MODAL})
        )
        for line in words.lines:
            dialog.add(self._new(_LABEL, line))
        if words.targets:
            rows = dialog.add(self._new(_LIST, tr("Target of the request")))
            for row in words.targets:
                states = _SEEN | ({_SELECTED} if row.chosen else set())
                rows.add(self._new(_LIST_ITEM, row.words, states))
        for row in words.keeps:
            states = _SEEN | ({_CHECKED} if row.chosen else set())
            dialog.add(self._new(_RADIO, row.words, states))
        states = _SEEN | {_FOCUSABLE, _FOCUSED}
        # Not a label: Orca reads no new name of one.
        self._hint = dialog.add(self._new(_STATIC, words.hint, states))
        for name, key in ((tr("Deny"), "Escape"), (tr("Allow"), words.yes_word)):
            button = dialog.add(self._new(_BUTTON, name, _buttons(words)))
            button.key = key
        hint = self._hint
        return [
            self._children("add", dialog),
            AccessibilityEvent(
                dialog.path, "Window", "Activate", "", 0, 0, ("s", words.title)
            ),
            _state(dialog, "active", on=True),
            AccessibilityEvent(hint.path, "Focus", "Focus", "", 0, 0, ("i", 0)),
            _state(hint, "focused", on=True),
        ]

    def _gone(self) -> list[AccessibilityEvent]:
        """Remove the dialog's objects; return the signals about that."""
        dialog = self._root.children[0]
        gone = [self._children("remove", dialog)]
        self._root.children.clear()
        self._objects = {ROOT: self._root}
        self._hint = None
        return [
            _state(dialog, "active", on=False),
            AccessibilityEvent(
                dialog.path, "Window", "Deactivate", "", 0, 0, ("s", dialog.name)
            ),
            *gone,
        ]

    def _children(self, what: str, child: _Object) -> AccessibilityEvent:
        value = ("(so)", (self._bus, child.path))
        return AccessibilityEvent(ROOT, "Object", "ChildrenChanged", what, 0, 0, value)

    def _changed(self, before: Described, words: Described) -> list[AccessibilityEvent]:
        """Update the dialog's choice and hint; return the signals about that."""
        signals = []
        rows = [o for o in self._objects.values() if o.role in {_LIST_ITEM, _RADIO}]
        chosen = [row.chosen for row in (*words.targets, *words.keeps)]
        for row, now in zip(rows, chosen, strict=True):
            state, name = (
                (_SELECTED, "selected")
                if row.role == _LIST_ITEM
                else (_CHECKED, "checked")
            )
            if (state in row.states) != now:
                row.states = row.states | {state} if now else row.states - {state}
                signals.append(_state(row, name, on=now))
        if self._hint is not None and self._hint.name != words.hint:
            self._hint.name = words.hint
            # Screen readers read a new name of the focused item.  An announcement
            # besides would be read a second time (Orca 45 and later).
            value = ("s", words.hint)
            named = "PropertyChange", "accessible-name", 0, 0, value
            signals.append(AccessibilityEvent(self._hint.path, "Object", *named))
        if before.armed != words.armed:
            for button in (o for o in self._objects.values() if o.role == _BUTTON):
                button.states = _buttons(words)
                signals.append(_state(button, "sensitive", on=words.armed))
        return signals

    # -- what a screen reader asks ---------------------------------------------------

    def call(
        self, path: str, interface: str, member: str, body: tuple[Any, ...]
    ) -> tuple[str, tuple[Any, ...]]:
        """Return signature and values of a reply.  Raises UnknownError."""
        here = self._objects.get(path)
        if here is None:
            raise UnknownError(path)
        if interface == PROPERTIES:
            return self._property(here, member, body)
        if interface == "org.freedesktop.DBus.Peer" and member == "Ping":
            return "", ()
        if interface not in _interfaces(here):
            raise UnknownError(interface)
        answer = self._answers(here, body).get(f"{interface}.{member}")
        if answer is None:
            raise UnknownError(member)
        signature, value = answer()
        return signature, (value,)

    def _answers(
        self, here: _Object, body: tuple[Any, ...]
    ) -> dict[str, Callable[[], tuple[str, Any]]]:
        """Return the answers to calls on an object, by method name."""
        siblings = here.parent.children if here.parent is not None else [here]
        name, how = here.name, tr("type {key}", key=here.key)
        own = {
            "GetChildAtIndex": lambda: ("(so)", self._child(here, body)),
            "GetChildren": lambda: ("a(so)", [self._at(o) for o in here.children]),
            "GetIndexInParent": lambda: ("i", siblings.index(here)),
            "GetRelationSet": lambda: ("a(ua(so))", []),
            "GetRole": lambda: ("u", here.role),
            "GetRoleName": lambda: ("s", _ROLES[here.role]),
            "GetLocalizedRoleName": lambda: ("s", _ROLES[here.role]),
            "GetState": lambda: ("au", _bits(here.states)),
            "GetAttributes": lambda: ("a{ss}", {"toolkit": "Vitrail"}),
            "GetApplication": lambda: ("(so)", self._at(self._root)),
            "GetInterfaces": lambda: ("as", _interfaces(here)),
        }
        calls = {f"{ACCESSIBLE}.{name}": answer for name, answer in own.items()}
        calls[f"{APPLICATION}.GetLocale"] = lambda: ("s", language())
        # guard: no answer over the accessibility bus
        calls[f"{ACTION}.DoAction"] = lambda: ("b", False)
        calls[f"{ACTION}.GetActions"] = lambda: ("a(sss)", [(name, how, here.key)])
        calls[f"{ACTION}.GetName"] = lambda: ("s", name)
        calls[f"{ACTION}.GetLocalizedName"] = lambda: ("s", name)
        calls[f"{ACTION}.GetDescription"] = lambda: ("s", how)
        calls[f"{ACTION}.GetKeyBinding"] = lambda: ("s", here.key)
        return calls

    def _child(self, here: _Object, body: tuple[Any, ...]) -> tuple[str, str]:
        number = body[0] if body else -1
        known = isinstance(number, int) and 0 <= number < len(here.children)
        return self._at(here.children[number]) if known else ("", _NULL)

    def _at(self, here: _Object) -> tuple[str, str]:
        return self._bus, here.path

    def _property(
        self, here: _Object, member: str, body: tuple[Any, ...]
    ) -> tuple[str, tuple[Any, ...]]:
        """Answer a call about an object's properties."""
        values = self._values(here)
        if member == "Set":  # the registry numbers programs
            return "", ()
        wanted = values.get(str(body[0]) if body else "", {})
        if member == "GetAll":
            return "a{sv}", (wanted,)
        name = str(body[1]) if len(body) > 1 else ""
        if member == "Get" and name in wanted:
            return "v", (wanted[name],)
        raise UnknownError(member)

    def _values(self, here: _Object) -> dict[str, dict[str, tuple[str, Any]]]:
        """Return an object's properties by interface."""
        parent = self._desktop if here.parent is None else self._at(here.parent)
        own: dict[str, tuple[str, Any]] = {
            "Name": ("s", here.name),
            "Description": ("s", ""),
            "Parent": ("(so)", parent),
            "ChildCount": ("i", len(here.children)),
            "Locale": ("s", "en"),
            "AccessibleId": ("s", ""),
        }
        values = {ACCESSIBLE: own}
        if here is self._root:
            values[APPLICATION] = {
                "ToolkitName": ("s", "Vitrail"),
                "Version": ("s", _VERSION),
                "AtspiVersion": ("s", _VERSION),
                "Id": ("i", 0),
            }
        if here.key:
            values[ACTION] = {"NActions": ("i", 1)}
        return values


def _interfaces(here: _Object) -> list[str]:
    more = [APPLICATION] if here.role == _PROGRAM else []
    return [ACCESSIBLE, *more, *([ACTION] if here.key else [])]


def _rows(words: Described) -> list[str]:
    return [row.words for row in (*words.targets, *words.keeps)]


def _buttons(words: Described) -> frozenset[int]:
    """States of the buttons: they count only once the guard is armed."""
    return _SEEN if words.armed else _SEEN - {_ENABLED, _SENSITIVE}


def _bits(states: Iterable[int]) -> list[int]:
    number = sum(1 << state for state in states)
    return [number & 0xFFFFFFFF, number >> 32]


def _state(here: _Object, name: str, *, on: bool) -> AccessibilityEvent:
    return AccessibilityEvent(
        here.path, "Object", "StateChanged", name, int(on), 0, ("i", 0)
    )
