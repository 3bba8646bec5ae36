"""Kinds of values as tables: accepted and refused ones, at N and N + 1."""

from __future__ import annotations

import datetime as dt

import pytest

from policy import limits
from policy.records import field_types, quantities
from policy.records.field_types import REFUSED
from policy.records.patterns import NAME, PALETTE

_MEMORY = field_types.MemoryAmount(*limits.MEMORY_MIB)
_TITLE = field_types.Title(limits.LABEL_CHARS)
_COLOUR = field_types.Colour(PALETTE)
_PATH = field_types.SocketPath(20)
_TAGS = field_types.Words(NAME, "names", 0, 3, unique=True)
_COMMAND = field_types.Words(field_types.Argument(), "words", 1, 4, max_bytes=12)
_COUNT = field_types.Whole(3, 5)
_CHOICE = field_types.Choice({"none": "nothing", "user": "something"})


def _take(kind, value):
    found: list[tuple[object, ...]] = []

    def complain(path, message, expected, hint):
        found.append((path, message, expected, hint))

    return kind.take(value, ("key",), complain), found


@pytest.mark.parametrize(
    ("kind", "value", "clean"),
    [
        pytest.param(NAME, "a", "a", id="shortest name"),
        pytest.param(NAME, "a" * 31, "a" * 31, id="longest name"),
        pytest.param(NAME, "a-0-", "a-0-", id="name with digits"),
        pytest.param(_COUNT, 3, 3, id="smallest number"),
        pytest.param(_COUNT, 5, 5, id="largest number"),
        pytest.param(_MEMORY, 128, 128, id="least memory"),
        pytest.param(_MEMORY, "128M", 128, id="least memory as text"),
        pytest.param(_MEMORY, "1024G", 1 << 20, id="most memory as text"),
        pytest.param(_MEMORY, 1 << 20, 1 << 20, id="most memory"),
        pytest.param(_TITLE, "x" * 40, "x" * 40, id="longest label"),
        pytest.param(_TITLE, "Größe 数", "Größe 数", id="label in any script"),
        pytest.param(_COLOUR, "#ABCDEF", "#abcdef", id="colour in capitals"),
        pytest.param(_COLOUR, "sky", "#56b4e9", id="colour by name"),
        pytest.param(_PATH, "/" + "x" * 19, "/" + "x" * 19, id="longest path"),
        pytest.param(_TAGS, [], (), id="no tags"),
        pytest.param(_TAGS, ["a", "b", "c"], ("a", "b", "c"), id="most tags"),
        pytest.param(_COMMAND, ["abcde", "fghij"], ("abcde", "fghij"), id="12 bytes"),
        pytest.param(_COMMAND, ["", "\n"], ("", "\n"), id="odd arguments"),
        pytest.param(_CHOICE, "user", "user", id="choice"),
    ],
)
def test_taken(kind, value, clean):
    """The clean value, and nothing to complain about."""
    assert _take(kind, value) == (clean, [])


@pytest.mark.parametrize(
    ("kind", "value", "hint"),
    [
        pytest.param(NAME, "", "", id="empty name"),
        pytest.param(NAME, "a" * 32, "", id="name too long"),
        pytest.param(NAME, "0a", "", id="name begins with a digit"),
        pytest.param(NAME, "-a", "", id="name begins with a dash"),
        pytest.param(NAME, "a\n", "", id="name with a line end"),
        pytest.param(NAME, "ä", "", id="name not ASCII"),
        pytest.param(NAME, "Work", 'write "work"', id="name in capitals"),
        pytest.param(NAME, 1, "", id="number for a name"),
        pytest.param(_COUNT, 2, "", id="number too small"),
        pytest.param(_COUNT, 6, "", id="number too large"),
        pytest.param(_COUNT, True, "", id="true is no number"),
        pytest.param(_COUNT, 3.0, "", id="3.0 is no whole number"),
        pytest.param(_COUNT, "3", "", id="text is no number"),
        pytest.param(_MEMORY, 127, "", id="too little memory"),
        pytest.param(_MEMORY, "127M", "", id="too little memory as text"),
        pytest.param(_MEMORY, (1 << 20) + 1, "", id="too much memory"),
        pytest.param(_MEMORY, "1025G", "", id="too much memory as text"),
        pytest.param(_MEMORY, "2g", "", id="unit in small letters"),
        pytest.param(_MEMORY, "2 G", "", id="space before the unit"),
        pytest.param(_MEMORY, "٢G", "", id="digits of another script"),
        pytest.param(_MEMORY, True, "", id="true is no memory"),
        pytest.param(_TITLE, "", "", id="empty label"),
        pytest.param(_TITLE, "x" * 41, "", id="label too long"),
        pytest.param(_TITLE, " x", "", id="padded label"),
        pytest.param(_TITLE, "a\u202eb", "", id="label turned around"),
        pytest.param(_TITLE, "a\x1b[2J", "", id="label drives the terminal"),
        pytest.param(_TITLE, "\u3000x", "", id="label padded widely"),
        pytest.param(_COLOUR, "#abcde", "", id="short colour"),
        pytest.param(_COLOUR, "#abcdefa", "", id="long colour"),
        pytest.param(_COLOUR, "gren", "did you mean 'green'?", id="misspelt colour"),
        pytest.param(_COLOUR, 0xABCDEF, "", id="number for a colour"),
        pytest.param(_PATH, "/" + "x" * 20, "", id="path too long"),
        pytest.param(_PATH, "/" + "ä" * 10, "", id="path too long in bytes"),
        pytest.param(_PATH, "x", "", id="relative path"),
        pytest.param(_PATH, "/", "", id="root"),
        pytest.param(_PATH, "/a/", "", id="path of a directory"),
        pytest.param(_PATH, "/a/../b", "", id="path upwards"),
        pytest.param(_PATH, "/a//b", "", id="doubled slash"),
        pytest.param(_PATH, "/a\0b", "", id="NUL in a path"),
        pytest.param(_TAGS, ["a", "b", "c", "d"], "", id="too many tags"),
        pytest.param(_TAGS, ["a", "a"], "", id="a tag twice"),
        pytest.param(_TAGS, "a", 'write ["a"]', id="text for tags"),
        pytest.param(_COMMAND, [], "", id="no command"),
        pytest.param(_COMMAND, ["abcde", "fghijk"], "", id="13 bytes"),
        pytest.param(_COMMAND, ["a\0"], "", id="NUL in an argument"),
        pytest.param(_COMMAND, ["a"] * 5, "", id="too many arguments"),
        pytest.param(_CHOICE, "usr", "did you mean 'user'?", id="misspelt choice"),
        pytest.param(_CHOICE, {}, "", id="table for a choice"),
        pytest.param(_CHOICE, dt.date(2026, 1, 1), "", id="date for a choice"),
    ],
)
def test_refused(kind, value, hint):
    """One problem, which names the expected value or the doubled one."""
    clean, found = _take(kind, value)
    assert clean is REFUSED
    assert [complaint[3] for complaint in found] == [hint]


def test_each_wrong_item_is_named():
    """Problems inside an array carry the index."""
    _, found = _take(_TAGS, ["A", "b", 3])
    assert [complaint[0] for complaint in found] == [("key", 0), ("key", 2)]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "true"),
        (3, "3"),
        ("x" * 40, '"' + "x" * 40 + '"'),
        ("x" * 41, '"' + "x" * 40 + '…"'),
        ([1], "an array"),
        ({"a": 1}, "a table"),
        (dt.time(7), "a date or time"),
    ],
)
def test_values_are_shown_as_they_were_written(value, shown):
    """Long text is shortened, TOML's words are used."""
    assert field_types.show(value) == shown


@pytest.mark.parametrize(
    ("kind", "value", "clean"),
    [
        (quantities.Bytes(10, 1 << 40), 10, 10),
        (quantities.Bytes(10, 1 << 40), "10", 10),
        (quantities.Bytes(10, 1 << 40), "64K", 65536),
        (quantities.Bytes(10, 1 << 40), "1T", 1 << 40),
        (quantities.Seconds(1, 3600), "1s", 1),
        (quantities.Seconds(1, 3600), "1h", 3600),
        (quantities.YesNo(), True, True),
        (quantities.GlobalName(), "zwp_idle_inhibit_manager_v1", "zwp_idle_inhibit_manager_v1"),
    ],
)  # fmt: skip
def test_quantities_taken(kind, value, clean):
    """At the ends of the range, in each way of writing."""
    assert _take(kind, value) == (clean, [])


@pytest.mark.parametrize(
    ("kind", "value", "hint"),
    [
        (quantities.Bytes(10, 1 << 40), 9, ""),
        (quantities.Bytes(10, 1 << 40), (1 << 40) + 1, ""),
        (quantities.Bytes(10, 1 << 40), "2T", ""),
        (quantities.Bytes(10, 1 << 40), "64KiB", 'write "64K"'),
        (quantities.Bytes(10, 1 << 40), True, ""),
        (quantities.Bytes(10, 1 << 40), "01", ""),
        (quantities.Seconds(1, 3600), "0s", ""),
        (quantities.Seconds(1, 3600), "3601s", ""),
        (quantities.Seconds(1, 3600), 60, 'write "60s" for seconds'),
        (quantities.Seconds(1, 3600), "1 h", ""),
        (quantities.YesNo(), 1, ""),
        (quantities.YesNo(), "false", "write false, without quotation marks"),
        (quantities.GlobalName(deny=True), "wl_seat", 'to forbid all windows, set display = "none"'),
    ],
)  # fmt: skip
def test_quantities_refused(kind, value, hint):
    """One beyond the range, and what others would write."""
    clean, found = _take(kind, value)
    assert clean is REFUSED
    assert [complaint[3] for complaint in found] == [hint]
