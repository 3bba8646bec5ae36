"""What a failed request looks like for a user whose desktop speaks German."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trio

from tests.kit.brokerctl import brokerctl
from tests.kit.guest_notifications import notifying
from tests.kit.needs import requires
from tests.kit.wayland.compositor import wait_window

pytestmark = [
    pytest.mark.long,
    requires("waypipe", "mako", "dbus-daemon", "notify-send", "foot"),
]
RULES = """\
vitrail.OpenURL  * work @default  allow target=personal
vitrail.FileCopy * work @adminvm  allow
vitrail.FileCopy * work personal  ask
"""
GERMAN = {"LANG": "de_DE.UTF-8", "LANGUAGE": "de"}


async def test_the_user_reads_german_and_the_log_and_the_sandbox_english():
    async with notifying(RULES, "work", "personal", env=GERMAN) as (w, screen, guests):
        (w.base / "person").mkdir()
        work = guests["work"]
        guests["personal"].opens("x-scheme-handler/https", "sh -c 'exit 7' %u")
        code, said = await work.command("vitrail-open", "https://example.org/")
        failed = await screen.one_with(
            "personal hat die Datei oder Adresse nicht geöffnet"
        )
        assert failed[2].startswith("das Programm endete mit dem Code ")
        assert "'brokerctl logs personal'" in failed[2]
        (work.home / "notes").write_text("x")
        code, said = await work.command("vitrail-copy", "notes", "@adminvm")
        assert code == 0, said
        sent = await screen.one_with("work hat Ihnen Dateien geschickt")
        assert sent[2] == "sie sind in ~/Incoming/work"
        await shot(w, "refused-link-german")

        done = await brokerctl("stop", "absent", env=w.environ)
        assert done.err.startswith("error: no sandbox 'absent' is running\n")
        assert "'brokerctl status'" in done.err
        done = await brokerctl("status", "--json", env=w.environ)
        assert json.loads(done.out)


async def test_a_frame_says_in_german_that_its_sandbox_asks():
    async with notifying(RULES, "work", "personal", env=GERMAN) as (w, _screen, guests):
        work = guests["work"]
        (work.home / "notes").write_text("x")
        await w.run("work", "foot", "-T", "letter", "sleep", "1000")
        await wait_window(w.comp, title="[work] letter", deadline=120)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work.command, "vitrail-copy", "notes", "personal")
            await wait_window(w.comp, title="[work fragt] letter", deadline=120)
            await shot(w, "frame-asks-german")
            nursery.cancel_scope.cancel()


async def shot(w, name):
    folder = Path(os.environ.get("VITRAIL_OUT") or ".") / "prompt"
    folder.mkdir(parents=True, exist_ok=True)
    await w.comp.screenshot(folder / f"{name}.png")
