"""``docs/two-machines.md`` as a script: each of its blocks, in order, on two machines.

What the page leaves to the reader is here: the address of this lab's vsock, the codes that
are read from one screen and typed at the other, and what comes of it.
"""

from __future__ import annotations

import json
import re
import shlex
from contextlib import asynccontextmanager

import pytest

from tests.kit.link.page_machines import Viewer, can_be_host, the_host, until
from tests.kit.link.three_machines import Guest, lab
from tests.kit.pages import DOCS, blocks, spans
from tests.kit.wayland.compositor import windows
from tests.kit.wayland.typed_text import typing
from tests.kit.world import the_image

PAGE = DOCS / "two-machines.md"
CID = 42
KEYS = "/tmp/keyboard"


class Play:
    """The two machines, and what of the page has been played."""

    def __init__(self, lab, host, viewer):
        self.lab = lab
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

    async def shown(self):
        """The titles on the viewer's screen."""
        tree = json.loads(await self.viewer.run("swaymsg -t get_tree"))
        return [window["name"] for window in windows(tree)]

    async def window(self, title):
        """Wait until a window of the record is on the screen, by the end of its title."""
        name = rf'"name": "\[web-[0-9]+\] .*{title}"'
        await until(self.viewer, f"swaymsg -t get_tree | grep -E {shlex.quote(name)}")

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
    (hybrid,) = (s for s in spans(PAGE) if s.startswith('connect = "hybrid:'))
    place = f"hybrid:{play.lab.base}/viewer.vsock:"
    await play.host.write(of_host.path, re.sub("hybrid:.*:", place, hybrid) + "\n")
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
        " >/tmp/pair.log 2>&1 &"
    )
    await until(play.viewer, "grep 'waiting on' /tmp/pair.log")
    words = shlex.split(at_host.command)
    assert words.pop(0) == "brokerctl"
    async with typing(*words, env=play.host.environ) as here:
        codes = [await here.wait("this machine's code: ")]
        codes.append(await until(play.viewer, "grep 'machine.s code: ' /tmp/pair.log"))
        mine, theirs = (re.search(r"code: ([0-9 ]+)", line)[1] for line in codes)
        here.type(theirs)
        await play.viewer.run(f"echo {shlex.quote(mine)} >{KEYS}")
        assert await here.code() == 0
    await until(play.viewer, "grep 'ended 0' /tmp/pair.log")


async def first_window(play):
    """3 to 5: record, both brokers, a window, and one connection in both logs."""
    (record,) = play.section("3. Write the record on both")
    for machine in play.machines.values():
        await machine.write(record.path, record.text)
    (start,) = play.section("4. Start them")
    for typed in start.typed:
        await play.start(typed, f"{typed.machine}.log")
    await play.link_is_up()

    use, follow = play.section("5. Use it")
    run, status = use.typed
    await play.start(run, "run.log")
    await play.window("")
    said = await play.type(status)
    assert re.search(r"web-\d+", said), said

    connections, trace = follow.typed
    said = await play.type(connections)
    (number,) = re.findall(r"(?m)^.*vitrail\.Display.*$", said)
    print(number)
    await trace_over_both(play, trace, said)


async def trace_over_both(play, trace, connections):
    """'ssh host' of the page is a program that has the host's answer: no network here."""
    (theirs,) = re.findall(r"ssh host (.*?) \|", trace.command)
    await play.viewer.write("~/host.log", await play.host.run(theirs))
    script = f'#!/bin/sh\ntest "$*" = "host {theirs}" && cat ~/host.log\n'
    await play.viewer.guest.write("/usr/local/bin/ssh", script, user="root")
    await play.viewer.root("chmod 755 /usr/local/bin/ssh")
    number = number_on_the_link(connections)
    said = await play.viewer.run(trace.command.replace("trace 7", f"trace {number}"))
    print(said)
    assert "desk" in said
    assert "vitrail.Display" in said


def number_on_the_link(connections):
    """Of the connection of windows."""
    lines = [line for line in connections.splitlines() if "vitrail.Display" in line]
    return re.search(r"#?(\d+)", lines[0])[1]


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


AGAIN = "while :; do foot -T again cat; sleep 1; done"


async def reboot(play):
    """The window of a program that is begun again is there again, by nobody's hand."""
    words = f"brokerctl run -d web -- sh -c {shlex.quote(AGAIN)}"
    await play.viewer.run(words)
    await play.window("again")
    (lease,) = await play.leases()
    await play.viewer.reboot()
    await play.viewer.session()
    await play.window("again")
    assert await play.leases() == [lease]
    # And of a program that is started now.
    await play.viewer.run(f"brokerctl exec -d {lease} -- foot -T after cat")
    await play.window("after")


async def brokers_die(play):
    """'When a process dies': the machine lives, the window comes again."""
    (lease,) = await play.leases()
    for machine in (play.viewer, play.host):
        pid = json.loads(await machine.run("brokerctl status --json"))["pid"]
        await machine.run(f"kill -9 {pid}")
        await play.link_is_up()
        await play.window("again")
        assert await play.leases() == [lease]


async def the_link_is_silent(play):
    """The transport stops for more than a minute: said, cut, and made again."""
    play.lab.pause()
    await until(play.host, "brokerctl status | grep 'screen has sent nothing for'")
    await until(play.host, "brokerctl status | grep '^link: [^u]'")
    play.lab.resume()
    await play.link_is_up()
    await play.window("again")


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
async def two_machines():
    """Both, without anything of ours but the programs."""
    await the_image()
    async with lab() as made:
        guest = Guest(
            "viewer", CID, systemd=True, kept=True, memory=1536, devices=("-smp", "2")
        )
        await made.connect(guest)
        await made.boot(guest)
        viewer = Viewer(guest, made)
        async with the_host(made.base / "h") as host:
            await viewer.furnish()
            yield Play(made, host, viewer)


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
    await viewer.guest.write("/usr/local/bin/sudo", sudo, user="root")
    units = "/etc/systemd/system"
    await viewer.root(
        "chmod 755 /usr/local/bin/sudo; "
        f"cp /srv/broker/data/systemd/system/vitrail-host.service {units}/; "
        f"sed -i 's|^ExecStart=|ExecStart=/usr/local/bin/|' {units}/vitrail-host.service; "
        "systemctl daemon-reload; systemctl start vitrail-host.service"
    )
    assert "not paired" in await viewer.root(typed.command)


@pytest.mark.skipif(not can_be_host(), reason="needs systemd and bubblewrap")
async def test_the_page_from_its_first_line_to_its_last():
    async with two_machines() as play:
        await configure(play)
        await pair(play)
        await first_window(play)
        of_root = await with_systemd(play)
        await reboot(play)
        await brokers_die(play)
        await the_link_is_silent(play)
        await orderly_ends(play)
        await host_without_a_user(play, of_root)
        assert play.left == []


pytestmark = [pytest.mark.long, pytest.mark.alone, pytest.mark.timeout(1800)]
