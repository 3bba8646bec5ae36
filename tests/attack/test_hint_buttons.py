"""A hint whose command becomes a button: a host that was taken over writes hints, too.

The link carries message and hint of what the other broker refused; a menu's start shows
them in a notification.  The button's command runs here, with the rights of the user.
"""

from __future__ import annotations

from functools import partial

import pytest
import trio

from broker.cli.menu import reported_start
from broker.cli.menu.reported_start import mend_of
from broker.wire.call_messages import ErrorMessage
from tests.integration.test_menu import menu

DESTROYS = (
    "audit gc --keep 0d",
    "audit -n 5 gc --keep 0d",
    "audit --sandbox x gc --keep 0d",
    "audit fleet upkeep",
    "image remove default",
    "image rollback web",
    "image timer --disable",
    "image build web --mirror evil",
    "new web --for browser --in flatpak.x",
    "new x --for development",
    "policy import evil",
    "policy fmt x",
    "policy starter --yes",
    "logs x --remove",
    "doctor --fix",
    "status --json gc",
)


@pytest.mark.parametrize("command", DESTROYS)
def test_no_button_runs_what_changes_more_than_an_image(command):
    hint = f"to mend it, run 'brokerctl {command}'"
    untrusted = ErrorMessage(1, "refused", "no", hint)
    assert mend_of(untrusted.error().hint) == []


@pytest.mark.parametrize(
    "command",
    [
        "doctor",
        "status",
        "status web",
        "logs web",
        "audit verify",
        "audit connections",
        "audit --sandbox web-1234",
        "audit stats --sandbox web",
        "image build web",
        "image build --force web",
        "image build web --gpu",
        "image list",
        "new web",
        "policy check",
        "policy edit web.toml",
        "policy explain --event 7",
        "policy lint",
        "policy starter",
    ],
)
def test_what_our_own_hints_name_has_its_button(command):
    assert mend_of(f"to mend it, run 'brokerctl {command}'") == command.split()


async def test_a_hint_of_the_other_machine_has_no_button_that_removes_the_log(
    monkeypatch,
):
    """Of a start that fails, on a desktop with notifications."""
    refused = (
        "echo 'error: the host refuses' >&2; "
        "echo \"  hint: to mend it, run 'brokerctl audit gc --keep 0d'\" >&2; exit 1"
    )
    monkeypatch.setattr(
        reported_start, "our_program", lambda *_words: ["sh", "-c", refused]
    )
    async with menu() as s, trio.open_nursery() as nursery:
        start = partial(reported_start.start, attached=False, env=s.env)
        nursery.start_soon(start, "vm", "My machine", "", ())
        one = await s.one_with("the host refuses")
        assert "audit gc" in one[2]
        assert one[3] == {"again": "Try again"}
        await s.dismiss(one)
