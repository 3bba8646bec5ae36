"""The first hour with a box in place of a machine: install to removal, in seconds.

test_first_hour.py is the same with micro VMs.  The browser of the hour is here, with
the machine's own Firefox in a box: in an emulated machine it takes minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal

import pytest
import trio

from broker.helpers.process.spawn import PIPE
from tests.kit.brokerctl import paths_of
from tests.kit.eventually import eventually
from tests.kit.first_hour import a_live_screen, hour
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import wait_window, windows
from tests.kit.world import processes

pytestmark = [
    PID_NAMESPACES,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not shutil.which("bwrap"), reason="no bubblewrap"),
]

RECORD = """\
class = "disposable"
display = "allow"
[label]
name = "notes"
colour = "orange"
[launch]
kind = "bwrap"
command = ["foot", "-T", "editor", "sleep", "1000"]
"""
ASK = "vitrail.Display * @type:disposable @adminvm ask\n"


async def test_the_first_hour_with_a_box():
    async with hour() as h:
        async with h.step("install"):
            await h.vitrail.install("0.1.0")
            assert "0.1.0" in (await h.types("--version")).out
        async with h.step("a record"):
            h.writes("sandboxes.d/notes.toml", RECORD)
            await h.types("policy", "check")
            assert "notes" in (await h.types("list")).out
        async with h.step("run, asked, answered; top; Ctrl-C"):
            await asked_and_interrupted(h)
        async with h.step("audit connections"):
            await what_happened(h)
        async with h.step("a typo"):
            await a_typo(h)
        async with h.step("removal"):
            await removed(h)


async def asked_and_interrupted(h):
    """A question; its answer brings the window; Ctrl-C ends all of it."""
    h.writes("policy.d/30-mine.policy", ASK)
    async with h.begins("run", "notes", stdout=PIPE) as run:
        (question,) = await eventually(h.questions, deadline=90)
        assert not windows(await h.comp.tree())
        await h.types("answer", str(question.id), "allow")
        (window,) = await wait_window(h.comp, title="editor", deadline=90)
        assert re.fullmatch(r"\[notes-[0-9]{4}\] editor", window["name"])
        await a_live_screen(h, "notes")
        await interrupted(h, run)

    async def closed():
        return not windows(await h.comp.tree())

    await eventually(closed, deadline=60)


async def what_happened(h):
    """The record's line is beside that of the rule that asked."""
    shown = await h.types("audit", "connections", "--sandbox", "notes")
    (row,) = [line for line in shown.out.splitlines() if "vitrail.Display" in line]
    assert "30-mine.policy:1" in row
    assert "notes.toml:2" in row


async def a_typo(h):
    """The place, the word that was meant; and a record that denies until mended."""
    h.writes("sandboxes.d/notes.toml", RECORD.replace('"allow"', '"alow"'))
    wrong = await h.types("policy", "check", code=1)
    assert "notes.toml:2:" in wrong.out + wrong.err
    assert '"allow"' in wrong.out + wrong.err
    refused = await h.types("run", "notes", code=1)
    assert "notes.toml:2:" in refused.err
    h.writes("sandboxes.d/notes.toml", RECORD)
    await h.types("policy", "check")


async def removed(h, name="notes"):
    """What stays is the log and what the person wrote."""
    await h.types("stop", "--broker")
    await h.types("sandbox", "remove", name, "--yes")
    h.vitrail.remove()

    async def gone():
        return not processes(str(h.home))

    await eventually(gone, deadline=60)
    assert not (h.config / "sandboxes.d" / f"{name}.toml").exists()
    left = {path.name for path in paths_of(h.env).runtime.iterdir()}
    assert left <= {
        "start.lock",
        "sandboxes",
        "launch",
        "sandboxes.d",
        "display",
        "sound",
    }


BROWSER = """\
class = "disposable"
display = "allow"
[label]
name = "web"
colour = "orange"
[launch]
kind = "bwrap"
command = ["firefox-esr", "--no-remote", "--new-instance", "about:license"]
"""


@pytest.mark.long
@pytest.mark.timeout(560)
@pytest.mark.skipif(not shutil.which("firefox-esr"), reason="firefox-esr is missing")
async def test_the_first_hour_with_a_browser():
    """Asked after half a minute, looked at, interrupted; a typo, an update, removal.

    A shell and a copy into it need a machine: a box does not have our agent.
    """
    async with hour() as h:
        async with h.step("install"):
            await h.vitrail.install("0.1.0")
        async with h.step("a record"):
            h.writes("sandboxes.d/web.toml", BROWSER)
            # Firefox opens more than one connection to the display.
            h.writes("policy.d/30-mine.policy", f"{ASK.rstrip()} remember=session\n")
            await h.types("policy", "check")
        async with h.begins("run", "web", stdout=PIPE) as run:
            await a_browser(h)
            async with h.step("  an update beside it"):
                await h.vitrail.install("0.1.1")
                status = (await h.types("status")).out
                assert (
                    "broker has version 0.1.0, but brokerctl has version 0.1.1"
                    in status
                )
            async with h.step("  Ctrl-C"):
                await interrupted(h, run)
        async with h.step("audit connections"):
            shown = await h.types("audit", "connections", "--sandbox", "web")
            rows = [line for line in shown.out.splitlines() if "Display" in line]
            assert any(
                "30-mine.policy:1" in row and "web.toml:2" in row for row in rows
            )
        async with h.step("a typo"):
            wrong = await h.types("run", "wbe", code=1)
            assert "web" in wrong.err
        async with h.step("removal"):
            await removed(h, "web")


async def a_browser(h):
    """Its window comes after an answer that took thirty seconds."""
    async with h.step("  from the command to the question"):
        (question,) = await eventually(h.questions, deadline=90)
    async with h.step("  a question waits"):
        with trio.move_on_after(30):
            while [q.id for q in await h.questions()] == [question.id]:
                await trio.sleep(1)
            raise AssertionError("the question went before it was answered")
    assert not windows(await h.comp.tree())
    async with h.step("  from the answer to Firefox"):
        await h.types("answer", str(question.id), "allow", "--keep", "session")
        (window,) = await wait_window(h.comp, title="Firefox", deadline=240)
        assert re.match(r"\[web-[0-9]{4}\] ", window["name"])
    await a_live_screen(h, "web")


async def interrupted(h, run):
    os.kill(run.pid, signal.SIGINT)
    with trio.fail_after(60):
        assert await run.wait() == 130
    lines = run.popen.stderr.read().decode().splitlines()
    assert lines[-1] == "brokerctl: interrupted"
    assert not [line for line in lines if "Traceback" in line]
    assert "no sandboxes are running" in (await h.types("status")).out
