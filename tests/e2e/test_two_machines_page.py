"""``docs/two-machines.md`` as a script: its blocks in order, with systemd at both ends.

What the page leaves to the reader is here: the codes that are read from one screen and
typed at the other, and what comes of it.  Host and viewer are on this machine, each with a
home and a systemd; what asks for the machine's CID and the host without a user are left out.
A viewer's machine is started by the script and the unit of ``docs/from-socat.md``, which the
page names, without brokers: emulated, they take minutes.

Another release at the other end is ``test_two_releases.py``, whose VITRAIL_OLDER is the
tree of a real one; what the programs accept of the page's blocks is ``docs/test_two_machines.py``.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.kit.eventually import eventually
from tests.kit.link.page_machines import (
    Host,
    NearViewer,
    Viewer,
    can_be_host,
    logged_in,
    stage,
    until,
)
from tests.kit.link.three_machines import Guest, lab
from tests.kit.pages import DOCS, blocks
from tests.kit.wayland.compositor import edges, short_directory, windows
from tests.kit.wayland.typed_text import typing
from tests.kit.world import the_image

PAGE = DOCS / "two-machines.md"
CID = 42
KEYS = "~/keyboard"
GREEN = (0, 158, 115)
# Emulated, beside others' machines on a busy machine.
SLOWLY = "[launch]\nboot_deadline = 600\n"


class Play:
    """The two machines, and what of the page has been played."""

    def __init__(self, host, viewer, say):
        self.part = ""
        self._say = say
        self.host = host
        self.viewer = viewer
        self.machines = {"host": host, "viewer": viewer}
        self._blocks = [b for b in blocks(PAGE) if b.typed or b.is_settings]

    def section(self, heading):
        """The next blocks, which are all those of this heading."""
        found = []
        while self._blocks and self._blocks[0].heading == heading:
            found.append(self._blocks.pop(0))
        assert found, f"the page has nothing more under {heading!r}"
        return found

    @property
    def left(self):
        """What nobody has played yet."""
        return self._blocks

    async def type(self, typed):
        """Run a command of the page, to its end."""
        return await self.machines[typed.machine].run(typed.command)

    async def start(self, typed, log):
        """Run a command of the page as in another terminal."""
        await self.machines[typed.machine].run(
            f"setsid {typed.command} >~/{log} 2>&1 </dev/null &"
        )

    async def window(self, title, *, after=0):
        """Wait until a window of the record is on the screen, in its frame.

        ``title``: the end of it; ``after``: the window that was there before.  Returns its id.
        """

        async def look():
            tree = json.loads(await self.viewer.run("swaymsg -t get_tree"))
            for window in windows(tree):
                name = window["name"] or ""
                if (
                    re.fullmatch(rf"\[web-\d+\] .*{title}", name)
                    and window["id"] > after
                ):
                    picture = (await self.viewer.picture()).convert("RGB")
                    self.keep(picture)
                    if edges(picture, window, 4) == {GREEN}:
                        return window["id"]
            await trio.sleep(2)  # an emulated machine that is asked does nothing else
            return 0

        return await eventually(look, deadline=math.inf)

    def keep(self, picture):
        """For people, in ``$VITRAIL_OUT``."""
        if out := os.environ.get("VITRAIL_OUT"):
            folder = Path(out) / "two-machines-page"
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{self.part.replace(' ', '-')}.png")

    def stage(self, name):
        """A part of the page, with its deadline and the machines' words if it fails."""
        self.part = name
        return stage(name, self._say, self.machines.values())

    async def no_window(self):
        """Wait until the screen is empty."""

        await until(self.viewer, "! swaymsg -t get_tree | grep '\"app_id\"'")

    async def leases(self):
        """The sandboxes that the host has."""
        status = json.loads(await self.host.run("brokerctl status --json"))
        return [lease["sandbox"] for lease in status["leases"]]

    async def link_is_up(self):
        # First at the host: each look is work for an emulated machine that has enough.
        for machine in (self.host, self.viewer):
            await until(machine, "brokerctl status | grep '^link: up'")


async def configure(play):
    """1: in the form for one machine, of which the page says that both name one path."""
    (of_viewer, of_host, _) = play.section("1. Configure the link")
    assert of_viewer.path == of_host.path
    for machine, key in ((play.viewer, "listen"), (play.host, "connect")):
        await machine.write(of_viewer.path, f'{key} = "unix:{play.viewer.link}"\n')


async def pair(play):
    """2: each code is typed at the other machine."""
    (block,) = play.section("2. Pair")
    at_viewer, at_host = block.typed
    assert (at_viewer.machine, at_host.machine) == ("viewer", "host")
    await play.viewer.run(
        f"mkfifo {KEYS}; (exec 3<>{KEYS}; {at_viewer.command} <&3; echo ended $?)"
        " >~/pair.log 2>&1 &"
    )
    await until(play.viewer, "grep 'waiting on' ~/pair.log")
    words = shlex.split(at_host.command)
    assert words.pop(0) == "brokerctl"
    async with typing(*words, env=play.host.environ) as here:
        codes = [await here.wait("this machine's code: ")]
        codes.append(await until(play.viewer, "grep 'machine.s code: ' ~/pair.log"))
        mine, theirs = (re.search(r"code: ([0-9 ]+)", line)[1] for line in codes)
        here.type(theirs)
        await play.viewer.run(f"echo {shlex.quote(mine)} >{KEYS}")
        assert await here.code() == 0
    await until(play.viewer, "grep 'ended 0' ~/pair.log")


async def first_window(play):
    """3 to 5: record, both brokers, a window, and one connection in both logs."""
    (record,) = play.section("3. Write the record on both")
    for machine in play.machines.values():
        await machine.write(record.path, record.text + SLOWLY)
    (start,) = play.section("4. Start them")
    for typed in start.typed:
        await play.start(typed, f"{typed.machine}.log")
    await play.link_is_up()

    use, follow = play.section("5. Use it")
    run, status = use.typed
    await play.start(run, "run.log")
    await play.window("")
    (lease,) = await play.leases()
    assert lease in await play.type(status)

    connections, trace = follow.typed
    assert "web-1234" in connections.command
    said = await play.viewer.run(connections.command.replace("web-1234", lease))
    print(said)
    (number,) = re.findall(r"(?m)^.*vitrail\.Display.*$", said)
    print(number)
    await trace_over_both(play, trace, said)


async def trace_over_both(play, trace, connections):
    """'ssh host' of the page is a program that has the host's answer: no network here."""
    (theirs,) = re.findall(r"ssh host (.*?) \|", trace.command)
    await play.viewer.write("~/host.log", await play.host.run(theirs))
    script = f'#!/bin/sh\ntest "$*" = "host {theirs}" && cat ~/host.log\n'
    await play.viewer.program("ssh", script)
    number = number_on_the_link(connections)
    said = await play.viewer.run(trace.command.replace("trace 7", f"trace {number}"))
    print(said)
    assert {line.split()[3] for line in said.splitlines()} == {"host", "viewer"}
    assert "vitrail.Display" in said


def number_on_the_link(connections):
    """Of the connection of windows."""
    lines = [line for line in connections.splitlines() if "vitrail.Display" in line]
    return re.search(r"#(\d+)", lines[0])[1]


async def with_systemd(play):
    """The units, in the place of what was started by hand."""
    units, _ = play.section("With systemd")
    for machine in (play.viewer, play.host):
        await machine.run("brokerctl stop --broker")
    await play.no_window()
    for machine in play.machines.values():
        await machine.install()
    for typed in units.typed:
        await play.type(typed)
    await play.link_is_up()


AGAIN = "while :; do foot -T again cat; sleep 5; done"


async def begun_again(play):
    """A program that is begun again; returns its sandbox and its window."""
    words = f"brokerctl run -d web -- sh -c {shlex.quote(AGAIN)}"
    await play.viewer.run(words)
    window = await play.window("again")
    (lease,) = await play.leases()
    return lease, window


async def comes_back(play, lease, window):
    """A window of it is there again, by nobody's hand, in the machine that lived on."""
    await play.link_is_up()
    window = await play.window("again", after=window)
    assert await play.leases() == [lease]
    return window


async def broker_dies(play, machine, lease, window):
    """'When a process dies': the machine lives, the window comes again."""
    pid = json.loads(await machine.run("brokerctl status --json"))["pid"]
    await machine.run(f"kill -9 {pid}")
    window = await comes_back(play, lease, window)
    assert json.loads(await machine.run("brokerctl status --json"))["pid"] != pid
    return window


async def orderly_ends(play):
    """The viewer's end leaves the machines, the host's does not."""
    await play.viewer.run("systemctl --user stop vitrail-viewer.service")
    assert await play.leases()
    await until(play.viewer, "systemctl --user is-active vitrail-viewer")
    await play.link_is_up()
    await play.host.run("systemctl --user stop vitrail-host.service")
    await play.no_window()
    await play.host.run("systemctl --user start vitrail-host.service")
    await play.link_is_up()
    assert await play.leases() == []


@asynccontextmanager
async def two_machines(say):
    """Both, without anything of ours but the programs."""
    await the_image()
    async with lab() as made, logged_in(Host(made.base / "h")) as host:
        guest = Guest("viewer", CID, systemd=True, kept=True)
        yield Play(host, Viewer(guest, made, host), say)


@asynccontextmanager
async def one_machine(say):
    """Host and viewer on this machine."""
    await the_image()
    with short_directory() as base:
        async with (
            logged_in(Host(base / "h")) as host,
            logged_in(NearViewer(base / "v")) as viewer,
        ):
            yield Play(host, viewer, say)


@pytest.fixture
def say(capsys):
    """Show a line of progress at once."""

    def now(line):
        with capsys.disabled():
            print(f"\n{line}", end="", flush=True)

    return now


async def from_its_first_line(play):
    """All that a person types, up to a program that is begun again."""
    async with play.stage("session"):
        await play.viewer.furnish()
    async with play.stage("link and pairing"):
        await configure(play)
        await pair(play)
    async with play.stage("first window"):
        await first_window(play)
    async with play.stage("with systemd"):
        await with_systemd(play)
    async with play.stage("a program that is begun again"):
        lease, window = await begun_again(play)
    return lease, window


async def processes_die(play, lease, window):
    async with play.stage("kill of the viewer's broker"):
        window = await broker_dies(play, play.viewer, lease, window)
    async with play.stage("kill of the host's broker"):
        window = await broker_dies(play, play.host, lease, window)
    return window


async def test_both_on_one_machine(say):
    async with one_machine(say) as play:
        lease, window = await from_its_first_line(play)
        await processes_die(play, lease, window)
        async with play.stage("orderly ends"):
            await orderly_ends(play)
        assert play.left == []


async def test_the_unit_starts_the_viewers_machine_again(say):
    """Without brokers: the test's own commands go by its vsock."""
    async with two_machines(say) as play:
        async with play.stage("the viewer's machine"):
            await play.viewer.switch_on()
        async with play.stage("its session"):
            await play.viewer.furnish()
        async with play.stage("reboot"):
            await play.viewer.reboot()
        async with play.stage("power cut"):
            await play.viewer.power_cut()


pytestmark = [
    pytest.mark.long,
    pytest.mark.alone,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not can_be_host(), reason="needs systemd and bubblewrap"),
]
