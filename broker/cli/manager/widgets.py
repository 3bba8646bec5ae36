"""Small parts that all pages use: rows of text from a sandbox, buttons and dialogs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from broker.cli.manager.toolkit import Adw, Gdk, GLib, Gtk
from broker.cli.manager.verb_calls import dialog_text
from broker.cli.manager.words import ManagerText, joined, shown, tr
from broker.core.escape import displayed, printable

_TEXT: Final = 300
"""Characters of one text of a sandbox, a device or a record."""
_LONG_TEXT: Final = 200_000
"""Characters of a log, the newest."""
Page = Any
"""A widget: PyGObject has no types."""


def plain(untrusted_text: str) -> str:
    """Return a text to show as it is: no control characters, and no markup of Pango.

    Much of it was escaped where it was read, so a backslash stays as it is.
    """
    return str(GLib.markup_escape_text(shown(_cut(untrusted_text))))


def _cut(untrusted_text: str) -> str:
    return type(untrusted_text)(untrusted_text[:_TEXT])


def _about(untrusted_text: str) -> str:
    if isinstance(untrusted_text, ManagerText):
        return untrusted_text
    return printable(untrusted_text, 60)


def line_text(untrusted_text: str) -> str:
    """Return a text for a label of one line, which is no markup."""
    text = _cut(untrusted_text)
    return shown(type(text)(text.replace("\n", " ")))


def name_control(found: Page, text: str) -> None:
    """Name a control for a screen reader, and for its successor when the page is built again."""
    found.update_property([Gtk.AccessibleProperty.LABEL], [shown(text)])
    found.set_name(shown(text))
    if isinstance(found, Gtk.DropDown):
        found.connect("notify::selected", lambda *_: _name_choice(found, text))
        _name_choice(found, text)


def _name_choice(choice: Page, text: str) -> None:
    """Name the button within a choice, which has the focus, with the chosen word."""
    chosen = choice.get_selected_item()
    words = [text] if chosen is None else [text, chosen.get_string()]
    choice.get_first_child().update_property(
        [Gtk.AccessibleProperty.LABEL], [str(joined(": ", words))]
    )


def drop_down(titles: Iterable[str], name: str) -> Page:
    """Return a choice of one of some titles, in the middle of its row's height."""
    found = Gtk.DropDown.new_from_strings([str(title) for title in titles])
    found.set_valign(Gtk.Align.CENTER)
    name_control(found, name)
    return found


def label(untrusted_text: str, *classes: str) -> Page:
    """Return a label of one text, which is cut at its end if there is no room."""
    found = Gtk.Label(
        label=line_text(untrusted_text),
        xalign=0,
        ellipsize=3,
        hexpand=True,
    )
    for name in classes:
        found.add_css_class(name)
    return found


def shown_name(untrusted_name: str) -> str:
    """Return a name as text of a label, which is no markup."""
    return displayed(untrusted_name[:60].replace("\n", " "))


def ink_of(widget: Page) -> Any:
    """Return the colour of a widget's text, which fits the light and the dark theme."""
    return widget.get_style_context().get_color()


def copy_text(text: str) -> None:
    """Place a text on the clipboard."""
    Gdk.Display.get_default().get_clipboard().set(text)


def square(colour: str) -> Page:
    """Return a square in a sandbox's colour."""
    area = Gtk.DrawingArea(content_width=18, content_height=18, valign=Gtk.Align.CENTER)
    area.set_accessible_role(Gtk.AccessibleRole.PRESENTATION)
    rgba = Gdk.RGBA()
    if not rgba.parse(colour):
        rgba.parse("#888888")

    def draw(place: Page, cairo: Any, width: int, height: int) -> None:
        cairo.set_source_rgb(rgba.red, rgba.green, rgba.blue)
        cairo.rectangle(0, 0, width, height)
        cairo.fill()
        # An edge, as grey is nearly the dark theme's ground.
        ink = ink_of(place)
        cairo.set_source_rgba(ink.red, ink.green, ink.blue, 0.5)
        cairo.set_line_width(1)
        cairo.rectangle(0.5, 0.5, width - 1, height - 1)
        cairo.stroke()

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
    name_control(found, joined(" ", (text, _about(about))) if about else text)
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


def entry_row(title: str, subtitle: str, name: str) -> tuple[Page, Page]:
    """Return an entry, named for a screen reader, and the row that has it."""
    entry = Gtk.Entry(valign=Gtk.Align.CENTER, width_chars=18)
    name_control(entry, name)
    return entry, action_row(title, subtitle, entry)


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
    parent: Page,
    title: str,
    text: str,
    yes: str,
    then: Callable[[], None],
    *,
    lossy: bool = False,
) -> None:
    """Ask in a dialog of the manager; ``then`` is called after ``yes`` alone.

    ``lossy``: something would be lost, so the button is red.
    """
    dialog = Adw.MessageDialog(
        transient_for=parent, modal=True, heading=shown(title), body=dialog_text(text)
    )
    dialog.add_response("no", tr("Cancel"))
    dialog.add_response("yes", yes)
    dialog.set_default_response("no")
    dialog.set_close_response("no")
    looks = Adw.ResponseAppearance
    dialog.set_response_appearance(
        "yes", looks.DESTRUCTIVE if lossy else looks.SUGGESTED
    )

    def answered(_dialog: Page, response: str) -> None:
        if response == "yes":
            then()

    dialog.connect("response", answered)
    dialog.present()


def tell(parent: Page, title: str, text: str) -> None:
    """Show a text in a dialog, until it is closed."""
    dialog = Adw.MessageDialog(
        transient_for=parent, modal=True, heading=shown(title), body=dialog_text(text)
    )
    dialog.add_response("close", tr("Close"))
    dialog.set_close_response("close")
    dialog.present()


def show_lines(parent: Page, title: str, untrusted_text: str) -> None:
    """Show a long text in a window of its own, its end first: a log grows there."""
    text = displayed(untrusted_text[-_LONG_TEXT:])
    view = Gtk.TextView(
        editable=False, monospace=True, wrap_mode=Gtk.WrapMode.WORD_CHAR
    )
    view.get_buffer().set_text(text or tr("There is no text."))
    view.update_property([Gtk.AccessibleProperty.LABEL], [shown(title)])
    show_page(parent, title, Gtk.ScrolledWindow(child=view))
    end = view.get_buffer().get_end_iter()
    GLib.idle_add(lambda: view.scroll_to_iter(end, 0, False, 0, 1) and False)  # noqa: FBT003 -- GTK's


def show_page(parent: Page, title: str, content: Page) -> Page:
    """Show a widget in a window of its own, until it is closed; return the window."""
    window = Adw.Window(
        transient_for=parent,
        modal=True,
        title=shown(title),
        default_width=720,
        default_height=480,
    )
    box = Gtk.Box(orientation=Gtk.Orientation.VERTICAL)
    box.append(Adw.HeaderBar(show_end_title_buttons=False))
    content.set_vexpand(True)
    box.append(content)
    close = button(tr("Done"), window.close)
    close.set_margin_top(6)
    close.set_margin_bottom(6)
    close.set_halign(Gtk.Align.CENTER)
    box.append(close)
    window.set_content(box)
    keys = Gtk.ShortcutController()
    close_key = Gtk.ShortcutTrigger.parse_string("Escape")
    keys.add_shortcut(Gtk.Shortcut.new(close_key, Gtk.NamedAction.new("window.close")))
    window.add_controller(keys)
    window.present()
    return window


def memory_words(size: int) -> str:
    """Return a size in MiB or GiB; empty for nothing."""
    mebibytes = size / (1 << 20)
    if not size:
        return ""
    return (
        f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"
    )
