"""The manager's dialogs: what is confirmed is what is shown."""

from __future__ import annotations

import pytest

from broker.cli.manager import verb_calls
from broker.cli.manager.verb_calls import dialog_text, run_verb


@pytest.mark.parametrize("long", ["line\n" * 200, "x" * 9000, f"{'y' * 2000}\n" * 3])
def test_a_preview_that_is_cut_says_so_before_its_first_line(long):
    shown = dialog_text(long)
    assert len(shown) < 4200
    assert len(shown.splitlines()) < 70
    first, rest = shown.split("\n", 1)
    assert first.startswith("Only a part is shown here")
    assert long.startswith(rest.rstrip("…\n"))


def test_a_preview_that_fits_is_shown_whole():
    text = "vitrail.OpenURL + web @adminvm: deny -> allow\n" * 20
    assert dialog_text(text.strip()) == text.strip()


@pytest.mark.parametrize("text", ["a\x1b[31mb", "a\u202eb", "a\u200bb", "a\x07b"])
def test_no_character_of_a_dialog_is_hidden(text):
    """Errors are shown as they are raised: a name in one may be of a sandbox."""
    assert dialog_text(text).isprintable()


async def test_a_long_answer_of_a_verb_is_whole_for_who_reads_it(monkeypatch):
    """'doctor --json' is parsed; the 60 lines of a dialog are not its end."""
    program = ["/bin/sh", "-c", "seq 1 300"]
    monkeypatch.setattr(verb_calls, "our_program", lambda *_words: program)
    result = await run_verb("doctor", "--json")
    assert result.output.splitlines() == [str(n) for n in range(1, 301)]


async def test_sentences_of_a_broker_are_german_in_the_manager(monkeypatch):
    """brokerctl prints them in English; what no table has stays as it is printed."""
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    lines = (
        "error: no sandbox 'work' is running",
        "  hint: to list the running sandboxes, run 'brokerctl status'",
        "error: did you mean 'work'?",
        "another line",
    )
    script = "".join(f'echo "{line}" >&2; ' for line in lines)
    program = ["/bin/sh", "-c", f"{script} exit 1"]
    monkeypatch.setattr(verb_calls, "our_program", lambda *_words: program)
    result = await run_verb("stop", "work")
    assert result.words.splitlines() == [
        "Fehler: es läuft keine Sandbox „work“",
        "  Tipp: um die laufenden Sandboxen zu sehen, rufen Sie 'brokerctl status' auf",
        "Fehler: meinten Sie 'work'?",
        "another line",
    ]
