"""Texts in a dialog: our plain words, and escaped ones of others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.authority.questions.phrase import (
    ensure_phrase,
    phrase_file,
    read_phrase,
    take_phrase,
    write_phrase,
)
from broker.core.errors import InternalError, PeerError, RefusedError
from broker.core.paths import find_paths
from broker.core.question import PersonAnswer, untrusted_word
from broker.helpers.prompt.description import target_words
from broker.helpers.prompt.dialog import claims, duration
from broker.ipc import prompt as m
from tests.kit.prompting import MANY, question


@given(st.text(), st.integers(4, 200))
def test_a_sandboxs_word_is_short_and_plain(text, most):
    word = untrusted_word(text, most)
    assert len(word) <= most
    assert word.isascii()
    assert word.isprintable()


def test_look_alikes_are_told_apart():
    assert untrusted_word("p\u0430ypal.com") == "p\\u0430ypal.com"
    assert untrusted_word("\u202egnp.exe") == "\\u202egnp.exe"
    assert untrusted_word("x" * 100) == "x" * 39 + "..." + "x" * 38


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "1 second"),
        (90, "90 seconds"),
        (600, "10 minutes"),
        (3600, "1 hour"),
        (5400, "90 minutes"),
        (2 * 86400, "2 days"),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_what_the_broker_knows_is_not_a_claim():
    details = (("host", "git.example.test"), ("size, it says", "4 bytes"))
    assert claims(question(details=details, argument="")) == [
        "host: git.example.test",
        "size, it says: 4 bytes",
    ]


def test_targets():
    assert target_words("dom0") == target_words("@adminvm") == "you, at this screen"
    assert target_words("@dispvm:web") == "a new web sandbox"
    assert target_words("work") == "work"


@pytest.mark.parametrize(
    "message",
    [
        m.Show(1, MANY, "a phrase", 5.0, "allow"),
        m.WithdrawQuestion(),
        m.PromptHello(True),
        m.Shown(3),
        m.PromptAnswer(3, PersonAnswer(allow=True, target="x", by="person")),
        m.Unable("no compositor"),
    ],
)
def test_messages_come_back_as_they_were(message):
    decode = (
        m.decode_to_agent if isinstance(message, m.ToAgent) else m.decode_from_agent
    )
    assert decode(m.encode(message)) == message


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(data):
    for decode in (m.decode_to_agent, m.decode_from_agent):
        try:
            decode(data)
        except PeerError:
            continue


def test_a_message_that_is_too_long():
    with pytest.raises(InternalError, match="prompt message is too long"):
        m.encode(m.Show(1, question(label="x" * 140_000), "", 1.0, "allow"))


@pytest.fixture(name="paths")
def _paths(tmp_path):
    return find_paths({"XDG_RUNTIME_DIR": "/tmp/x", "HOME": str(tmp_path)})


def test_a_phrase_is_made_once_and_kept_for_the_person_alone(paths):
    made = ensure_phrase(paths)
    assert len(made.split()) == 3
    assert ensure_phrase(paths) == made == read_phrase(paths)
    assert phrase_file(paths).stat().st_mode & 0o777 == 0o600
    write_phrase(paths, "  my  own   words ")
    assert read_phrase(paths) == "my own words"


def test_what_others_can_read_is_no_secret(paths):
    write_phrase(paths, "my own words")
    phrase_file(paths).chmod(0o644)
    assert read_phrase(paths) == ""
    assert ensure_phrase(paths) == "", "and it is not replaced behind the person's back"
    phrase_file(paths).unlink()
    phrase_file(paths).symlink_to("/etc/hostname")
    assert ensure_phrase(paths) == ""


@pytest.mark.parametrize("text", ["", "abc", "x" * 81, "a\nb\x1b[2J", "a\u202eb c"])
def test_malformed_phrases(text):
    with pytest.raises(RefusedError, match="the phrase is invalid"):
        take_phrase(text)


@pytest.mark.parametrize("text", ["abcd", "x" * 80, "möwe über see"])
def test_well_formed_phrases(text):
    assert take_phrase(text) == text
