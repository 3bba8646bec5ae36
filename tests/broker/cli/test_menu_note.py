"""A start from the menu that succeeds, and whose program will not show a window."""

from __future__ import annotations

import os

import pytest

from broker.cli.menu import reported_start

NOTE = "old: shows its windows by X11; 'brokerctl image build old --x11' adds it"


class Told:
    """A desktop that shows notifications, and presses a button."""

    shown: tuple[str, str, dict[str, str]] | None = None
    pressed = ""

    def __init__(self, _env, _icon=""):
        pass

    async def ask(self, title, text, buttons):
        Told.shown = (title, text, buttons)
        return Told.pressed

    async def show(self, *_, **__):
        pass

    async def close(self):
        pass


@pytest.mark.parametrize("note", [NOTE, "a word of another kind"])
async def test_a_note_with_a_command_is_a_notification_with_its_button(
    note, monkeypatch
):
    Told.shown = None
    monkeypatch.setattr(reported_start, "DesktopNotification", Told)
    words = ["sh", "-c", 'echo "note: $0" >&2', note]
    monkeypatch.setattr(reported_start, "our_program", lambda *_: words)
    env = dict(os.environ)
    result = await reported_start.start("old", "Old", "", [], attached=False, env=env)
    assert result.code == 0
    if note == NOTE:
        told = ("Old might not show a window", NOTE, {"mend": "Build the image"})
        assert Told.shown == told
    else:
        assert Told.shown is None


def test_failure_of_a_start_is_german_and_its_button_runs_the_command(monkeypatch):
    """The verb prints English: its command is found in the hint as it was printed."""
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    lines = [
        "error: there is no guest image 'web'",
        "  hint: to build it, run 'brokerctl image build web' (this takes a minute or two)",
    ]
    error, hint = reported_start._error_of(lines)
    result = reported_start.StartResult(code=1, error=error, hint=hint)
    assert reported_start.mend_of(result.hint) == ["image", "build", "web"]
    first, second = result.text.split("\n")
    assert first == "es gibt kein Abbild „web“"
    assert "'brokerctl image build web'" in second
    assert not second.startswith("to build")
