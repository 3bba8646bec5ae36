"""The rules for clipboard and microphone of the shipped household, each tried once.

With real windows, a real compositor and sound server, and the chords of a person; the
guests are processes.  Those for files and links: tests/integration.
"""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from tests.e2e.test_clipboard import SCRIPT, Box, held_from
from tests.e2e.test_sound import LISTEN, MICROPHONE
from tests.integration.test_opening_household import RULES, answered, decided, line
from tests.kit.clipboard.person import Person
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.sound.servers import microphone, needs, sound_server
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world

pytestmark = [pytest.mark.long, requires("waypipe")]
TRUSTED = 'tags = ["trusted"]\n'
PASTE = "vitrail.ClipboardPaste"


@asynccontextmanager
async def household(tops, sound=""):
    """A broker with the household's rules, and a guest of each name."""
    extra = {"PULSE_SERVER": sound} if sound else None
    async with world(start=False, image=False, extra=extra) as w:
        folder = w.paths.config[0] / "policy.d"
        folder.mkdir(parents=True)
        shutil.copy(RULES, folder)
        await w.start()
        async with plain(w, *tops, tops=tops) as guests:
            yield w, guests


async def windows_of(w, guests):
    """A window of each guest that copies and pastes; by the guests' names."""
    boxes = {}
    for name, guest in guests.items():
        copies = SCRIPT.partition("cd /tmp/broker\n")[2]
        script = f"foot -T {name} sleep 1000 &\ncd {guest.home}\n{copies}"
        await w.run(name, "sh", "-c", script)
        await wait_window(w.comp, title=f"[{name}] {name}")
        boxes[name] = Box(guest.home)
    return boxes


async def test_the_lines_for_the_clipboard_decide_as_their_comment_says():
    tops = {"work": TRUSTED, "personal": TRUSTED, "banking": "", "untrusted": ""}
    async with household(tops) as (w, guests), AsyncExitStack() as stack:
        box = await windows_of(w, guests)
        person = stack.enter_context(Person(w))
        await person.awake()

        async def copied(name, text):
            await box[name].copied(text)
            await person.copy(name)
            await held_from(w, name)

        # Among those that are trusted.
        await copied("work", "from work")
        await person.paste("personal")
        pasted = await w.wait_event("clipboard.pasted", sandbox="work")
        assert pasted["target"] == "personal"
        among = line(f"{PASTE} * @tag:trusted @tag:trusted")
        assert pasted["rule"].endswith(f"90-household.policy:{among}")
        await box["personal"].gets("from work")

        # Plain text to the bank, after a question, and no more than a kilobyte.
        await copied("personal", "an account number")
        await person.paste("banking")
        assert await answered(w, allow=True) == ["banking"]
        pasted = await w.wait_event("clipboard.pasted", sandbox="personal")
        to_bank = line(f"{PASTE} * @tag:trusted banking")
        assert pasted["rule"].endswith(f"90-household.policy:{to_bank}")
        await person.awake()
        await box["banking"].gets("an account number")
        await copied("personal", "x" * 2000)
        await person.paste("banking")
        refused = {"outcome": "refused", "target": "banking"}
        ended = await w.wait_event("clipboard.ended", **refused)
        assert f"90-household.policy:{to_bank}" in ended["reason"], ended

        # Nothing else.
        await copied("untrusted", "from a stranger")
        await person.paste("work")
        refused = {"outcome": "refused", "target": "work"}
        await w.wait_event("clipboard.ended", **refused)
        rest = line(f"{PASTE} * @anyvm @anyvm")
        assert decided(w, service=PASTE, sandbox="untrusted")[::2] == ("deny", rest)
        assert len(w.events("clipboard.pasted")) == 2


async def test_the_lines_for_the_microphone_decide_as_their_comment_says():
    needs("pulseaudio")
    tops = {
        "personal": TRUSTED + MICROPHONE.format("ask"),
        "untrusted": MICROPHONE.format("allow"),
    }
    service = "vitrail.AudioInput"
    async with sound_server("pulseaudio") as server:
        await microphone(server)
        async with household(tops, f"unix:{server.socket}") as (w, _):
            code, said = await w.output("untrusted", "python3", "-c", LISTEN, "1")
            # A recording that is not allowed is silent.
            assert (code, {*said.split()}) == (0, {b"0"}), said
            rest = line(f"{service} * @anyvm")
            denied = decided(w, service=service, sandbox="untrusted")
            assert denied[::2] == ("deny", rest)
            async with trio.open_nursery() as nursery:
                words = ("python3", "-c", LISTEN, "1")
                nursery.start_soon(w.output, "personal", *words)
                await answered(w, allow=True)
                await w.wait_event("microphone.on", sandbox="personal")
            own = ("allow", "dom0", line(f"{service} * personal"))
            assert decided(w, service=service, sandbox="personal") == own
