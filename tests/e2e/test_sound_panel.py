"""The sound of a box as the person sees and changes it: mixer, panel, microphone.

With a real broker, whose viewer is confined, PipeWire, waybar and mako.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

from tests.integration.test_tray import bus, in_panel, picture, press
from tests.kit.brokerctl import running
from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES, requires
from tests.kit.notified import notification_server
from tests.kit.records import shown_record
from tests.kit.sound.servers import microphone, needs, sound_server
from tests.kit.wayland.compositor import pixels
from tests.kit.world import world

pytestmark = [
    PID_NAMESPACES,
    requires("mako", "dbus-daemon", "waybar", "gdbus", "pactl", "parec"),
]
RULES = "vitrail.AudioInput * talk @adminvm allow\n"
AUDIO = '[audio]\nplayback = "allow"\nmicrophone = "allow"\n'
TALK = shown_record('kind = "bwrap"', colour="green", tables=AUDIO)
RED = (224, 27, 36)
# A program that begins again as soon as its recording has ended.
RECORDS = "while :; do timeout {} parec > /dev/null; done"


@asynccontextmanager
async def recording(seconds, more="", window="--no-window"):
    """Yield a broker with the box ``talk``, which records, and its sound server.

    ``more``: commands of the box before it records.
    """
    needs("pipewire")
    context = world({"talk": TALK}, start=False, image=False)
    async with sound_server("pipewire") as server, context as w:
        await microphone(server)
        w.environ["PULSE_SERVER"] = f"unix:{server.socket}"
        w.write_rules(RULES)
        async with notification_server(w.comp, w.environ) as screen:
            w.environ.update(screen.env)
            w.screen = screen
            await w.start()
            box = (
                "run",
                "-q",
                *([window] if window else []),
                "talk",
                "--",
                "sh",
                "-c",
                more + RECORDS.format(seconds),
            )
            async with running(*box, env=w.environ):
                await w.wait_event("microphone.on")
                yield w, server
                await w.said("stop", "talk")


async def sources(server) -> bool:
    """Whether a sandbox has a source of the sound server open."""
    return "vitrail.sandbox" in await server.pactl("list", "source-outputs")


async def test_audio_list_shows_a_box_and_deny_ends_its_recording():
    async with recording(3) as (w, server):

        async def active():
            (row,) = json.loads(await w.said("audio", "list", "--json"))["sandboxes"]
            assert row["sandbox"] == "talk"
            return row["active"]

        await eventually(active)
        listed = await w.said("audio", "list")
        assert "100 %" in listed
        assert "?" not in listed
        await eventually(lambda: sources(server))

        await w.said("audio", "volume", "talk", "40")
        assert "40 %" in await w.said("audio", "list")

        await w.said("audio", "microphone", "talk", "deny")
        assert not await sources(server)
        starts = len(w.events("microphone.on"))

        async def requests_microphone():
            (row,) = json.loads(await w.said("audio", "list", "--json"))["sandboxes"]
            assert not row["allowed"]
            return row["wanted"]

        async def unwanted():
            return not await requests_microphone()

        # The box records again, and a rule allows it: the person's no is newer.
        await eventually(unwanted)
        await eventually(requests_microphone)
        assert not await sources(server)
        assert len(w.events("microphone.on")) == starts


async def test_the_panel_shows_a_microphone_and_turns_it_off():
    async with recording(1000) as (w, server), in_panel(w) as (name, env, pointer):

        async def in_bar(*colours):
            image = (await pixels(w.comp)).convert("RGB")
            strip = image.crop((image.width - 100, 0, image.width, 40))
            return set(colours) <= {c for _, c in strip.getcolors(100 * 40)}

        await eventually(lambda: in_bar(RED))
        pointer.move(1280 - 22, 20)
        pointer.click(1280 - 22, 20)
        layout = ("com.canonical.dbusmenu.GetLayout", "0", "--", "-1", "[]")

        async def row():
            menu = await bus(env, name, "/MenuBar", *layout)
            return "Turn off the microphone" in menu

        await eventually(row)
        await picture(w, "microphone")
        await press(env, name, "Turn off the microphone")

        async def silent():
            return not await sources(server)

        await eventually(silent)

        async def unmarked():
            return not await in_bar(RED)

        await eventually(unmarked)
        await w.wait_event("microphone.off")
