"""The report: whole, self-contained, and not a door for a sandbox's words."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from broker.cli.audit.html import page
from broker.cli.audit.query.digest import Digest
from broker.cli.audit.report import command
from broker.core.errors import SetupError
from broker.ipc.audit import schema
from broker.ipc.audit.filters import Found

EVIL = "<script>alert(1)</script>'\"><img src=http://x/ onerror=y>&amp;\x1b[31m\u202e"


def digest(*events: schema.AnyEvent) -> Digest:
    out = Digest(0, 100)
    for number, event in enumerate(events, start=1):
        stamped = msgspec.structs.replace(event, sequence=number, time_ns=number)
        body = schema.encode(stamped).decode()
        out.take(Found(number, number, event.kind, event.sandbox, body, machine=EVIL))
    out.finish()
    return out


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


def evil(word: str) -> Digest:
    return digest(
        schema.LeaseBegin(sandbox=word, lease=word),
        schema.Decision(sandbox=word, service=word, target=word, rule=word, reason=word,
                        verdict=schema.EventVerdict.DENY),
        schema.Decision(sandbox=word, service=word, target=word, rule=word,
                        verdict=schema.EventVerdict.ALLOW),
        schema.StreamRefused(peer=word, reason=word, count=3),
        schema.StreamClosed(sandbox=word, bytes_from_sandbox=1, bytes_to_sandbox=2, seconds=1),
        schema.ProcessDied(process=schema.Process.WORKER, reason=word, sandbox=word),
        schema.QuestionAnswered(question=1, answer=schema.EventVerdict.ALLOW, answered_by=word,
                                seconds=1, target=word, remember=word),
    )  # fmt: skip


@given(st.text(max_size=40) | st.just(EVIL))
def test_a_word_of_a_sandbox_is_only_ever_text(word: str) -> None:
    word = word.encode("utf-8", "replace").decode()
    plain = read("".join(page(evil("x"), title="t", asked="", zone=None)))
    nasty = read("".join(page(evil(word or "x"), title=word, asked=word, zone=None)))
    # The same tags in the same order, and no attribute that does anything.
    same = [tag for tag, _ in plain.tags]
    assert [tag for tag, _ in nasty.tags] == same
    for _tag, attributes in nasty.tags:
        assert not any(
            name.startswith("on") or name in {"src", "href"} for name in attributes
        )
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", nasty.words)


def test_it_needs_nothing_from_elsewhere() -> None:
    text = "".join(page(evil(EVIL), title="t", asked="", zone=None))
    assert "http:" not in text.replace("http://x/", "")
    tags = {tag for tag, _ in read(text).tags}
    assert not tags & {"script", "link", "img", "iframe", "object"}
    (policy,) = (a for t, a in read(text).tags if t == "meta" and "http-equiv" in a)
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_it_has_all_its_parts() -> None:
    words = read(
        "".join(page(evil("mail"), title="Week 47", asked="", zone=None))
    ).words
    for part in ("Week 47", "Timeline", "Top talkers", "Denied attempts", "Trouble",
                 "Granted", "Questions and grants", "mail", "worker"):  # fmt: skip
        assert part in words


def test_nothing_found_is_said() -> None:
    words = read("".join(page(Digest(0, 1), title="t", asked="", zone=None))).words
    assert "Nothing was found" in words


def test_report_without_jinja2_names_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "broker.cli.audit.html")
    done = CliRunner().invoke(command, ["--to", "-"])
    assert isinstance(done.exception, SetupError)
    assert done.exception.message == (
        "cannot write a report: the Python package jinja2 is not installed"
    )
    assert ".[report]" in str(done.exception.hint)
