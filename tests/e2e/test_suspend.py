"""Suspending a micro VM: its windows stay, requests into it are refused at once."""

from __future__ import annotations

import pytest
import trio

from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.manager import keyboard, managed, manager, person, reach
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import record, world

pytestmark = [PID_NAMESPACES, pytest.mark.long, pytest.mark.timeout(400)]

AT_ONCE = 20
"""Seconds in which a verb ends that waits for no guest, on a busy machine."""


async def called(w, *words):
    with trio.fail_after(AT_ONCE):
        return await brokerctl(*words, env=w.environ)


async def state_of(w, name):
    return {one.name: one.state for one in (await w.status()).sandboxes}.get(name)


async def test_a_suspended_machine_keeps_its_windows_and_refuses_at_once(tmp_path):
    file = tmp_path / "file"
    file.write_text("text")
    async with world({"app": record("persistent")}) as w:
        assert await w.window("app", "kept") == "app"
        answer = await called(w, "suspend", "app")
        assert (answer.code, answer.err) == (0, "suspended app\n")
        assert await state_of(w, "app") == "suspended"
        for words in (
            ("run", "app", "--", "true"),
            ("exec", "app", "--", "true"),
            ("cp", str(file), "app:"),
            ("open", "--in", "app", "https://example.org/"),
        ):
            answer = await called(w, *words)
            assert answer.code != 0, words
            assert "app is suspended" in answer.err, (words, answer)
            assert "brokerctl resume app" in answer.err, (words, answer)
        assert (await called(w, "suspend", "app")).code == 0
        await wait_window(w.comp, title="kept")

        async def running_again():
            # Its agent may have to find the broker again: its clock went on.
            return await state_of(w, "app") == "running"

        answer = await called(w, "resume", "app")
        assert (answer.code, answer.err) == (0, "resumed app\n")
        await eventually(running_again, deadline=60)
        assert await w.output("app", "echo", "again") == (0, b"again\n")
        await wait_window(w.comp, title="kept")
        # A stop resumes it: its guest ends in order, and its home is written.
        assert (await called(w, "suspend", "app")).code == 0
        await w.stop("app", grace=60)
        ended = await w.only_event("lease.end", sandbox="app")
        assert "stopped on request" in ended["reason"]
        kinds = [e["kind"] for e in w.events() if e["kind"].startswith("sandbox.")]
        assert kinds == [
            "sandbox.start",
            "sandbox.machine",
            *("sandbox.suspend", "sandbox.resume", "sandbox.suspend"),
            "sandbox.stop",
        ]


async def test_the_managers_buttons_suspend_and_resume(tmp_path):
    async with world({"app": record("persistent")}) as w:
        await w.window("app", "kept")
        async with keyboard(w), managed(w, tmp_path, "app") as env:
            await person(env, ("sees", "running"), ("sees", "Suspend app"))
            await reach(w, env, "Suspend app", tabs=8)
            await w.comp.type_text(" ")
            await person(env, ("focused", "Resume app"), ("misses", "Suspend app"))
            assert await state_of(w, "app") == "suspended"
            seen = await person(
                env, ("sees", "suspended"), ("press", "Sandboxes"), names=True
            )
            assert ["push button", "Suspend app"] not in seen
            await person(env, ("sees", "suspended"), ("sees", "Stop app"))
            bus = {"DBUS_SESSION_BUS_ADDRESS": env["DBUS_SESSION_BUS_ADDRESS"]}
            log = tmp_path / "second.log"
            async with manager({**w.environ, **bus}, log, "app") as second:
                assert await second.wait() == 0  # the page is in the first's window
            await person(env, ("press", "Resume app"), ("sees", "Suspend app"))
            await person(env, ("sees", "running"), ("misses", "suspended"))
        assert await w.output("app", "echo", "again") == (0, b"again\n")
        kinds = [e["kind"] for e in w.events() if e["kind"].startswith("sandbox.")]
        assert kinds[-2:] == ["sandbox.suspend", "sandbox.resume"]


async def test_a_box_says_why_it_cannot_be_suspended():
    words = ("run", "-q", "--bwrap", "--", "foot", "-T", "box", "sleep", "1000")
    async with world({}, image=False) as w, running(*words, env=w.environ):
        await wait_window(w.comp, title="box", deadline=90)
        (one,) = (await w.status()).sandboxes
        answer = await called(w, "suspend", one.name)
        assert answer.code == 1
        assert "only micro VMs that the broker starts can be suspended" in answer.err
        assert await state_of(w, one.name) == "running"
