"""Brokers and a compositor inside a test's machines, as a user would start them."""

from __future__ import annotations

import base64
import gzip
import io
import json
from contextlib import asynccontextmanager

import trio
from PIL import Image

from broker.net.link.keys import format_peers, take_public_key

CTL = "python3 -m broker.cli.app"
SWAY = {
    "WLR_BACKENDS": "headless",
    "WLR_RENDERER": "pixman",
    "WLR_LIBINPUT_NO_DEVICES": "1",
}
SCREEN = {"WAYLAND_DISPLAY": "wayland-1", "SWAYSOCK": "/run/user/vit/sway.sock"}
# An emulated CPU draws it, so it is small and slow.
SWAY_CONFIG = "default_border none\noutput * mode --custom 640x480@10Hz\n"
PEERS = "/run/vit/.local/state/vitrail/link/peers"


# An emulated machine beside others on a busy one is a hundred times slower than
# a machine: deadlines are for what never comes.
PATIENCE = 300


async def until_there(guest, command, deadline=PATIENCE, env=None):
    """Ask again until the command succeeds; returns its output."""
    output = ""
    with trio.move_on_after(deadline):
        while True:
            code, output = await guest.try_run(command, env=env)
            if code == 0:
                return output
            await trio.sleep(0.3)
    raise AssertionError(f"{guest.name}: never so: {command!r}; it said {output!r}")


async def set_up(guest, link, record, record_name="app"):
    """Configuration of one broker; returns its public key."""
    await guest.write("/run/vit/.config/vitrail/link.toml", link)
    records = "/run/vit/.config/vitrail/sandboxes.d"
    await guest.write(f"{records}/{record_name}.toml", record)
    (line,) = (await guest.run(f"{CTL} link key --json 2>/dev/null")).splitlines()
    return take_public_key(json.loads(line)["key"])


async def pin(guest, peer):
    path = PEERS
    await guest.write(path, format_peers([peer]))
    await guest.run(f"chmod 600 {path}")


async def status(guest):
    return json.loads(await guest.run(f"{CTL} status --json"))


async def start(guest, module):
    await guest.run(
        f"setsid python3 -m broker.programs.{module} >/tmp/broker.log 2>&1 &",
        env=SCREEN if module == "viewer" else {},
    )
    await until_there(guest, "grep ready /tmp/broker.log")


async def start_sway(guest):
    await guest.write("/run/vit/sway.conf", SWAY_CONFIG)
    await guest.run(
        "setsid sway -c /run/vit/sway.conf >/tmp/sway.log 2>&1 &",
        env={**SWAY, "SWAYSOCK": SCREEN["SWAYSOCK"]},
    )
    await until_there(guest, "test -S /run/user/vit/wayland-1")


async def screenshot(guest):
    """Return a screenshot of that machine."""
    said = await guest.run("grim -t ppm - | gzip -1 | base64 -w0", env=SCREEN)
    return Image.open(io.BytesIO(gzip.decompress(base64.b64decode(said))))


@asynccontextmanager
async def explained(*guests):
    """Print the logs of both brokers when the block fails."""
    try:
        yield
    except BaseException:
        with trio.CancelScope(shield=True), trio.move_on_after(60):
            for guest in guests:
                for command in (
                    "cat /tmp/broker.log /tmp/lease.log",
                    f"{CTL} audit | tail -15",
                    f"{CTL} status",
                ):
                    print(f"--- {guest.name}: {command}")
                    print((await guest.try_run(command))[1])
        raise
