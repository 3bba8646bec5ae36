"""Programs of sandboxes see a screen of the desktop: the user chooses it there.

xdg-desktop-portal-wlr on sway, PipeWire on both sides; the guests are processes, so that
no machine is booted.
"""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from PIL import Image

from broker.helpers.process.spawn import PIPE, spawn
from tests.integration.test_printing import answered
from tests.kit.brokerctl import brokerctl
from tests.kit.cameras import pipewire
from tests.kit.eventually import eventually
from tests.kit.guest_notifications import bus_of, notifying
from tests.kit.needs import requires
from tests.kit.screen_casts import screen_portal, sharer
from tests.kit.wayland.compositor import pixels, wait_window, windows

pytestmark = requires("waypipe", "mako", "dbus-daemon", "pipewire")
RULES = "vitrail.ScreenShare + work @adminvm allow\n"
COLOUR = (0x00, 0x9E, 0x73)
REFUSED = 1


@asynccontextmanager
async def sharing(rules=RULES):
    async with (
        notifying(rules, "work", "personal") as (w, screen, guests),
        pipewire(screen.env),
        screen_portal(screen, w.base) as choice,
        bus_of(guests["work"]),
        bus_of(guests["personal"]),
    ):
        screen.personal = guests["personal"]
        yield w, screen, guests["work"], choice


def picture_in(folder):
    """The newest whole picture of a program, or None.

    A screen on which nothing moves may send a single one.
    """
    found = sorted(folder.glob("*.png"), key=lambda file: file.stat().st_mtime)
    for file in reversed(found):
        with suppress(OSError):  # it is being written
            return Image.open(file).convert("RGB")
    return None


def framed(image, left=0):
    """Whether a picture of the screen, 16:10, has the frame at all of its edges."""
    width, height = image.size
    places = [(left + 2, height // 2), (width - left - 3, height // 2)]
    # The middle of the upper edge has the row that says what the sandbox uses.
    places += [(width // 4, 2), (width // 2, height - 3)]
    near = [
        max(abs(a - b) for a, b in zip(image.getpixel(place), COLOUR, strict=True)) < 24
        for place in places
    ]
    assert len(set(near)) == 1, near
    return near[0]


def frame_of(screen):
    """The process that draws the frame on a desktop."""
    mine = f"WAYLAND_DISPLAY={screen.comp.display}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if b"broker.programs.tools.tool\0frame" in (
                place / "cmdline"
            ).read_bytes() and mine in (place / "environ").read_bytes().split(b"\0"):
                return int(place.name)
    raise AssertionError("no frame is drawn")


async def without_frame(screen):
    """Whether the desktop has been drawn without the frame and row of a share."""
    picture = (await pixels(screen.comp)).convert("RGB")
    colours = {colour for _, colour in picture.getcolors(1 << 24)}
    return not framed(picture) and COLOUR not in colours


async def test_a_program_sees_the_screen_that_the_user_has_chosen(tmp_path):
    async with sharing() as (w, screen, work, _choice):
        assert not framed(await pixels(screen.comp))
        client = sharer(work, tmp_path, stdout=PIPE)
        out = client.popen.stdout
        with out:
            # The rule allows it, and Vitrail asks before the desktop does.
            asked = await answered(w, "allow")
            assert asked["sandbox"] == "work"
            await eventually(lambda: picture_in(tmp_path))
            # It is in what the sandbox sees, too; 16:10 has borders there.
            assert framed(picture_in(tmp_path), left=(1920 - 1728) // 2)
            assert framed(await pixels(screen.comp))
            await screen.one_with("work sees your screen")
            event = await w.only_event("screen.on", sandbox="work")
            seen = event.get("shows", "screen"), event["width"], event["height"]
            assert seen == ("screen", 1280, 800)
            said = await brokerctl("status", "work", env=w.environ)
            assert "screen:work" in said.out
            # Taken back: the program is told so, and nothing is left.
            words = ("device", "detach", "screen:work")
            assert (await brokerctl(*words, env=w.environ)).code == 0
            assert len(w.events("screen.off", sandbox="work")) == 1
            assert await client.wait() == 0
            assert out.read().splitlines()[-1] == b"closed True"
        await eventually(lambda: without_frame(screen))
        # And it cannot ask again at once.
        again = sharer(work, tmp_path)
        assert await again.wait() == REFUSED


async def test_a_sandbox_without_a_rule_has_no_screens(tmp_path):
    async with sharing() as (w, screen, _work, _choice):
        client = sharer(screen.personal, tmp_path)
        assert await client.wait() == 1
        assert not w.events("screen.on", sandbox="personal")


@pytest.mark.parametrize("end", ["rule", "lockdown", "frame", "program"])
async def test_a_share_ends_with(end, tmp_path):
    async with sharing() as (w, screen, work, _choice):
        client = sharer(work, tmp_path)
        try:
            await answered(w, "allow")
            await w.wait_event("screen.on", sandbox="work")
            await eventually(lambda: picture_in(tmp_path))
            if end == "rule":
                (w.paths.config[0] / "policy.d" / "30-mine.policy").write_text("")
            elif end == "lockdown":
                assert (await brokerctl("lockdown", env=w.environ)).code == 0
            elif end == "frame":
                os.kill(frame_of(screen), signal.SIGKILL)
            else:
                await client.stop()
            await w.wait_event("screen.off", sandbox="work")
            await eventually(lambda: without_frame(screen))
        finally:
            await client.stop()


async def test_what_the_user_dismisses_is_not_asked_again_at_once(tmp_path):
    async with sharing() as (w, _screen, work, choice):
        for name in ("", "HEADLESS-1\n"):
            choice.write_text(name)
            client = sharer(work, tmp_path)
            if not name:
                await answered(w, "allow")
            assert await client.wait() == REFUSED
        assert not w.events("screen.on")


async def test_own_windows_are_shared_without_a_question(tmp_path):
    rules = "vitrail.ScreenShare +own work @adminvm allow\n"
    async with sharing(rules) as (w, screen, work, _choice):
        place = f"{work.env['XDG_RUNTIME_DIR']}/wayland-0"
        env = {**work.env, "WAYLAND_DISPLAY": place}
        program = spawn(["weston-flower"], env=env)
        try:
            await wait_window(screen.comp)
            client = sharer(work, tmp_path, types=2, stdout=PIPE)
            with client.popen.stdout as out:
                seen = await eventually(lambda: picture_in(tmp_path))
                # A flower alone: neither our frame nor anything of the desktop's.
                assert seen.size == (200, 200)
                assert seen.getpixel((1, 1)) == (0, 0, 0)
                assert len(seen.getcolors(40_000)) > 20
                event = await w.only_event("screen.on", sandbox="work")
                assert event["shows"] == "own-window"
                # It ends with its window.
                (window,) = windows(await screen.comp.tree())
                await screen.comp.command(f"[con_id={window['id']}] kill")
                assert await client.wait() == 0
                assert out.read().splitlines()[-1] == b"closed True"
            # Without a window, or for a screen, there is none.
            for types in (1, 2):
                client = sharer(work, tmp_path, types=types)
                assert await client.wait() == REFUSED
        finally:
            await program.stop()
