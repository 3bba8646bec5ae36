"""Programs of sandboxes use the desktop's camera: PipeWire on both sides.

The guests are processes, so that no machine is booted.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from PIL import Image

from broker.helpers.process.spawn import PIPE
from tests.integration.test_printing import answered
from tests.kit.brokerctl import brokerctl
from tests.kit.cameras import camera, node, pipewire, portal_client, stands_still
from tests.kit.eventually import eventually
from tests.kit.guest_notifications import bus_of, notifying
from tests.kit.needs import requires

pytestmark = requires("waypipe", "mako", "dbus-daemon", "pipewire")
RULES = "vitrail.Camera + work @adminvm allow\n"


@asynccontextmanager
async def seeing(rules=RULES):
    async with (
        notifying(rules, "work", "personal") as (w, screen, guests),
        pipewire(screen.env),
        camera(screen.env),
        bus_of(guests["work"]),
        bus_of(guests["personal"]),
    ):
        yield w, screen, guests["work"], guests["personal"]


def picture_in(folder):
    """The newest whole picture of a program, or None."""
    found = sorted(folder.glob("*.png"), key=lambda file: file.stat().st_mtime)
    return found[-2] if len(found) > 1 else None


def is_coloured(path):
    """Whether it shows the bars of SMPTE: red is the sixth of seven."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    red, green, blue = image.getpixel((width * 11 // 14, height // 2))
    return red > 120 and green < 60 and blue < 60


async def test_a_program_of_the_portal_sees_the_camera_until_it_is_taken_back(tmp_path):
    async with seeing() as (w, screen, work, personal):
        words = ("!", "videoconvert", "!", "pngenc", "!", "multifilesink")
        sink = (*words, f"location={tmp_path}/%05d.png", "max-files=4")
        client = portal_client(work, *sink)
        try:
            await eventually(
                lambda: (p := picture_in(tmp_path)) and is_coloured(p), deadline=60
            )
            # It is shown, and on record.
            await screen.one_with("work uses your camera")
            assert len(w.events("camera.on", sandbox="work")) == 1
            said = await brokerctl("status", "work", env=w.environ)
            assert "camera:work" in said.out
            # Taken back: black, and no camera is open.
            words = ("device", "detach", "camera:work")
            assert (await brokerctl(*words, env=w.environ)).code == 0
            assert len(w.events("camera.off", sandbox="work")) == 1
            await eventually(lambda: stands_still(screen.env, "webcam"))
            await eventually(lambda: (p := picture_in(tmp_path)) and not is_coloured(p))
        finally:
            await client.stop()
        # No rule: no camera.
        denied = portal_client(personal, "!", "fakesink", stdout=PIPE)
        with denied.popen.stdout:
            assert await denied.wait() == 1
        assert not w.events("camera.on", sandbox="personal")


@pytest.mark.parametrize("end", ["rule", "lockdown"])
async def test_the_camera_ends_with_the_rule_and_in_a_lockdown(end):
    async with seeing() as (w, screen, work, _personal):
        client = portal_client(work, "!", "videoconvert", "!", "fakesink")
        try:
            await w.wait_event("camera.on", sandbox="work")

            async def runs():
                found = await node(screen.env, "webcam")
                return found is not None and found["state"] == "running"

            await eventually(runs)
            if end == "rule":
                (w.paths.config[0] / "policy.d" / "30-mine.policy").write_text("")
            else:
                assert (await brokerctl("lockdown", env=w.environ)).code == 0
            await w.wait_event("camera.off", sandbox="work")
            await eventually(lambda: stands_still(screen.env, "webcam"))
        finally:
            await client.stop()


async def test_a_sandbox_sees_nothing_before_the_answer():
    async with seeing("vitrail.Camera + work @adminvm ask\n") as (w, _screen, work, _):
        client = portal_client(work, "!", "videoconvert", "!", "fakesink")
        try:
            found = await answered(w, "allow")
            assert "to use your camera" in found["words"]
            await w.wait_event("camera.on", sandbox="work")
            asked = await w.only_event("question.answered", sandbox="work")
            seen = await w.only_event("camera.on", sandbox="work")
            assert asked["sequence"] < seen["sequence"]
        finally:
            await client.stop()


def servers_of(guest):
    """The sound and video servers that were started in a guest."""
    found = []
    mine = f"XDG_RUNTIME_DIR={guest.env['XDG_RUNTIME_DIR']}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            name = (place / "comm").read_text(errors="replace").strip()
            known = name in {"pipewire", "wireplumber"}
            if known and mine in (place / "environ").read_bytes().split(b"\0"):
                found.append(name)
    return sorted(found)


async def test_what_the_portal_has_started_ends_with_it():
    async with (
        notifying(RULES, "work") as (w, screen, guests),
        pipewire(screen.env),
        camera(screen.env),
    ):
        work = guests["work"]
        async with bus_of(work):
            client = portal_client(work, "!", "videoconvert", "!", "fakesink")
            await w.wait_event("camera.on", sandbox="work")
            assert servers_of(work) == ["pipewire", "wireplumber"]
        # The portal has lost its bus; the program has gone on.
        await eventually(lambda: not servers_of(work))
        await w.wait_event("camera.off", sandbox="work")
        await client.stop()
