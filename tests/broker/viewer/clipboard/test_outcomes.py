"""What the person reads about a copy or a paste."""

from __future__ import annotations

import pytest

from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.outcomes import Telling, in_words
from tests.kit.rulebook import WORK

O = w.Outcome  # noqa: E741 -- short in a table
TEXT, PNG = "text/plain", "image/png"


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (12_345, "12 kB"),
        (999_999, "999 kB"),
        (1_000_000, "1 MB"),
        (64_000_000, "64 MB"),
    ],
)
def test_a_size_as_people_say_it(size, words):
    assert in_words(size) == words


def said(record: w.RecordCrossing) -> tuple[str, str]:
    telling = Telling(None, lambda name: WORK, print, lambda: "Super+Shift+V")
    return telling.words(record)


@pytest.mark.parametrize(
    ("record", "title", "text"),
    [
        (
            w.RecordCrossing(O.COPIED, "work", kinds=(TEXT,), size=12_000),
            "Copied 12 kB of text from work",
            "press Super+Shift+V in a sandbox to paste it once",
        ),
        (
            w.RecordCrossing(O.PASTED, "work", "personal", (TEXT,), 12_000, rule="r:1"),
            "12 kB of text: work → personal",
            "by r:1; paste it there as usual, the clipboard is cleared",
        ),
        (
            w.RecordCrossing(
                O.PASTED, "work", "personal", (TEXT, PNG), 3_000_000, rule="r:1"
            ),
            "text and a picture (3 MB): work → personal",
            "by r:1; paste it there as usual, the clipboard is cleared",
        ),
        (
            w.RecordCrossing(O.PASTED, w.VIEWER, "work", ("text/html",), 5, rule="r:2"),
            "text/html (5 bytes): your own programs → work",
            "by r:2; paste it there as usual",
        ),
        (
            w.RecordCrossing(
                O.PASTED, "a", "b", (TEXT,), 5, rule="r:2", selection="drag"
            ),
            "5 bytes of text: a → b",
            "dropped, by r:2",
        ),
        (
            w.RecordCrossing(O.EXPIRED, "a", "b", selection="drag"),
            "Not dropped: a → b",
            "the window did not accept it",
        ),
        (
            w.RecordCrossing(
                O.CLEARED, "a", "b", reason="as you said", selection="drag"
            ),
            "Not dropped: a → b",
            "as you said",
        ),
        (
            w.RecordCrossing(O.EXPORTED, "work", w.VIEWER, (TEXT,), 5, rule="r:3"),
            "5 bytes of text: work → your own programs",
            "by r:3; paste it there as usual",
        ),
        (
            w.RecordCrossing(O.COPIED, "work", kinds=(TEXT,), size=5, outward=False),
            "Copied 5 bytes of text from work",
            "press Super+Shift+V in a sandbox to paste it once\n(to paste it in your own programs, write the rule: vitrail.ClipboardPaste * work @adminvm ask)",
        ),
        (
            w.RecordCrossing(O.COPIED, "work", kinds=(TEXT,), size=5, window="Mail"),
            "Copied 5 bytes of text from work",
            "press Super+Shift+V in a sandbox to paste it once\n(copied in the window titled Mail)",
        ),
        (
            w.RecordCrossing(
                O.PASTED, "work", "b", (TEXT,), 5, rule="r:3", window="Mail"
            ),
            "5 bytes of text: work → b",
            "by r:3; paste it there as usual, the clipboard is cleared\n(copied in the window titled Mail)",
        ),
        (
            w.RecordCrossing(O.EXPIRED, "work"),
            "Clipboard wiped: work",
            "the content expired",
        ),
        (
            w.RecordCrossing(O.CLEARED, "work", reason="you said so"),
            "Clipboard wiped: work",
            "you said so",
        ),
        (
            w.RecordCrossing(O.REFUSED, "work", "evil", reason="denied by r:9"),
            "Not pasted: work → evil",
            "denied by r:9",
        ),
        (
            w.RecordCrossing(O.DROPPED, "work", reason="slow"),
            "Not copied: work",
            "slow",
        ),
        (
            w.RecordCrossing(O.DROPPED, "work", w.VIEWER, reason="no echo"),
            "Not copied to your own programs: work → your own programs",
            "no echo",
        ),
        (
            w.RecordCrossing(O.REFUSED, "", "work", reason="stays", selection="drag"),
            "Not dropped: work",
            "stays",
        ),
    ],
)
def test_each_outcome_has_its_words(record, title, text):
    assert said(record) == (title, text)
