"""``vitrail-manager`` in a real window, read and pressed by AT-SPI, with a real broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.core.paths import find_paths
from tests.kit.brokerctl import brokerctl, running
from tests.kit.manager import keyboard, managed, manager, person, reach
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world

pytestmark = [PID_NAMESPACES, pytest.mark.timeout(400)]

RECORD = """\
class = "disposable"
display = "allow"
[label]
name = "<b>paper</b>"
colour = "orange"
[launch]
kind = "bwrap"
command = ["foot", "-T", "editor", "sleep", "1000"]
[audio]
playback = "allow"
"""


def record_file(w) -> Path:
    return w.paths.config[0] / "sandboxes.d" / "paper.toml"


async def test_a_sandbox_is_seen_switched_and_stopped(tmp_path):
    async with world(image=False) as w:
        record_file(w).parent.mkdir(parents=True, exist_ok=True)
        record_file(w).write_text(RECORD)
        async with (
            running("run", "-q", "paper", env=w.environ),
            managed(w, tmp_path) as env,
        ):
            (window,) = await wait_window(w.comp, title="editor", deadline=90)
            name = window["name"].partition("[")[2].partition("]")[0].split()[-1]
            sandbox = f"paper-{name.rpartition('-')[2]}"
            # A label is text, and no markup.
            await person(
                env,
                ("sees", sandbox),
                ("sees", "<b>paper</b>"),
                ("sees", "processor "),  # two samples of the drawn list
            )
            await person(
                env,
                ("press", "Activity"),
                ("sees", "vitrail.Display"),
                ("press", "Chart"),
                ("sees", "1 decision, 0 denied"),
                ("press", "Done"),
                ("misses", "1 decision, 0 denied"),
            )
            async with manager(
                {
                    **w.environ,
                    "DBUS_SESSION_BUS_ADDRESS": env["DBUS_SESSION_BUS_ADDRESS"],
                },
                tmp_path / "second.log",
                "paper",
            ) as second:
                assert await second.wait() == 0  # the page is in the first's window
            await person(
                env,
                ("sees", "Show windows"),
                # What takes something away is done at once, and can be undone.
                ("press", "Play sound of paper"),
                ("sees", "Denied · paper.toml:10"),
                ("press", "Undo"),
                ("misses", "Denied · paper.toml:10"),
            )
            assert record_file(w).read_text() == RECORD
            off = RECORD.replace('playback = "allow"', 'playback = "none"')
            await person(
                env,
                ("press", "Play sound of paper"),
                ("sees", "Denied · paper.toml:10"),
            )
            assert record_file(w).read_text() == off
            # What gives something is asked first.
            await person(
                env,
                ("press", "Play sound of paper"),
                ("sees", "Set sound of paper to on?"),
                ("press", "Cancel"),
                ("misses", "Set sound of paper to on?"),
                ("press", "green: colour of paper"),
                ("sees", "paper: colour is green"),
                # Its own events alone.
                ("press", "Activity paper"),
                ("sees", "vitrail.Display"),
                ("misses", "broker.start"),
                ("press", "Sandboxes"),
            )
            assert record_file(w).read_text() == off.replace("orange", "green")
            await person(env, ("press", f"Stop {sandbox}"))
            await person(env, ("misses", f"Stop {sandbox}"), ("sees", "Start paper"))


async def test_a_broker_that_ends_and_comes_again_is_followed(tmp_path):
    async with world(image=False) as w, managed(w, tmp_path) as env:
        await person(env, ("sees", "Sandboxes"), ("misses", "No broker is running"))
        answer = await brokerctl("stop", "--broker", env=w.environ)
        assert answer.code == 0, answer.err
        await person(env, ("sees", "No broker is running"))
        words = ("run", "-q", "--bwrap", "--", "foot", "-T", "again", "sleep", "100")
        async with running(*words, env=w.environ):
            await person(env, ("sees", "Stop box-"), ("misses", "No broker is running"))
        await brokerctl("stop", "--broker", env=w.environ)


async def test_an_unknown_sandbox_is_said(tmp_path):
    assert find_paths()
    async with world(image=False) as w, managed(w, tmp_path, "nobody\n<b>") as env:
        await person(env, ("sees", "No sandbox is named 'nobody\\x0a<b>'"))


async def test_keys_alone_change_a_setting_and_the_focus_stays(tmp_path):
    """The page is made anew by the change: the focus is on the same switch."""
    async with (
        world({"paper": RECORD}, image=False) as w,
        keyboard(w),
        managed(w, tmp_path, "paper") as env,
    ):
        await person(env, ("sees", "What it may do"))
        await reach(w, env, "Play sound of paper", tabs=36)
        await w.comp.type_text(" ")
        await person(
            env,
            ("sees", "Denied · paper.toml:10"),
            ("focused", "Play sound of paper"),
        )
        await w.comp.type_text(" ")
        await person(env, ("sees", "Set sound of paper to on?"))
        # The dialog's default is 'Cancel'; the arrow leads to 'Change'.
        await w.comp.type_text("\t\n")
        await person(env, ("misses", "Denied · paper.toml:10"))
        assert record_file(w).read_text() == RECORD


async def test_the_first_run_ends_with_a_framed_window(tmp_path):
    """From no record: the check, a purpose with another program, a window in its frame."""
    async with world(image=False, start=False) as w:
        (record_file(w).parent / "app.toml").unlink()
        async with managed(w, tmp_path) as env:
            await person(
                env,
                ("sees", "Step 1 of 3"),
                ("sees", "Step 2 of 3"),
                ("enter", "Program=foot -T first sleep 1000"),
                ("press", "Create and start"),
            )
            (window,) = await wait_window(w.comp, title="first", deadline=90)
            assert "browser" in window["name"]
            await person(env, ("sees", "Show windows"), ("press", "Sandboxes"))
            await person(env, ("sees", "Stop browser-"))
