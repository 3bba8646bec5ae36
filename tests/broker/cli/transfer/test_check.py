"""``open --check``: every line has one answer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cli.transfer.check import check_line
from broker.core.limits import transfer as limits


def ask(**question):
    return check_line(json.dumps(question).encode())


def test_an_address_that_would_be_accepted():
    assert ask(kind="url", text="https://bücher.example:8443/x") == {
        "ok": True,
        "canonical": "https://xn--bcher-kva.example:8443/x",
        "host": "xn--bcher-kva.example",
        "host_unicode": "bücher.example",
        "port": 8443,
        "scheme": "https",
    }


def test_names_are_asked_about_as_bytes_or_as_text():
    assert ask(kind="name", bytes_hex=b"a b".hex()) == {"ok": True, "canonical": "a b"}
    assert ask(kind="name", text="a b") == {"ok": True, "canonical": "a b"}
    answer = ask(kind="name", bytes_hex="61ff62")
    assert answer == {
        "ok": False,
        "reason": "byte 1 of the name is not UTF-8",
        "display": "a_b",
    }


def test_an_address_may_come_as_bytes():
    assert ask(kind="url", bytes_hex=b"https://a.b/".hex())["ok"]
    assert "UTF-8" in ask(kind="url", bytes_hex="ff")["reason"]


def test_schemes_are_the_callers_choice():
    line = b'{"kind":"url","text":"ftp://a.b/"}'
    assert not check_line(line)["ok"]
    assert check_line(line, {"ftp"})["ok"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"x",
        b"[]",
        b"null",
        b"{}",
        b'{"kind":"url"}',
        b'{"kind":"url","text":"a","bytes_hex":"61"}',
        b'{"kind":"path","text":"a"}',
        b'{"kind":"name","bytes_hex":"6"}',
        b'{"kind":"name","bytes_hex":"zz"}',
        b'{"kind":"name","bytes_hex":1}',
        b'{"kind":"url","text":"\\ud800"}',
        b'{"kind":"url","text":"\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"kind":"url","text":"https://a.b/"} x',
    ],
    ids=lambda line: repr(line[:40]),
)
def test_a_line_that_is_no_question_is_answered(line):
    answer = check_line(line)
    assert answer["ok"] is False
    assert answer["reason"]


def test_the_longest_line_and_one_more():
    line = b'{"kind":"name","text":"%s"}'
    room = limits.CHECK_LINE_BYTES - len(line) + 2
    assert "longer than 255" in check_line(line % (b"x" * room))["reason"]
    assert "the line is longer" in check_line(line % (b"x" * (room + 1)))["reason"]


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail(line):
    assert check_line(line)["ok"] in {True, False}


@given(st.text(max_size=60), st.sampled_from(["url", "name"]))
def test_no_text_makes_it_fail(text, kind):
    answer = check_line(json.dumps({"kind": kind, "text": text}).encode())
    assert answer["ok"] or answer["reason"].isprintable()
