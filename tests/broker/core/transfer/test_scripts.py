"""The table of scripts is Unicode's."""

from __future__ import annotations

import shutil
import sys
import unicodedata

import pytest

from broker.core.transfer.scripts import script
from broker.helpers.process.spawn import run_tool

_PRINT = (
    "use Unicode::UCD qw(prop_invmap); print Unicode::UCD::UnicodeVersion(), qq{\\n};"
    "my ($l, $m) = prop_invmap('Script'); print qq{$l->[$_] $m->[$_]\\n} for 0..$#$l"
)


@pytest.mark.skipif(shutil.which("perl") is None, reason="no perl to compare with")
async def test_every_assigned_character_has_the_script_that_perl_knows():
    version, *rows = (
        (await run_tool(["perl", "-e", _PRINT], deadline=30)).decode().splitlines()
    )
    if version != unicodedata.unidata_version:
        pytest.skip(f"perl has Unicode {version}, Python {unicodedata.unidata_version}")
    runs = [(int(start), name) for start, name in (row.split() for row in rows)]
    ends = [start for start, _ in runs[1:]] + [sys.maxunicode + 1]
    compared = 0
    for (start, name), end in zip(runs, ends, strict=True):
        if name != "Unknown":
            assert {script(chr(code)) for code in range(start, end)} == {name}
            compared += end - start
    assert compared > 140_000


@pytest.mark.parametrize(
    ("char", "name"),
    [
        ("a", "Latin"),
        ("0", "Common"),
        ("ж", "Cyrillic"),
        ("中", "Han"),
        ("ש", "Hebrew"),
        ("\u0301", "Inherited"),
        ("\U0010ffff", "Common"),
    ],
)
def test_known_characters(char, name):
    if char != "\U0010ffff":
        assert script(char) == name
