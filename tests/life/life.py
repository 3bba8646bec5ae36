"""A broker that lives on: its desktop, its sandboxes, and what must still be there."""

from __future__ import annotations

import json
import os
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.helpers.process.spawn import run_tool
from tests.kit.brokerctl import Answer, brokerctl, running
from tests.kit.changing_machine import SMALL_DISK
from tests.kit.clipboard.person import Person
from tests.kit.notified import Screen, notification_server
from tests.kit.plain_guests import PlainGuest, plain
from tests.kit.sound.servers import Server, sound_server, tone
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import World, world

OPENS = "vitrail.OpenURL * @adminvm far "
RULES = f"""\
vitrail.ClipboardPaste * work personal allow
vitrail.Notification + chat @adminvm allow
vitrail.FileCopy * far @adminvm allow
{OPENS}allow
"""
RECORD = """\
class = "{kind}"
display = "allow"
[label]
colour = "orange"
[launch]
kind = "bwrap"
"""
RESIDENT = ("run", "-q", "notes", "--", "foot", "-T", "resident", "sleep", "100000")


@dataclass
class Life:
    """A broker, what its user has around it, and two guests that stay."""

    w: World
    sound: Server
    screen: Screen
    stack: AsyncExitStack
    tone: Path
    far: PlainGuest | None = None
    pid: int = 0
    """The broker's, which stays the same."""
    number: int = 0
    person: Person | None = None
    resident: Any = field(default=None, repr=False)

    def new(self, word: str) -> str:
        """A text that was not there before."""
        self.number += 1
        return f"{word}{self.number}"

    async def ctl(self, *words: str) -> Answer:
        """Run a verb that must succeed."""
        answer = await brokerctl(*words, env=self.w.environ)
        assert answer.code == 0, (words, answer)
        return answer

    async def outputs(self) -> dict[str, dict]:
        """The compositor's active screens by name."""
        argv = ["swaymsg", "--raw", "--type", "get_outputs"]
        said = await run_tool(argv, env=self.w.comp.environment)
        return {one["name"]: one for one in json.loads(said) if one["active"]}

    def editor(self, text: str) -> None:
        """Have the user's editor write this."""
        program = self.w.base / "editor"
        (self.w.base / "edited").write_text(text)
        program.write_text(f'#!/bin/sh\ncat {self.w.base}/edited > "$1"\n')
        program.chmod(0o755)

    async def begin_resident(self) -> None:
        """Start a window and a keyboard that stay until their compositor ends."""
        self.person = Person(self.w)
        self.resident = running(*RESIDENT, env=self.w.environ)
        await self.resident.__aenter__()
        await self.person.awake()
        await self.still_there()

    async def end_resident(self) -> None:
        await self.resident.__aexit__(None, None, None)
        self.person.keyboard.client.close()

    async def still_there(self) -> None:
        """The broker, the guest and the window are those of the beginning."""
        await wait_window(self.w.comp, title="] resident")
        assert await self.w.broker_pid() == self.pid
        code, said = await self.far.script("echo alive")
        assert (code, said) == (0, "alive\n")


@asynccontextmanager
async def life():
    """A broker whose state is on a small disk, with sound, notifications and rules."""
    async with AsyncExitStack() as stack:
        sound = await stack.enter_async_context(sound_server("pulseaudio"))
        extra = {
            "PULSE_SERVER": f"unix:{sound.socket}",
            "XDG_STATE_HOME": str(SMALL_DISK / "state"),
        }
        records = {
            name: RECORD.format(kind=kind)
            for name, kind in (("notes", "disposable"), ("chat", "persistent"))
        }
        opened = world(records, image=False, start=False, extra=extra)
        w = await stack.enter_async_context(opened)
        folder = w.paths.config[0] / "policy.d"
        folder.mkdir(parents=True)
        (folder / "30-mine.policy").write_text(RULES)
        served = notification_server(w.comp, w.environ)
        screen = await stack.enter_async_context(served)
        w.environ.update(screen.env)
        home = w.base / "person"
        home.mkdir()
        w.environ["HOME"] = str(home)
        w.environ["EDITOR"] = str(w.base / "editor")
        w.environ.pop("VISUAL", None)
        await w.start()
        made = Life(w, sound, screen, stack, tone(w.base / "tone.wav", 700, 1))
        made.pid = await w.broker_pid()
        async with plain(w, "far") as guests:
            made.far = guests["far"]
            out = made.far.folder / "opened"
            shows = f"sh -c 'echo $0 > {out}.new; mv {out}.new {out}' %u"
            made.far.opens("x-scheme-handler/https", shows)
            await made.begin_resident()
            try:
                yield made
            finally:
                await made.end_resident()
        answer = await brokerctl("stop", "--broker", env=w.environ)
        assert answer.code == 0, answer
        await screen.end()
        await w.comp.close()
        assert not os.path.exists(w.paths.control)
