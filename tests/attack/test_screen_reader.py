"""The dialog over AT-SPI: a screen reader reads it, and no program answers by it."""

from __future__ import annotations

import socket

import pytest

from broker.authority.questions.prompts import one_way_pair
from broker.core import limits
from broker.core.question import PersonAnswer
from tests.integration.test_asking import desk, of
from tests.kit.accessibility import accessibility_bus, pressed_and_shown
from tests.kit.prompting import PHRASE

WORDS = {
    "words": "to open an address",
    "details": (("scheme", "https"),),
    "targets": ("banking", "work"),
    "default_target": "work",
}
HOW = "Press Allow, or type the word allow.  To deny, press Esc or Deny."


async def test_a_screen_reader_reads_it_and_its_actions_answer_nothing(monkeypatch):
    async with accessibility_bus() as env:
        bus = env["DBUS_SESSION_BUS_ADDRESS"]
        # A loaded machine takes long to start the client.
        monkeypatch.setattr(limits, "QUESTION_SECONDS", 400.0)
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus)
        async with desk() as d:
            d.ask("asked", of("web", "", **WORDS))
            # Before the guard is armed, and after it.
            pressed, shown = await pressed_and_shown(env)
            print(*shown, sep="\n")
            assert pressed
            assert not any(pressed), "an action was taken"
            assert d.answers == {}
            assert [(o["role"], o["name"]) for o in shown] == [
                ("dialog", "Vitrail asks about web"),
                ("label", "web wants to open an address."),
                ("label", "Work · record work"),
                ("label", "The answer is for the scheme: https"),
                ("label", "Choose the target of the request:"),
                ("label", "The keys Up and Down choose: banking, work."),
                ("list", "Target of the request"),
                ("list item", "banking"),
                ("list item", "work"),
                ("static", f"work: chosen.  {HOW}"),
                ("push button", "Deny"),
                ("push button", "Allow"),
            ]
            assert "selected" in shown[8]["states"]
            assert "focused" in shown[9]["states"]
            assert [o["keys"] for o in shown[10:]] == [["Escape"], ["allow"]]
            assert not any(PHRASE in o["name"] for o in shown)
            assert all("sensitive" in o["states"] for o in shown)
            d.hands.type("allow")
            (answer,) = await d.heard("asked")
            assert answer == PersonAnswer(allow=True, target="work", by="person")


async def test_a_reader_that_was_taken_over_cannot_write_to_the_dialog():
    says, hears = one_way_pair()
    with says, hears:
        says.send(b"a dialog")
        assert hears.recv(100) == b"a dialog"
        with pytest.raises(BrokenPipeError):
            hears.send(b"allow")
        assert says.recv(100, socket.MSG_DONTWAIT) == b""
