"""StatusNotifierItem and its menu (com.canonical.dbusmenu) as replies and signals.

No input or output: calls of a panel in, values out.  A row keeps its number as long as
its click means the same, so a click on a menu that has changed meanwhile does what it
said, or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from broker.cli.tray.menu_rows import Click, MenuRow, TrayState, rows, summary
from broker.cli.tray.picture import pixmaps, square
from broker.net.session_bus import PROPERTIES, Reply, UnknownCallError
from broker.viewer.tray.panel_bus import (
    ITEM,
    ITEM_PATH,
    NOTHING_MORE,
    PanelSignal,
    Variant,
)

MENU_PATH = "/MenuBar"
MENU = "com.canonical.dbusmenu"
_DEPTH = 2
_MAX_IDS = 4096
"""Ids of one call, as an integer's own bound on a reply."""


@dataclass(frozen=True)
class _Placed:
    number: int
    row: MenuRow
    children: tuple[_Placed, ...]


class TrayItem:
    """The item's state.  ``update`` and ``call`` never wait."""

    def __init__(self) -> None:
        self._now = TrayState()
        self._numbers: dict[object, int] = {}
        self._root = _Placed(0, MenuRow(), ())
        self._by_number: dict[int, _Placed] = {}
        self._revision = 0
        self._last = 0
        self._place()

    # -- changes ----------------------------------------------------------------------

    def update(self, now: TrayState) -> list[PanelSignal]:
        """Set another state; return the signals for the panel."""
        if now == self._now:
            return []
        before = (self._pictures(), self._status(), summary(self._now), self._root)
        self._now = now
        self._place()
        after = (self._pictures(), self._status(), summary(now), self._root)
        told = []
        if before[0] != after[0]:
            told.append(PanelSignal(ITEM_PATH, ITEM, "NewIcon"))
            # GNOME's extension keeps the picture that it shows while attention is asked.
            told.append(PanelSignal(ITEM_PATH, ITEM, "NewAttentionIcon"))
        if before[1] != after[1]:
            told.append(PanelSignal(ITEM_PATH, ITEM, "NewStatus", "s", (after[1],)))
        if before[2] != after[2]:
            told.append(PanelSignal(ITEM_PATH, ITEM, "NewToolTip"))
        if before[3] != after[3]:
            self._revision += 1
            words = (self._revision, 0)
            told.append(PanelSignal(MENU_PATH, MENU, "LayoutUpdated", "ui", words))
        return told

    def _place(self) -> None:
        self._by_number = {}
        self._root = self._placed(0, MenuRow(children=rows(self._now)), ())
        kept = set(self._by_number)
        self._numbers = {k: n for k, n in self._numbers.items() if n in kept}

    def _placed(self, number: int, row: MenuRow, above: tuple[object, ...]) -> _Placed:
        """Give a row of the menu and those below it their numbers."""
        children = []
        for place, child in enumerate(row.children):
            own = child.click or (
                child.label.partition(":")[0] if child.label else place
            )
            key = (*above, own)
            # guard: a number is never that of another row
            given = self._numbers.get(key)
            if given is None:
                self._last += 1
                given = self._numbers[key] = self._last
            children.append(self._placed(given, child, key))
        made = _Placed(number, row, tuple(children))
        self._by_number[number] = made
        return made

    # -- calls --------------------------------------------------------------------------

    def call(
        self, path: str, interface: str, member: str, body: tuple[Any, ...]
    ) -> tuple[Reply, Click | None]:
        """Answer a call of a panel: the reply, and the clicked entry.

        Raises UnknownCallError, also for values of another type.
        """
        try:
            if interface == PROPERTIES:
                return self._property(path, member, body), None
            if path == MENU_PATH and interface == MENU:
                return self._menu(member, body)
            if path == ITEM_PATH and interface == ITEM and member in _ITEM_CALLS:
                return ("", ()), None  # ItemIsMenu: the panel opens the menu itself
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise UnknownCallError(
                f"{member}: arguments have the wrong type"
            ) from error
        raise UnknownCallError(f"{interface} at {path} has no method {member}")

    def _property(self, path: str, member: str, body: tuple[Any, ...]) -> Reply:
        """Answer a call about properties of the item or its menu."""
        table = self._item() if path == ITEM_PATH else _MENU_PROPERTIES
        if path not in {ITEM_PATH, MENU_PATH} or body[0] not in {ITEM, MENU, ""}:
            raise UnknownCallError("no such object or interface")
        if member == "GetAll":
            return "a{sv}", (table,)
        if member == "Get" and body[1] in table:
            return "v", (table[body[1]],)
        raise UnknownCallError("no such property")

    def _menu(self, member: str, body: tuple[Any, ...]) -> tuple[Reply, Click | None]:
        """Answer a call of the menu; return the reply, and a click if it was one."""
        if member == "GetLayout":
            parent, depth, _names = body
            placed = self._by_number[parent]
            levels = _DEPTH if not 0 <= depth < _DEPTH else depth
            return ("u(ia{sv}av)", (self._revision, _layout(placed, levels))), None
        if member == "GetGroupProperties":
            numbers, _names = body
            known = self._known(numbers)
            return ("a(ia{sv})", ([(n, _shown(p)) for n, p in known],)), None
        if member == "GetProperty":
            number, name = body
            return ("v", (_shown(self._by_number[number])[name],)), None
        if member == "Event":
            number, event, _data, _when = body
            return ("", ()), self._clicked(number, event)
        if member == "EventGroup":
            events = body[0][:_MAX_IDS]
            clicked = [self._clicked(number, event) for number, event, *_ in events]
            wrong = [n for n, *_ in events if n not in self._by_number]
            return ("ai", (wrong,)), next(
                (one for one in clicked if one is not None), None
            )
        if member == "AboutToShow":
            return ("b", (False,)), None
        if member == "AboutToShowGroup":
            return ("aiai", ([], [])), None
        raise UnknownCallError(f"the menu has no method {member}")

    def _known(self, numbers: list[int]) -> Iterator[tuple[int, _Placed]]:
        for number in numbers[:_MAX_IDS] or list(self._by_number):
            if (placed := self._by_number.get(number)) is not None:
                yield number, placed

    def _clicked(self, number: int, event: str) -> Click | None:
        placed = self._by_number.get(number)
        # guard: a row that has gone does nothing
        return placed.row.click if placed is not None and event == "clicked" else None

    # -- values -------------------------------------------------------------------------

    def _pictures(self) -> list[tuple[int, int, bytes]]:
        return pixmaps(self._now)

    def _status(self) -> str:
        if (
            self._now.questions
            or self._now.listening
            or self._now.seeing
            or self._now.lockdown.locked
        ):
            return "NeedsAttention"
        return "Active" if self._now.sandboxes else "Passive"

    def _item(self) -> dict[str, Variant]:
        """Return the item's properties for the panel."""
        pictures = self._pictures()
        return {
            **NOTHING_MORE,
            "Category": ("s", "SystemServices"),
            "Id": ("s", "vitrail"),
            "Title": ("s", "Vitrail"),
            "Status": ("s", self._status()),
            "IconPixmap": ("a(iiay)", pictures),
            "AttentionIconPixmap": ("a(iiay)", pictures),
            "ToolTip": ("(sa(iiay)ss)", ("", [], "Vitrail", summary(self._now))),
            "ItemIsMenu": ("b", True),
            "Menu": ("o", MENU_PATH),
        }


_ITEM_CALLS = frozenset({"Activate", "SecondaryActivate", "ContextMenu", "Scroll"})
_MENU_PROPERTIES: dict[str, Variant] = {
    "Version": ("u", 3),
    "TextDirection": ("s", "ltr"),
    "Status": ("s", "normal"),
    "IconThemePath": ("as", []),
}


def _layout(
    placed: _Placed, levels: int
) -> tuple[int, dict[str, Variant], list[Variant]]:
    below: Iterable[_Placed] = placed.children if levels else ()
    children = [("(ia{sv}av)", _layout(child, levels - 1)) for child in below]
    return placed.number, _shown(placed), children


def _shown(placed: _Placed) -> dict[str, Variant]:
    """Return a menu row's properties for the panel."""
    row = placed.row
    if placed.number == 0:
        return {"children-display": ("s", "submenu")}
    if not row.label:
        return {"type": ("s", "separator")}
    # An underscore marks the key of a row.
    found: dict[str, Variant] = {"label": ("s", row.label.replace("_", "__"))}
    if row.children:
        found["children-display"] = ("s", "submenu")
    elif row.click is None:
        found["enabled"] = ("b", False)
    if row.colour:
        found["icon-data"] = ("ay", square(row.colour))
    return found
