"""Small parts that all pages use: rows of text from a sandbox, buttons and dialogs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from broker.cli.manager.toolkit import Adw, Gdk, GLib, Gtk
from broker.core.escape import displayed, printable

_TEXT: Final = 300
"""Characters of one text of a sandbox, a device or a record."""
Page = Any
"""A widget: PyGObject has no types."""


def plain(untrusted_text: str) -> str:
    """Return a text to show as it is: no control characters, and no markup of Pango.

    Much of it was escaped where it was read, so a backslash stays as it is.
    """
    return str(GLib.markup_escape_text(displayed(untrusted_text[:_TEXT])))


def label(untrusted_text: str, *classes: str) -> Page:
    """Return a label of one text, which is cut at its end if there is no room."""
    found = Gtk.Label(
        label=displayed(untrusted_text[:_TEXT].replace("\n", " ")),
        xalign=0,
        ellipsize=3,
        hexpand=True,
    )
    for name in classes:
        found.add_css_class(name)
    return found


def square(colour: str) -> Page:
    """Return a square in a sandbox's colour."""
    area = Gtk.DrawingArea(content_width=18, content_height=18, valign=Gtk.Align.CENTER)
    area.set_accessible_role(Gtk.AccessibleRole.PRESENTATION)
    rgba = Gdk.RGBA()
    if not rgba.parse(colour):
        rgba.parse("#888888")

    def draw(_area: Page, cairo: Any, width: int, height: int) -> None:
        cairo.set_source_rgb(rgba.red, rgba.green, rgba.blue)
        cairo.rectangle(0, 0, width, height)
        cairo.fill()

    area.set_draw_func(draw)
    return area


def button(
    text: str, clicked: Callable[[], None], *classes: str, about: str = ""
) -> Page:
    """Return a button; ``about`` names its object for a screen reader."""
    found = Gtk.Button(label=text, valign=Gtk.Align.CENTER)
    for name in classes:
        found.add_css_class(name)
    found.connect("clicked", lambda _button: clicked())
    if about:
        named = f"{text} {printable(about, 60)}"
        found.update_property([Gtk.AccessibleProperty.LABEL], [named])
    return found


def action_row(untrusted_title: str, untrusted_subtitle: str, *suffixes: Page) -> Page:
    """Return a row with two lines of text and widgets at its end."""
    row = Adw.ActionRow(
        title=plain(untrusted_title), subtitle=plain(untrusted_subtitle)
    )
    row.set_title_lines(2)
    row.set_subtitle_lines(4)
    for widget in suffixes:
        row.add_suffix(widget)
    return row


def group(title: str, rows: Sequence[Page], empty: str = "") -> Page:
    """Return a titled group of rows; ``empty`` is said in place of none."""
    found = Adw.PreferencesGroup(title=plain(title))
    for row in rows or ([action_row(empty, "")] if empty else []):
        found.add(row)
    return found


def page_of(groups: Sequence[Page]) -> Page:
    """Return a page that scrolls, of groups."""
    found = Adw.PreferencesPage()
    for one in groups:
        found.add(one)
    return found


def ask(
    parent: Page, title: str, text: str, yes: str, then: Callable[[], None]
) -> None:
    """Ask in a dialog of the manager; ``then`` is called after ``yes`` alone."""
    dialog = Adw.MessageDialog(
        transient_for=parent, modal=True, heading=title, body=text[:4000]
    )
    dialog.add_response("no", "Cancel")
    dialog.add_response("yes", yes)
    dialog.set_default_response("no")
    dialog.set_close_response("no")
    dialog.set_response_appearance("yes", Adw.ResponseAppearance.SUGGESTED)

    def answered(_dialog: Page, response: str) -> None:
        if response == "yes":
            then()

    dialog.connect("response", answered)
    dialog.present()


def tell(parent: Page, title: str, text: str) -> None:
    """Show a text in a dialog, until it is closed."""
    dialog = Adw.MessageDialog(
        transient_for=parent, modal=True, heading=title, body=text[:4000]
    )
    dialog.add_response("close", "Close")
    dialog.set_close_response("close")
    dialog.present()


def memory_words(size: int) -> str:
    """Return a size in MiB or GiB; empty for nothing."""
    mebibytes = size / (1 << 20)
    if not size:
        return ""
    return (
        f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"
    )
