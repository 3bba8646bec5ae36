"""The mission's picture: host VM, viewer VM, application VM, over AF_VSOCK.

Three machines with three different CIDs.  The brokers run in two
of them as a user would start them, sway in the second; the test has a shell in
both, and no other way in.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import trio

from broker.net.link.keys import PinnedPeer
from broker.net.link.wire_types import HEADER, VERSION, Role
from tests.kit.link.three_machines import APP, HOST, PIECES, VIEWER, siblings
from tests.kit.vm.brokers import (
    CTL,
    PATIENCE,
    SCREEN,
    explained,
    pin,
    screenshot,
    set_up,
    start,
    start_sway,
    status,
    until_there,
)

RECORD = """\
class = "persistent"
display = "allow"
[label]
colour = "green"
"""
# The host reads how the machine is recognised, the viewer its permissions; that
# our own agent answers in there is the viewer's to know.
PEER = f"""\
[launch]
kind = "external"
[peer]
cid = {APP}
"""
(ITS_CID,) = re.findall(
    r"^ +viewer\$ +(python3 .*)$",
    (Path(__file__).parents[2] / "docs/two-machines.md").read_text(),
    re.MULTILINE,
)
RED = (0xCC, 0, 0)
TYPED = r' printf "\033]2;typed-in-%s\007" "$(uname -n)"'
# A stranger in the application's machine, whose CID is not the host's, says what
# a host would say first to the viewer's door.
HELLO = HEADER.pack(b"VTRL-CTL", VERSION, 1, Role.HOST) + bytes(range(72))
STRANGER = f"""
import socket
s = socket.socket(socket.AF_VSOCK)
s.settimeout(20)
try:
    s.connect(({VIEWER}, 6499))
    s.sendall(bytes.fromhex("{HELLO.hex()}"))
    print("heard", s.recv(1000))
except ConnectionError:
    print("heard b''")
"""


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.alone
async def test_an_applications_window_on_the_viewer_machines_screen():
    async with siblings() as (host, viewer, _app), explained(host, viewer):
        at_host = await set_up(
            host,
            f'connect = "vsock:{VIEWER}:6499"\npieces = {PIECES}\n',
            RECORD + PEER,
        )
        at_viewer = await set_up(
            viewer,
            f'listen = "vsock:any:6499"\npeer_cid = {HOST}\npieces = {PIECES}\n',
            RECORD,
        )
        # What the guide has people ask for the CID says it, to root without udev.
        assert await viewer.run(ITS_CID, user="root") == f"{VIEWER}\n"
        await pin(host, PinnedPeer("screen", Role.VIEWER, at_viewer))
        await pin(viewer, PinnedPeer("desk", Role.HOST, at_host))
        await start_sway(viewer)
        await start(viewer, "viewer")
        await start(host, "host")
        await host.run(
            f"setsid {CTL} lease acquire app --cid {APP} >/tmp/lease.log 2>&1 &"
        )
        await until_there(viewer, f"{CTL} audit --json | grep stream.opened")

        words = "foot -T far-away -o colors.background=cc0000 sh"
        await viewer.run(f"timeout 240 {CTL} run -d app -- {words}", env=SCREEN)
        await until_there(viewer, "swaymsg -t get_tree | grep far-away", env=SCREEN)
        with trio.fail_after(PATIENCE):
            while (await screenshot(viewer)).getpixel((320, 300)) != RED:
                await trio.sleep(0.5)

        # Keys typed on the viewer's screen act in the application's machine.
        # A keyboard that has just appeared loses its first keys.
        await until_there(
            viewer,
            f"wtype -s 3000 -- '{TYPED}\n'; sleep 1; "
            "swaymsg -t get_tree | grep typed-in-app",
            env=SCREEN,
        )

        there, here = await status(host), await status(viewer)
        assert (there["role"], here["role"]) == ("host", "viewer")
        assert there["link"]["epoch"] == here["link"]["epoch"]
        assert [lease["peer"] for lease in there["leases"]] == [f"cid {APP}"]
        services = {s["service"] for s in here["streams"]}
        assert services == {"vitrail.Agent", "vitrail.Display"}

        # Another machine's CID is unknown here: the viewer takes its host only,
        said = await viewer.run(
            f"{CTL} run -q --no-window app -- python3 -c {shlex.quote(STRANGER)}"
        )
        assert said.splitlines()[-1] == "heard b''"
        refused = await viewer.run(f"{CTL} audit --json | grep link.refused | tail -1")
        assert f"accepts connections only from CID {HOST}, not from {APP}" in refused
        # and the host takes who has a lease.
        await stranger(viewer, HOST, 6501)
        refused = await host.run(f"{CTL} audit --json | grep stream.refused | tail -1")
        assert f"cid {VIEWER}" in refused
        assert "no lease has this CID" in refused


async def stranger(guest, cid, port):
    """Connect there from that machine: an end or a reset, and not a byte.

    "Not connected" is a reset that came between its connecting and its reading.
    """
    code, said = await guest.try_run(
        f"socat -T 5 - VSOCK-CONNECT:{cid}:{port} </dev/null"
    )
    assert (code, said) == (0, "") or re.search("reset|not connected", said)
