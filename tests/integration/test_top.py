"""``brokerctl top`` on a terminal of 80 columns, and its keys."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from contextlib import ExitStack, asynccontextmanager

import msgspec
import pytest
import trio

from broker.core import limits
from broker.ipc.control.api import (
    PendingQuestion,
    QuestionAnswerRequest,
    SandboxStatus,
    StopRequest,
    WindowCloseRequest,
    WindowStatus,
)
from tests.integration.test_attached import brokerctl as started
from tests.kit.brokerctl import brokerctl, paths_of
from tests.kit.control import ScriptedBroker, serving


def broker() -> ScriptedBroker:
    api = ScriptedBroker()
    sandbox = SandboxStatus(
        name="work",
        record="work",
        sandbox_class="persistent",
        label="work",
        color="#ff0000",
        state="running",
        since=time.time() - 10,
    )
    api.state = msgspec.structs.replace(api.state, sandboxes=[sandbox])
    api.shown = [
        WindowStatus(
            sandbox="work",
            window=1,
            title="[bold]my letter",
            app_id="x",
            width=1,
            height=1,
            focused=True,
        )
    ]
    return api


def question() -> PendingQuestion:
    return PendingQuestion(
        id=7,
        sandbox="work",
        service="vitrail.AudioInput",
        words="to hear the microphone",
        record="work",
        label="work",
        color="#ff0000",
        argument="+",
        targets=["@adminvm"],
        default_target="@adminvm",
        keeps=["once"],
        seconds=0,
        rule="a.policy:1",
        left=50.0,
        shown=False,
    )


async def test_once_for_programs(env):
    async with serving(paths_of(env).control, broker()):
        (shown,) = (await brokerctl("top", "--json", env=env)).objects
    (row,) = shown["rows"]
    assert (row["name"], row["windows"][0]["title"]) == ("work", "[bold]my letter")


class Person:
    """Someone in front of a terminal of 80 columns in which ``top`` runs."""

    def __init__(self, api, master, child):
        self.api, self.master, self.child = api, master, child
        self.raw = bytearray()

    def type(self, keys):
        os.write(self.master, keys)

    async def until(self, text):
        """Wait until this was drawn since the last call."""
        with trio.fail_after(60):
            while text not in _ESCAPES.sub("", self.raw.decode("utf-8", "replace")):
                await trio.lowlevel.wait_readable(self.master)
                self.raw.extend(os.read(self.master, 65536))

    async def asked(self, kind):
        """The requests of this kind, once there is one."""
        with trio.move_on_after(60):
            while not (found := [r for what, r in self.api.asked if what == kind]):
                with trio.move_on_after(0.2):
                    await trio.lowlevel.wait_readable(self.master)
                    self.raw.extend(os.read(self.master, 65536))
            return found
        text = _ESCAPES.sub("", self.raw.decode("utf-8", "replace"))
        raise AssertionError(f"no {kind} was asked for; the screen: {text[-3000:]!r}")

    async def answers(self, key):
        """Press a key of an answer until it counts: the question has just come."""
        with trio.fail_after(60):
            while not (found := [r for what, r in self.api.asked if what == "answer"]):
                self.type(key)
                with trio.move_on_after(2 * limits.PROMPT_GUARD_SECONDS):
                    return await self.asked("answer")
            return found

    async def leaves(self):
        """Wait for the end of ``top``; its exit code."""
        with trio.fail_after(60):
            while self.child.returncode is None:
                with trio.move_on_after(0.2):
                    await self.child.wait()
                while _ready(self.master):
                    self.raw.extend(os.read(self.master, 65536))
        return self.child.returncode


_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@asynccontextmanager
async def top(env, api):
    """``brokerctl top`` beside a broker, with a person, once it has drawn."""
    pytest.importorskip("textual")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    streams = {"stdin": slave, "stdout": slave, "stderr": slave}  # Textual draws on it
    environ = {**env, "TERM": "xterm-256color"}
    try:
        with ExitStack() as stack:
            async with serving(paths_of(env).control, api):
                child = stack.enter_context(started("top", env=environ, **streams))
                person = Person(api, master, child)
                for text in ("SANDBOX", "work", "[bold]my letter"):
                    await person.until(text)
                yield person
    finally:
        os.close(master)
        os.close(slave)


async def test_the_screen_and_its_keys(env):
    api = broker()
    api.questions = [question()]
    async with top(env, api) as person:
        await person.until("hear the microphone")
        (answer,) = await person.answers(b"d")
        assert answer == QuestionAnswerRequest(id=7, allow=False)
        person.type(b"s")
        await person.until("press s again")
        assert not [r for what, r in api.asked if what == "stop"]
        person.type(b"s")
        assert await person.asked("stop") == [StopRequest(sandbox="work")]
        person.type(b"q")
        assert await person.leaves() == 0


async def test_windows_answers_sound_and_logs_by_keys(env):
    api = broker()
    api.questions = [question()]
    # There is no sound server: the key says so, and marks nothing as muted.
    env["PULSE_SERVER"] = "unix:/nowhere"
    async with top(env, api) as person:
        await person.until("hear the microphone")
        person.type(b"k")
        assert await person.asked("close_window") == [
            WindowCloseRequest(sandbox="work", window=1)
        ]
        assert await person.answers(b"a") == [QuestionAnswerRequest(id=7, allow=True)]
        person.raw.clear()
        person.type(b"m")
        await person.until("sound")
        assert "(muted)" not in person.raw.decode("utf-8", "replace")
        person.raw.clear()
        person.type(b"l")
        await person.until("Press Enter to return")
        person.raw.clear()
        person.type(b"\r")
        await person.until("[bold]my letter")
        person.type(b"q")
        assert await person.leaves() == 0


def _ready(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])
