"""A broker that lives on: its desktop, its sandboxes, and what must still be there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from broker.helpers.process.spawn import Child, run_tool
from tests.kit.brokerctl import Answer, brokerctl, running
from tests.kit.changing_machine import SMALL_DISK
from tests.kit.clipboard.person import Person
from tests.kit.far_network import HOME, PORT, Net
from tests.kit.notified import Screen, notification_server
from tests.kit.plain_guests import PlainGuest, plain
from tests.kit.podman import SHARED, podman_settings, root_directory
from tests.kit.shifted_clock import ShiftedClock, lacks_clock
from tests.kit.sound.servers import Server, sound_server, tone
from tests.kit.two_versions import InstalledPackage, lacks_dpkg
from tests.kit.wayland.compositor import short_directory, wait_window
from tests.kit.world import World, record, world

OPENS = "vitrail.OpenURL * @adminvm far "
RULES = f"""\
vitrail.Network +*.good.test * @net allow port={PORT} protocol=tcp
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
RECORDS = (
    ("notes", "disposable", ""),
    ("chat", "persistent", ""),
    ("site", "disposable", 'network = "rules"\n'),
)
RESIDENT = ("run", "-q", "notes", "--", "foot", "-T", "resident", "sleep", "100000")
STAYS = ("sleep", "100000")
OLD_BOX = "net"
FETCH = f"""\
import socket
def fetched(host):
    try:
        with socket.create_connection((host, {PORT}), 10) as sock:
            return sock.recv(100).decode()
    except OSError as error:
        return f"error: {{error}}"
"""
_FETCH_WHEN_ASKED = """\
import sys, time
asked = ""
while True:
    time.sleep(0.2)
    try:
        now = open(f"{sys.argv[1]}/ask").read()
    except FileNotFoundError:
        continue
    if now != asked:
        asked = now
        print(fetched(now), flush=True)
"""
MACHINE, CONTAINER = "machine", "container"
BOOT_SECONDS = 240


@dataclass
class OldBox:
    """A box with a network by rules whose program looks names up when it is asked."""

    folder: Path
    said: trio.lowlevel.FdStream | None = None

    def record(self) -> str:
        text = RECORD.format(kind="persistent")
        return f'{text}network = "rules"\nbind_read_only = ["{self.folder}"]\n'

    async def fetched(self, host: str) -> str:
        """Have it look a name up and connect there; return the answer, or the error."""
        new = self.folder / "new"
        new.write_text(host)
        new.rename(self.folder / "ask")
        data = b""
        with trio.fail_after(60):
            while not data.endswith(b"\n"):
                data += await self.said.receive_some()
        return data.decode().strip()


@dataclass
class Life:
    """A broker, what its user has around it, and two guests that stay."""

    w: World
    sound: Server
    screen: Screen
    stack: AsyncExitStack
    tone: Path
    clock: ShiftedClock | None
    package: InstalledPackage | None
    old_box: OldBox
    has_machine: bool
    has_container: bool
    net: Net = HOME
    """The network in which the machine is."""
    name_server: str = HOME.router
    far: PlainGuest | None = None
    pid: int = 0
    """The broker's, which stays the same."""
    number: int = 0
    person: Person | None = None
    resident: Any = field(default=None, repr=False)
    shows_resident: Child | None = None

    def new(self, word: str) -> str:
        """A text that was not there before."""
        self.number += 1
        return f"{word}{self.number}"

    async def ctl(self, *words: str, deadline: float = 60) -> Answer:
        """Run a verb that must succeed."""
        answer = await brokerctl(*words, env=self.w.environ, deadline=deadline)
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
        self.shows_resident = await self.resident.__aenter__()
        await self.person.awake()
        await self.still_there()

    async def end_resident(self) -> None:
        await self.resident.__aexit__(None, None, None)
        self.person.keyboard.client.close()

    @asynccontextmanager
    async def an_old_box(self):
        """Have it run for as long as the block does."""
        program = FETCH + _FETCH_WHEN_ASKED
        words = ("run", "-q", OLD_BOX, "--", "/usr/bin/python3", "-c", program)
        words += (str(self.old_box.folder),)
        async with running(*words, env=self.w.environ) as child:
            fd = os.dup(child.popen.stdout.fileno())
            async with trio.lowlevel.FdStream(fd) as self.old_box.said:
                yield

    @asynccontextmanager
    async def a_machine(self):
        """Have the micro VM run for as long as the block does."""
        words = ("run", "-q", MACHINE, "--", *STAYS)
        async with running(*words, env=self.w.environ):
            await self.w.wait_event("lease.begin", BOOT_SECONDS, sandbox=MACHINE)
            yield

    async def new_machine(self) -> None:
        """Stop the micro VM and start it anew, as a user does."""
        await self.ctl("stop", MACHINE)
        await self.stack.enter_async_context(self.a_machine())

    async def still_there(self) -> None:
        """The broker, the guest and the window are those of the beginning."""
        title, child = "] resident", self.shows_resident
        await wait_window(self.w.comp, title=title, of=child)
        assert await self.w.broker_pid() == self.pid
        code, said = await self.far.script("echo alive")
        assert (code, said) == (0, "alive\n")


@asynccontextmanager
async def life(*, machine: bool = False):
    """A broker whose state is on a small disk, with sound, notifications and rules.

    It is that of a package, with a clock that can be set.  ``machine``: a micro VM stays,
    too.
    """
    async with AsyncExitStack() as stack:
        sound = await stack.enter_async_context(sound_server("pulseaudio"))
        place = stack.enter_context(short_directory())
        extra = {
            "PULSE_SERVER": f"unix:{sound.socket}",
            "XDG_STATE_HOME": str(SMALL_DISK / "state"),
        }
        clock = None if lacks_clock() else ShiftedClock(place)
        package = None if lacks_dpkg() else InstalledPackage(place)
        for one in filter(None, (clock, package)):
            extra |= one.environ
        records = {
            name: RECORD.format(kind=kind) + more for name, kind, more in RECORDS
        }
        if not lacks_podman():
            extra |= await stack.enter_async_context(podman_settings())
            records[CONTAINER] = _container(place / "container")
        old_box = OldBox(place / "asked")
        old_box.folder.mkdir()
        records[OLD_BOX] = old_box.record()
        if machine:
            records[MACHINE] = record("persistent")
        opened = world(records, image=False, start=False, extra=extra)
        w = await stack.enter_async_context(opened)
        w.write_rules(RULES)
        served = notification_server(w.comp, w.environ)
        screen = await stack.enter_async_context(served)
        w.environ.update(screen.env)
        home = w.base / "person"
        home.mkdir()
        w.environ["HOME"] = str(home)
        w.environ["EDITOR"] = str(w.base / "editor")
        w.environ.pop("VISUAL", None)
        sounds = tone(w.base / "tone.wav", 700, 1)
        made = Life(
            *(w, sound, screen, stack, sounds, clock, package, old_box),
            machine,
            CONTAINER in records,
        )
        await made.ctl("run", "-q", "--bwrap", "--", "true")  # which starts the broker
        made.pid = await w.broker_pid()
        async with plain(w, "far") as guests, made.an_old_box():
            made.far = guests["far"]
            out = made.far.folder / "opened"
            shows = f"sh -c 'echo $0 > {out}.new; mv {out}.new {out}' %u"
            made.far.opens("x-scheme-handler/https", shows)
            if machine:
                await stack.enter_async_context(made.a_machine())
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


def _container(place: Path) -> str:
    """The record of a container whose programs are this machine's."""
    shared = ", ".join(f'"{path}"' for path in SHARED if Path(path).exists())
    text = RECORD.format(kind="disposable").replace("bwrap", "podman")
    text += f'rootfs = "{root_directory(place)}"\n'
    return f"{text}bind_read_only = [{shared}]\n"


def lacks_podman() -> str:
    """Return what containers need and this machine has not."""
    missing = [one for one in ("podman", "newuidmap") if not shutil.which(one)]
    if not (shutil.which("runc") or shutil.which("crun")):
        missing.append("runc")
    if missing:
        return f"not installed: {' '.join(missing)}"
    words = ["unshare", "--user", "--map-auto", "--map-root-user", "true"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""
