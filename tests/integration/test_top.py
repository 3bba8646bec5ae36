"""``brokerctl top`` on a terminal of 80 columns, and its keys."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest
import trio

from broker.control.api import (
    PendingQuestion,
    QuestionAnswerRequest,
    SandboxStatus,
    StopRequest,
    WindowStatus,
)
from tests.integration.test_attached import brokerctl as started
from tests.kit.brokerctl import brokerctl, home, paths_of
from tests.kit.control import ScriptedBroker, serving


@pytest.fixture
def env() -> Iterator[dict[str, str]]:
    with home() as env:
        yield env


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


async def test_the_screen_and_its_keys(env):
    pytest.importorskip("textual")
    api = broker()
    api.questions = [question()]
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    raw = bytearray()

    async def until(text):
        with trio.fail_after(60):
            while text not in re.sub(
                r"\x1b\[[0-9;?]*[a-zA-Z]", "", raw.decode("utf-8", "replace")
            ):
                await trio.lowlevel.wait_readable(master)
                raw.extend(os.read(master, 65536))

    async def asked(kind):
        with trio.fail_after(60):
            while not (found := [r for what, r in api.asked if what == kind]):
                with trio.move_on_after(0.2):
                    await trio.lowlevel.wait_readable(master)
                    raw.extend(os.read(master, 65536))
        return found

    with ExitStack() as stack:
        async with serving(paths_of(env).control, api):
            child = stack.enter_context(
                started(
                    "top",
                    env={**env, "TERM": "xterm-256color"},
                    stdin=slave,
                    stdout=slave,
                    stderr=slave,  # where Textual draws
                )
            )
            for text in ("SANDBOX", "work", "[bold]my letter", "hear the microphone"):
                await until(text)
            os.write(master, b"d")
            (answer,) = await asked("answer")
            assert answer == QuestionAnswerRequest(id=7, allow=False)
            os.write(master, b"s")
            await until("press s again")
            assert not [r for what, r in api.asked if what == "stop"]
            os.write(master, b"s")
            assert await asked("stop") == [StopRequest(sandbox="work")]
            os.write(master, b"q")
            with trio.fail_after(60):
                while child.returncode is None:
                    with trio.move_on_after(0.2):
                        await child.wait()
                    while trio.lowlevel and _ready(master):
                        raw.extend(os.read(master, 65536))
            assert child.returncode == 0
    os.close(master)
    os.close(slave)


def _ready(fd: int) -> bool:
    import select

    return bool(select.select([fd], [], [], 0)[0])
