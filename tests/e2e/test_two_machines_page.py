"""``docs/two-machines.md`` as a script: each of its blocks, in order, on two machines.

What the page leaves to the reader is here: the address of this lab's vsock, the codes that
are read from one screen and typed at the other, and what comes of it.  The viewer's machine
is started by the script and the unit of ``docs/migration.md``, which the page names.

Another release at the other end is ``test_two_releases.py``, whose VITRAIL_OLDER is the
tree of a real one; what the programs accept of the page's blocks is ``docs/test_two_machines.py``.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
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
from tests.kit.pages import DOCS, blocks, spans
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
    """1: the viewer's file is the page's; the host's has the form for hybrid vsock."""
    of_viewer, of_host, cid = play.section("1. Configure the link")
    await play.viewer.write(of_viewer.path, of_viewer.text)
    if isinstance(play.viewer, NearViewer):
        # The page: both name the same path.
        for machine, key in ((play.viewer, "listen"), (play.host, "connect")):
            text = f'{key} = "unix:{play.viewer.link}"\n'
            await machine.write(of_viewer.path, text)
        return
    (hybrid,) = (s for s in spans(PAGE) if s.startswith('connect = "hybrid:'))
    await play.host.write(of_host.path, play.host.here(hybrid) + "\n")
    # udev is not in this machine: 'with sudo before it'.
    (typed,) = cid.typed
    assert await play.viewer.root(typed.command) == f"{CID}\n"


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
    units, of_root = play.section("With systemd")
    for machine in (play.viewer, play.host):
        await machine.run("brokerctl stop --broker")
    await play.no_window()
    for machine in play.machines.values():
        await machine.install()
    for typed in units.typed:
        await play.type(typed)
    await play.link_is_up()
    return of_root


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


async def reboot(play, lease):
    """The compositor comes after the broker, which the host's attempt has started."""
    await play.viewer.reboot(late=True)
    await comes_back(play, lease, 0)
    # And of a program that is started now.
    await play.viewer.run(f"brokerctl exec -d {lease} -- foot -T after cat")
    await play.window("after")


async def power_cut(play, lease):
    await play.viewer.power_cut()
    return await comes_back(play, lease, 0)


async def broker_dies(play, machine, lease, window):
    """'When a process dies': the machine lives, the window comes again."""
    pid = json.loads(await machine.run("brokerctl status --json"))["pid"]
    await machine.run(f"kill -9 {pid}")
    window = await comes_back(play, lease, window)
    assert json.loads(await machine.run("brokerctl status --json"))["pid"] != pid
    return window


async def the_link_is_silent(play, lease, window):
    """The transport stops for more than a minute: said, cut, and made again."""
    vsock = play.host.of_the_viewer("vhost-device")
    os.kill(vsock, signal.SIGSTOP)
    try:
        said = await until(
            play.host, "brokerctl status | grep 'screen has sent nothing for'"
        )
        print(said)
        print(await until(play.host, "brokerctl status | grep '^link: [^u]'"))
    finally:
        os.kill(vsock, signal.SIGCONT)
    await comes_back(play, lease, window)


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


async def host_without_a_user(play, block):
    """The system's unit, as root of the viewer's machine, which has no broker then."""
    (typed,) = block.typed
    viewer = play.viewer
    await viewer.run("systemctl --user stop vitrail-viewer-link.socket")
    (useradd,) = (s for s in spans(PAGE) if s.startswith("useradd "))
    await viewer.root(useradd)
    await viewer.guest.write(
        "/etc/vitrail/link.toml", 'connect = "vsock:2:6499"\n', user="root"
    )
    # The image has no sudo(8).
    sudo = '#!/bin/sh\nshift; u=$1; shift; exec setpriv --reuid $u --regid $u --init-groups "$@"\n'
    await viewer.program("sudo", sudo)
    units = "/etc/systemd/system"
    await viewer.root(
        f"cp /srv/broker/data/systemd/system/vitrail-host.service {units}/; "
        f"sed -i 's|^ExecStart=|ExecStart=/usr/local/bin/|' {units}/vitrail-host.service; "
        "systemctl daemon-reload; systemctl start vitrail-host.service"
    )
    assert "not paired" in await viewer.root(typed.command)


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
        of_root = await with_systemd(play)
    async with play.stage("a program that is begun again"):
        lease, window = await begun_again(play)
    return of_root, lease, window


async def processes_die(play, lease, window):
    async with play.stage("kill of the viewer's broker"):
        window = await broker_dies(play, play.viewer, lease, window)
    async with play.stage("kill of the host's broker"):
        window = await broker_dies(play, play.host, lease, window)
    return window


async def test_both_on_one_machine(say):
    async with one_machine(say) as play:
        _, lease, window = await from_its_first_line(play)
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
            await play.viewer.reboot(late=False)
        async with play.stage("power cut"):
            await play.viewer.power_cut()


async def test_the_viewer_in_a_machine(say):
    async with two_machines(say) as play:
        async with play.stage("the viewer's machine"):
            await play.viewer.switch_on()
        of_root, lease, _ = await from_its_first_line(play)
        async with play.stage("reboot"):
            await reboot(play, lease)
        async with play.stage("power cut"):
            window = await power_cut(play, lease)
        window = await processes_die(play, lease, window)
        async with play.stage("silent link"):
            await the_link_is_silent(play, lease, window)
        async with play.stage("orderly ends"):
            await orderly_ends(play)
        async with play.stage("a host without a user"):
            await host_without_a_user(play, of_root)
        assert play.left == []


pytestmark = [
    pytest.mark.long,
    pytest.mark.alone,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not can_be_host(), reason="needs systemd and bubblewrap"),
]
