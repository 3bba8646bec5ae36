"""The page of messages says of each sound command what the filter does with it."""

from __future__ import annotations

import pytest

from broker.jail.sound.commands import NOT_FROM_CLIENTS, REFUSED, REQUESTS, Command
from docs.tables.sound import POLICIES, happens


def test_each_command_has_a_row():
    assert set(POLICIES) == set(Command)


@pytest.mark.parametrize(
    ("commands", "words"),
    [
        (REQUESTS, {"handshake", "playback", "local", "empty"}),
        (REFUSED, {"refused"}),
        (NOT_FROM_CLIENTS, {"from the server"}),
    ],
)
def test_the_words_for_a_command_follow_its_table(commands, words):
    assert {happens(command) for command in commands} == words
