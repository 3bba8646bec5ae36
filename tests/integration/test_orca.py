"""Orca reads the dialog: the words that it gives to its speech synthesiser."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager

import pytest
import trio

from broker.core import limits
from broker.core.question import Keep, PersonAnswer
from broker.helpers.process.spawn import DEVNULL, spawn
from tests.integration.test_asking import desk, of
from tests.kit.accessibility import accessibility_bus
from tests.kit.eventually import eventually
from tests.kit.needs import needs
from tests.kit.prompting import PHRASE
from tests.kit.speech import Speech, speech

pytestmark = [
    pytest.mark.slow,
    needs("orca", "orca"),
    needs("Xwayland", "xwayland"),
]
HOW = "Press Allow, or type the word allow. To deny, press Esc or Deny."


async def says(speaker: Speech, words: str) -> str:
    """Wait until it says something with these words, and return all of it."""

    async def look():
        return [spoken for spoken in speaker.spoken if words in spoken]

    try:
        return (await eventually(look, deadline=90))[-1]
    finally:
        print(*speaker.spoken, sep="\n")


@asynccontextmanager
async def orca(env):
    """Orca on that session, and its speech; 43 asks an X server for a keymap."""
    read, write = os.pipe()
    words = ["Xwayland", "-displayfd", str(write), "-noreset"]
    quiet = {"stdout": DEVNULL, "stderr": DEVNULL}
    children = [spawn(words, env=env, pass_fds=(write,), **quiet)]
    os.close(write)
    try:
        with trio.fail_after(60):
            number = await trio.to_thread.run_sync(
                os.read, read, 20, abandon_on_cancel=True
            )
        more = {"DISPLAY": f":{number.decode().strip()}", "GDK_BACKEND": "wayland"}
        async with speech() as (speaker, address):
            env = {**env, **more, **address}
            children.append(spawn(["orca", "--replace"], env=env, **quiet))
            await says(speaker, "Screen reader on")
            yield speaker
    finally:
        os.close(read)
        for child in reversed(children):
            await child.stop()


async def test_it_reads_the_question_and_the_choice(monkeypatch):
    async with accessibility_bus() as env:
        monkeypatch.setattr(limits, "QUESTION_SECONDS", 400.0)
        bus = env["DBUS_SESSION_BUS_ADDRESS"]
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus)
        async with desk() as d:
            screen = {**env, **d.hands.comp.environment, "HOME": env["HOME"]}
            async with orca(screen) as reader:
                d.ask(
                    "asked",
                    of(
                        "web",
                        words="to open an address",
                        details=(("host", "www.example.org"),),
                        targets=("banking", "work"),
                        default_target="work",
                        keeps=(Keep.ONCE, Keep.TIME),
                        seconds=600,
                    ),
                )
                first = await says(reader, "Vitrail asks about web")
                for words in (
                    "web wants to open an address.",
                    "The answer is for the host: www.example.org",
                    "Choose the target of the request:",
                    "The keys Up and Down choose: banking, work.",
                    "how long a yes lasts: once, for 10 minutes.",
                    "work, once: chosen.",
                ):
                    assert words in first
                await says(reader, f"work, once: chosen. {HOW}")
                d.hands.press("Up")
                await says(reader, f"banking, once: chosen. {HOW}")
                d.hands.press("Right")
                await says(reader, f"banking, for 10 minutes: chosen. {HOW}")
                d.hands.type("allow")
                (answer,) = await d.heard("asked")
                assert answer == PersonAnswer(
                    allow=True, target="banking", keep=Keep.TIME, by="person"
                )
                assert not any(PHRASE in said for said in reader.spoken)
