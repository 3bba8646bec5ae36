"""PipeWire with cameras of a pattern, and programs that take pictures of one."""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.core.errors import UpstreamError
from broker.helpers.process.spawn import DEVNULL, PIPE, run_tool, spawn
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.wayland.compositor import short_directory

ROOT = Path(__file__).parents[2]
NEEDED = ("pipewire", "wireplumber", "pw-dump", "gst-launch-1.0", "dbus-daemon")
CAMERA = """
import signal, subprocess, sys
from shims.files.video_node import VideoNode
properties, pattern, width, height = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
form = f"video/x-raw,format=I420,width={width},height={height},framerate=30/1"
words = ["videotestsrc", "is-live=true", f"pattern={pattern}", "!", form, "!", "fdsink"]
if pattern == "none":  # it is offered, and has no picture
    node = VideoNode(properties, width, height, 30)
    signal.pause()
made = subprocess.Popen(["gst-launch-1.0", "-q", *words], stdout=subprocess.PIPE)
node, number = VideoNode(properties, width, height, 30), 0
while picture := made.stdout.read(width * height * 3 // 2):
    if pattern == "black" and node.wanted:  # the brightness counts those of a program
        number += 1
        picture = bytes([min(16 + number, 235)]) * len(picture)
        print(number, flush=True)
    node.show(picture)
"""
CLIENT = """
import os, sys
from jeepney import DBusAddress, MatchRule, new_method_call
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection
bus = open_dbus_connection(enable_fds=True, auth_timeout=60)
place = "/org/freedesktop/portal/desktop"
camera = DBusAddress(place, "org.freedesktop.portal.Desktop", "org.freedesktop.portal.Camera")
rule = MatchRule(type="signal", interface="org.freedesktop.portal.Request", member="Response")
bus.send_and_get_reply(message_bus.AddMatch(rule))
with bus.filter(rule) as answers:
    asked = bus.send_and_get_reply(new_method_call(camera, "AccessCamera", "a{sv}", ({},)))
    if not asked.body[0].startswith("/"):
        sys.exit(" ".join(map(str, asked.body)))
    code = bus.recv_until_filtered(answers).body[0]
print("access", code, flush=True)
given = bus.send_and_get_reply(new_method_call(camera, "OpenPipeWireRemote", "a{sv}", ({},)))
fd = given.body[0].to_raw_fd()
os.set_inheritable(fd, True)
words = ["gst-launch-1.0", "-q", "pipewiresrc", f"fd={fd}", "do-timestamp=true", *sys.argv[1:]]
import subprocess
# Its bus keeps the camera for it.
sys.exit(subprocess.call(["setpriv", "--pdeathsig", "TERM", *words], close_fds=False))
"""


def needs_cameras() -> None:
    """Skip where something is not installed."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)}")


def _env(env):
    path = os.pathsep.join((str(ROOT), *(p for p in sys.path if p)))
    return {**os.environ, **env, "PYTHONPATH": path}


async def nodes(env):
    """Return the properties of all nodes, and their states."""
    try:
        dump = await run_tool(["pw-dump"], env=_env(env), output_limit=1 << 24)
    except UpstreamError:
        return []  # no server, or not yet
    # An object that goes meanwhile is a list of its own.
    lists = dump.decode().replace("\n]\n[", "\n]\0[").split("\0")
    objects = {one["id"]: one for part in lists for one in json.loads(part)}
    return [
        {**one["info"]["props"], "state": one["info"]["state"], "id": number}
        for number, one in objects.items()
        if one.get("type") == "PipeWire:Interface:Node" and one.get("info")
    ]


async def node(env, name):
    """Return the node of a name, or None."""
    found = [one for one in await nodes(env) if one.get("node.name") == name]
    return found[0] if found else None


async def stands_still(env, name):
    """Whether nobody takes pictures of a node: PipeWire sees it after a process's end."""
    found = await node(env, name)
    return found is not None and found["state"] != "running"


@asynccontextmanager
async def pipewire(env):
    """Run a PipeWire and its session manager for programs of ``env``."""
    needs_cameras()
    children = []
    try:
        for program, there in (("pipewire", "Dummy-Driver"), ("wireplumber", "")):
            words = {"env": _env(env), "stdout": DEVNULL, "stderr": DEVNULL}
            children.append(spawn([program], **words))
            if there:
                await eventually(lambda: node(env, "Dummy-Driver"))
        yield
    finally:
        for child in reversed(children):
            await child.stop()


@asynccontextmanager
async def camera(env, name="webcam", pattern="smpte", size=(1280, 720), role="Camera"):
    """A camera that shows a pattern of videotestsrc."""
    properties = (
        f"media.class=Video/Source media.role={role} node.name={name} "
        f'node.description="Camera {name}"'
    )
    words = [sys.executable, "-c", CAMERA, properties, pattern, *map(str, size)]
    out = PIPE if pattern == "black" else DEVNULL
    child = spawn(words, env=_env(env), stdout=out, stderr=DEVNULL)
    try:
        await eventually(lambda: node(env, name))
        yield child
    finally:
        await child.stop()
        if child.popen.stdout is not None:
            child.popen.stdout.close()


@asynccontextmanager
async def own_pipewire(monkeypatch):
    """A session with a bus and PipeWire, which is this process's own, too."""
    with short_directory() as base:
        env = {"XDG_RUNTIME_DIR": str(base)}
        env["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={base}/bus"
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        words = ["dbus-daemon", "--session", "--nofork", "--nopidfile"]
        address = f"--address=unix:path={base}/bus"
        bus = spawn([*words, address], env=_env(env), stdout=DEVNULL, stderr=DEVNULL)
        try:
            await eventually(lambda: takes_connections(base / "bus"))
            async with pipewire(env):
                yield env
        finally:
            await bus.stop()


def portal_client(guest, *words, stdout=DEVNULL):
    """Start a program of a guest that takes pictures by the portal, with GStreamer."""
    argv = [sys.executable, "-c", CLIENT, *words]
    return spawn(argv, env=_env(guest.env), stdout=stdout)
