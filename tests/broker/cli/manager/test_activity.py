"""Events as lines of the manager's list: escaped texts, filters, one line each."""

from __future__ import annotations

import json
import warnings

import pytest

from broker.core.errors import SetupError

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyGObject's importer is of an older kind
        import broker.cli.manager.toolkit  # noqa: F401
except SetupError as error:
    pytest.skip(str(error), allow_module_level=True)

from broker.cli.manager.pages.activity import (
    EventQuery,
    read_events,
    row_of,
    row_of_item,
)
from broker.core.paths import Paths
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.ipc.control.api import EventItem
from tests.kit.audit.log import fill

EVENT = {
    "type": "decision",
    "time": "2026-11-29T14:02:00.5Z",
    "sandbox": "work",
    "service": "vitrail.OpenURL",
    "verdict": "deny",
    "reason": "no rule matches",
    "object": "https://a.example/\n<b>x\u202e",
}


def item(**changed):
    return EventItem(sequence=7, event=json.dumps({**EVENT, **changed}))


def test_the_first_item_has_no_line():
    assert row_of_item(EventItem(sequence=0, event=None)) is None


def test_a_line_has_no_text_of_a_sandbox_as_it_came():
    row = row_of_item(item())
    assert row.sequence == 7
    assert "\n" not in row.text
    assert "\u202e" not in row.text
    assert "vitrail.OpenURL" in row.text


@pytest.mark.parametrize(
    ("sandbox", "kind", "shown"),
    [
        ("", "", True),
        ("wor", "decision", True),
        ("web", "decision", False),
        ("", "question", False),
    ],
)
def test_filters_are_and_ed(sandbox, kind, shown):
    assert EventQuery(sandbox, kind).matches(row_of_item(item())) is shown


async def test_pages_of_the_log_are_whole_and_do_not_overlap(tmp_path):
    paths = Paths(tmp_path / "run", tmp_path / "state", tmp_path / "cache", ())
    assert read_events(paths, EventQuery()) == []
    await fill(paths.audit, 1200)
    for query in (EventQuery(), EventQuery("web-3"), EventQuery("3", "decision")):
        rows = [*read_events(paths, query)]
        while page := read_events(paths, query, rows[-1]):
            rows += page
        with open_log(paths.audit) as log:
            wanted = [row_of(one) for one in log.find(Filters(), newest_first=True)]
        assert rows == [row for row in wanted if query.matches(row)]
        assert rows
