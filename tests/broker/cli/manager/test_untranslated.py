"""Each text of the manager's window is a message of its catalogue."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import broker.cli.manager
from docs.print_catalogues import FUNCTIONS

SOURCES = sorted(Path(broker.cli.manager.__file__).parent.rglob("*.py"))
WORDS = re.compile(r"[A-Za-z][,.:;]? +[A-Za-z]")
LETTER = re.compile("[A-Za-z]")
SHOWS = frozenset(
    {
        *("action_row", "ask", "ask_form", "button", "entry_row", "group", "label"),
        *("name_control", "page_of", "show_lines", "show_page", "tell", "add_response"),
        *("set_label", "set_title", "set_subtitle", "set_description"),
        *("set_tooltip_text", "set_placeholder_text", "new_from_strings"),
    }
)
"""Functions that show their arguments."""
SHOWN = frozenset(
    {
        *("about", "body", "empty", "heading", "label", "placeholder_text"),
        *("subtitle", "title", "tooltip_text"),
    }
)
"""Arguments that are shown."""
NO_TEXT = frozenset(
    {
        *("no", "yes", "close"),
        *("dim-label", "heading", "flat", "suggested-action", "destructive-action"),
    }
)
"""Names of responses and of style classes."""
ENGLISH = frozenset({"Vitrail", "Vitrail manager", "vitrail-manager [PAGE|SANDBOX]"})
"""The program's name, and the usage that its ``--help`` prints."""


def english(source: str) -> list[str]:
    """Return the literals that a user would see in English in each language."""
    found: list[str] = []
    _collect(ast.parse(source), shown=False, found=found)
    return found


def _collect(node: ast.AST, *, shown: bool, found: list[str]) -> None:
    if isinstance(node, ast.Raise):
        return  # errors are English
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.Constant):
        text = node.value
        if not isinstance(text, str) or text.removeprefix("usage: ") in ENGLISH:
            return
        if text.startswith("<interface>"):
            return  # a definition for Gtk.Builder
        seen = shown and LETTER.search(text) and text not in NO_TEXT
        if seen or WORDS.search(text):
            found.append(text)
        return
    if isinstance(node, ast.Call):
        _collect_call(node, found)
        return
    for child in ast.iter_child_nodes(node):
        _collect(child, shown=shown and isinstance(node, _PARTS), found=found)


_PARTS = (
    *(ast.JoinedStr, ast.FormattedValue, ast.BinOp, ast.IfExp, ast.BoolOp, ast.List),
    *(ast.Tuple, ast.Starred),
)
"""Expressions that show their parts."""


def _collect_call(node: ast.Call, found: list[str]) -> None:
    called = node.func
    name = getattr(called, "attr", getattr(called, "id", ""))
    _collect(called, shown=False, found=found)
    translated = FUNCTIONS.get(name, ()) if isinstance(called, ast.Name) else ()
    for place, argument in enumerate(node.args):
        if place in translated and isinstance(argument, ast.Constant):
            continue
        _collect(argument, shown=name in SHOWS, found=found)
    for keyword in node.keywords:
        shown = keyword.arg in SHOWN and name not in FUNCTIONS
        _collect(keyword.value, shown=shown, found=found)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_text_is_english_in_each_language(path):
    assert english(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('button(tr("Start"), then)', []),
        ('button("Start", then)', ["Start"]),
        ('button(tr("Start"), then, about="paper")', ["paper"]),
        ('group(f"Home of {name}", rows)', ["Home of "]),
        ('Gtk.Label(label="Start", css_classes=["dim-label"])', ["Start"]),
        ('words = ["The home is copied."]', ["The home is copied."]),
        ('row.set_subtitle("stopped" if name else tr("running"))', ["stopped"]),
        ('tr("{what} of {name}", what="the home", name=name)', ["the home"]),
        ('raise SetupError("no display was found")', []),
        ('def f():\n    """Return a text of two words."""', []),
        ('dialog.add_response("no", tr("Cancel"))', []),
        ('verbs.run("sandbox", "rename", name)', []),
    ],
)
def test_a_literal_is_found(source, found):
    assert english(source) == found
