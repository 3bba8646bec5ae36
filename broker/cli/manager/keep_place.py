"""Keep the scrolled position and the focus when a page is built again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from broker.cli.manager.toolkit import Gtk


def keep_place(old: Any, new: Any, focus: Any) -> None:
    """Scroll a page as far as the one before, and focus the widget of the same name.

    ``new`` is in the window already; ``focus`` had the focus before.  Names are set by
    ``name_control``.
    """
    _scroll(old, new)
    name = _name_of(focus)
    if name:
        found = next((one for one in _below(new) if one.get_name() == name), None)
        if found is not None:
            found.grab_focus()


def _scroll(old: Any, new: Any) -> None:
    before, after = _scrolled(old), _scrolled(new)
    if before is None or after is None:
        return
    place = before.get_vadjustment().get_value()
    adjustment = after.get_vadjustment()

    def changed(_adjustment: Any) -> None:
        # It has no size before its first allocation.
        if adjustment.get_upper() > adjustment.get_page_size():
            adjustment.disconnect(signal)
            adjustment.set_value(place)

    signal = adjustment.connect("changed", changed)


def _name_of(focus: Any) -> str:
    """Return the name of the focused widget, or of the entry that it is a part of."""
    while focus is not None:
        name = str(focus.get_name())
        if name != type(focus).__gtype__.name:
            return name
        focus = focus.get_parent() if isinstance(focus, Gtk.Text) else None
    return ""


def _scrolled(page: Any) -> Any:
    return next(
        (one for one in _below(page) if isinstance(one, Gtk.ScrolledWindow)), None
    )


def _below(widget: Any) -> Iterator[Any]:
    """Yield a widget and all widgets in it."""
    if widget is None:
        return
    yield widget
    child = widget.get_first_child()
    while child is not None:
        yield from _below(child)
        child = child.get_next_sibling()
