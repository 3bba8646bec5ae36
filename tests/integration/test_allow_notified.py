"""Allowing after a refusal, by notification on a real desktop."""

from __future__ import annotations

import os
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.cli.allow import watch
from broker.cli.allow.refusals import RefusedCall
from broker.cli.notifications.notification import DesktopNotification, body
from tests.kit.notified import screen
from tests.kit.refused import COPY, decided, refused, user_with_rules


@pytest.fixture(name="run")
def _run(tmp_path, monkeypatch):
    with user_with_rules(tmp_path, monkeypatch) as run:
        yield run


FIRST = RefusedCall(2, "work", COPY, "mail")


@asynccontextmanager
async def offered(s):
    """The offer of a refusal, opened: the notification with its line."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.offer_by_notification, FIRST, s.env)
        first = await s.one_with("work was refused")
        assert first[3] == {"allow": "Allow …"}
        await s.click(first, "allow")
        yield await s.one_with("Allow this?")
        nursery.cancel_scope.cancel()


async def picture(s, name):
    folder = Path(os.environ.get("VITRAIL_OUT") or tempfile.gettempdir()) / "allow"
    folder.mkdir(parents=True, exist_ok=True)
    await s.comp.screenshot(folder / name)


async def test_the_line_is_shown_and_written_by_two_clicks(run, monkeypatch):
    monkeypatch.setattr(watch, "READ_SECONDS", 0.0)
    await trio.to_thread.run_sync(refused, run)
    async with screen() as s, offered(s) as two:
        line, others, file = two[2].split("\n")
        assert line == f"{COPY} + work mail allow"
        assert others == "The line does not change decisions about other sandboxes."
        assert file.endswith("policy.d/10-allowed.policy")
        assert two[3] == {"once": "Once", "always": "Always", "ask": "Ask each time"}
        await picture(s, "line.png")
        assert decided().verdict == "deny"
        await s.click(two, "always")
        await s.one_with("Written")
        assert decided().verdict == "allow"


async def test_an_answer_too_soon_does_not_count(run, monkeypatch):
    """A notification that appears under a click is not a yes."""
    monkeypatch.setattr(watch, "READ_SECONDS", 60.0)
    await trio.to_thread.run_sync(refused, run)
    async with screen() as s:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.offer_by_notification, FIRST, s.env)
            await s.click(await s.one_with("work was refused"), "allow")
            await s.click(await s.one_with("Allow this?"), "always")
        # It has ended, and written nothing.
        assert decided().verdict == "deny"


async def test_a_word_that_was_not_offered_is_not_an_answer(tmp_path):
    """Whatever notify-send or the server of notifications says."""
    fake = tmp_path / "notify-send"
    fake.write_text("#!/bin/sh\necho always\n")
    fake.chmod(0o755)
    note = DesktopNotification(
        {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    )
    assert await note.ask("x", "y", {"once": "Once"}) == ""
    assert await note.ask("x", "y", {"always": "Always"}) == "always"


@pytest.mark.parametrize("text", ["<b>x</b>", "a & b", "x\\n"])
def test_no_text_is_markup(text):
    assert "<" not in body(text)
    assert "&" not in body(text).replace("&lt;", "").replace("&gt;", "").replace(
        "&amp;", ""
    )
