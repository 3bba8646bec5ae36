"""The same three over hybrid vsock: much data, and each of them killed.

This machine is the host, as one with Firecracker or Cloud Hypervisor would be:
its broker starts the application's VM and reaches the viewer's VM through a
UNIX socket of its VMM.  The viewer's broker, sway and a sound server run in
that VM.  Sibling mode (``test_three_machines``) notices no death; this does.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
from contextlib import asynccontextmanager

import pytest

from broker.cli.link.pairing import pinned
from broker.core.errors import UpstreamError
from broker.net.addresses import HybridEndpoint
from broker.net.endpoints import connect
from broker.net.link.keys import PinnedPeer
from broker.net.link.wire_types import Role
from broker.net.link_service.key_store import LinkStore
from tests.e2e.test_raw_audio import BULK
from tests.kit.eventually import eventually
from tests.kit.link.three_machines import VIEWER, Guest, lab
from tests.kit.link.two_brokers import make_side
from tests.kit.vm.brokers import (
    CTL,
    PATIENCE,
    SCREEN,
    explained,
    pin,
    set_up,
    start,
    start_sway,
    status,
    until_there,
)
from tests.kit.world import record, the_image

RECORD = record("persistent", top='audio = "raw"\n', launch="boot_deadline = 600\n")
LINK = 'listen = "vsock:any:6499"\n'
KEY = "/run/vit/.local/state/vitrail/link/identity.pem"
# In place of the sound server: repeats all bytes, and reports their digest at the end.
ECHO = """
import hashlib, os, socket
listener = socket.socket(socket.AF_UNIX)
os.makedirs("/run/user/vit/pulse", exist_ok=True)
listener.bind("/run/user/vit/pulse/native")
listener.listen(4)
print("listens", flush=True)
while True:
    conn, _ = listener.accept()
    heard = hashlib.sha256()
    try:
        while data := conn.recv(1 << 16):
            heard.update(data)
            conn.sendall(data)
    except OSError:
        pass
    print(heard.hexdigest(), flush=True)
    conn.close()
"""
_STILL_SECONDS = 75
RUN = f"timeout 800 {CTL} run"


class Three:
    """Host broker here, viewer's machine, and what both have."""

    def __init__(self, made, host, viewer):
        self.lab = made
        self.host = host
        self.viewer = viewer
        self.key = ""

    async def furnish(self):
        """A viewer's machine from its first boot to its broker."""
        own = await set_up(self.viewer, LINK, RECORD, record_name="work")
        if self.key:
            await self.viewer.write(KEY, self.key)
            await self.viewer.run(f"chmod 600 {KEY}")
        else:
            self.key = await self.viewer.run(f"cat {KEY}")
            pinned.pin(
                LinkStore(self.host.paths), PinnedPeer("screen", Role.VIEWER, own)
            )
        mine = LinkStore(self.host.paths).identity().public
        await pin(self.viewer, PinnedPeer("desk", Role.HOST, mine))
        await start_sway(self.viewer)
        await start(self.viewer, "viewer")

    async def agent_is_up(self):
        """The viewer has the sandbox, with its agent."""
        await self.host.wait_link(deadline=PATIENCE)
        await until_there(
            self.viewer,
            f'{CTL} status --json | grep -q \'"state": *"running"\'',
            env=SCREEN,
        )

    async def shows(self, title):
        """A new window comes up on the viewer's screen."""
        await self.viewer.run(
            f"{RUN} -d work -- foot -T {title} cat", env=SCREEN, deadline=900
        )
        await until_there(
            self.viewer, f"swaymsg -t get_tree | grep -q {title}", env=SCREEN
        )


@asynccontextmanager
async def three_machines():
    """All of them, with the application's first window on the viewer's screen."""
    await the_image()
    async with lab() as made:
        host = make_side(
            made.base / "h",
            None,
            "host",
            ["--connect", f"hybrid:{made.base}/viewer.vsock:6499"],
        )
        host.write_record("work", RECORD)
        viewer = Guest("viewer", VIEWER)
        await made.connect(viewer)
        await made.boot(viewer)
        three = Three(made, host, viewer)
        try:
            async with explained(viewer):
                await three.furnish()
                await host.start()
                await host.wait_link(deadline=PATIENCE)
                await three.shows("first")  # which starts the machine
                yield three
        finally:
            log = host.paths.state / "broker.log"
            print(log.read_text() if log.exists() else "no host's broker yet")
            if log.exists():
                await host.shutdown()


async def test_much_data_and_killed_brokers():
    async with three_machines() as three:
        await much_data(three)
        await survives(three, the_viewers_broker)
        await survives(three, the_hosts_broker)


async def test_the_viewers_machine_is_killed():
    async with three_machines() as three:
        await survives(three, the_viewer)


async def test_viewers_machine_that_stands_still_keeps_its_windows():
    """As a laptop's lid does it: longer than an answer may take, with dials meanwhile."""
    async with three_machines() as three:
        qemu = three.viewer.child.pid
        os.kill(qemu, signal.SIGSTOP)
        try:

            async def silent():
                problem = (await three.host.link()).problem
                match = re.search("has sent nothing for ([0-9]+) s", problem)
                return match and int(match[1]) > _STILL_SECONDS

            assert await eventually(silent, deadline=PATIENCE)
            endpoint = HybridEndpoint(three.lab.base / "viewer.vsock", 6499)
            with pytest.raises(UpstreamError, match="did not answer"):
                await connect(endpoint, deadline=1)
        finally:
            os.kill(qemu, signal.SIGCONT)

        async def answers():
            return not (await three.host.link()).problem

        assert await eventually(answers, deadline=PATIENCE)
        assert (await three.host.link()).epochs == 1
        await three.viewer.run("swaymsg -t get_tree | grep -q first", env=SCREEN)
        await three.shows("second")
        assert not three.host.events("link.down")


async def survives(three, death):
    """The application's machine does, and shows a window afterwards."""
    machine = await three.host.pid_of("QEMU")
    await death(three)
    await three.agent_is_up()
    assert await three.host.pid_of("QEMU") == machine, "it lives on"
    await three.shows(death.__name__)


async def much_data(three):
    """Every byte arrives, both ways, while a window is there."""
    viewer = three.viewer
    echo = f"setsid python3 -c {shlex.quote(ECHO)} >/tmp/echo.log 2>&1 &"
    await viewer.run(echo)
    await until_there(viewer, "grep -q listens /tmp/echo.log")
    said = await viewer.run(
        f"{RUN} -q --no-window work -- python3 -c {shlex.quote(BULK)}", env=SCREEN
    )
    heard = await until_there(viewer, "grep -v listens /tmp/echo.log")
    assert said.splitlines()[-1] == heard.strip()
    closed = await three.host.wait_event(
        "stream.closed", PATIENCE, service="vitrail.Audio"
    )
    assert closed["bytes_from_sandbox"] == closed["bytes_to_sandbox"] == 16 << 20


async def the_viewers_broker(three):
    """kill -9; its windows end with it, the host notices."""
    before = len(three.host.events("link.down"))
    pid = (await status(three.viewer))["pid"]
    await three.viewer.run(f"kill -9 {pid}")
    await more_link_downs(three, before)
    await start(three.viewer, "viewer")


async def the_hosts_broker(three):
    """kill -9; the viewer ends that host's windows."""
    await three.host.kill()
    await until_there(three.viewer, "! swaymsg -t get_tree | grep -q foot", env=SCREEN)
    await three.host.start()


async def the_viewer(three):
    """The whole machine, as if its power were cut; and another in its place."""
    before = len(three.host.events("link.down"))
    await three.lab.kill(three.viewer)
    await more_link_downs(three, before)

    async def cut():
        return not (await three.host.status()).streams

    assert await eventually(cut, deadline=PATIENCE)
    await three.lab.boot(three.viewer)
    await three.furnish()


async def more_link_downs(three, before):
    async def down():
        return len(three.host.events("link.down")) > before

    assert await eventually(down, deadline=PATIENCE)


pytestmark = [pytest.mark.long, pytest.mark.alone, pytest.mark.timeout(1800)]
