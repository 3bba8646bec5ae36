"""From one machine to another by the clipboard, where both share their parent's memory.

Their streams go over virtio-serial ports.  Each step is seen before the next one: a
terminal sends its selection before the title that its program sets after it, so with
the title on the screen the broker knows the selection.
"""

from __future__ import annotations

import base64

import pytest

from tests.kit.clipboard.person import Person, V
from tests.kit.eventually import eventually
from tests.kit.needs import FORKING_VM
from tests.kit.vm.parents import ready_parent
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import record, the_image, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), FORKING_VM]
SECRET = "out of one page into another"
OSC = base64.b64encode(SECRET.encode()).decode()
RULES = "vitrail.ClipboardPaste * work personal allow\n"
SHARED = 'fork = "shared"'
_CONTROL, _SHIFT, _ENTER = 29, 42, 28
PATIENCE = 300.0
"""Seconds for one step on a machine that does much else."""
# Titles end with the sandbox's name: the kit's person finds windows by it.
COPIED = f"""
title() {{ printf '\\033]2;%s %s\\a' "$1" "$(hostname)"; }}
title ready
read -r line
printf '\\033]52;c;{OSC}\\a'
title selected
sleep 100000
"""
PASTED = """
title() { printf '\\033]2;%s %s\\a' "$1" "$(hostname)"; }
title ready
IFS= read -r line
title "got $line,"
sleep 100000
"""


async def terminal(w, name, script):
    """Run a program in a terminal of a fresh machine; returns the sandbox's name."""
    last, _ = await w.run(name, "foot", "sh", "-c", script)
    sandbox = last.started.sandbox
    await wait_window(w.comp, title=f"ready {sandbox}", deadline=PATIENCE)
    return sandbox


async def press_until_titled(w, person, sandbox, title, *chords):
    """Press keys in a terminal until its program, which waits for a line, has it.

    Again and again: a key that comes before the terminal has its keymap is lost.
    """

    async def titled():
        await person.focus(sandbox)
        for chord in chords:
            await person.press(*chord)
        found = await wait_window(w.comp, title=title, deadline=10)
        return bool(found)

    async def patient():
        try:
            return await titled()
        except AssertionError:
            return False

    await eventually(patient, deadline=PATIENCE)


async def wait_clipboard(w, before):
    """Return the first event of the clipboard after ``before`` of them."""

    async def more():
        return w.events("clipboard")[before:]

    return (await eventually(more, deadline=PATIENCE))[0]


async def test_text_crosses_between_machines_that_share_memory():
    image = await the_image()
    for name in ("work", "personal"):
        await ready_parent(image, name, mode="shared")
    records = {
        "work": record(colour="blue", launch=SHARED),
        "personal": record(colour="green", launch=SHARED),
    }
    program = "tests.kit.vm.patient_copies"
    async with world(records, program=program, rules=RULES) as w:
        work = await terminal(w, "work", COPIED)
        personal = await terminal(w, "personal", PASTED)
        assert [e["how"] for e in w.events("sandbox.machine")] == ["fork", "fork"]
        with Person(w) as person:
            await person.awake()
            enter = (_ENTER,)
            await press_until_titled(w, person, work, f"selected {work}", enter)
            await person.copy(work)
            offered = await wait_clipboard(w, 0)
            assert (offered["kind"], offered["bytes"]) == (
                "clipboard.offered",
                len(SECRET),
            )
            await person.paste(personal)
            pasted = await wait_clipboard(w, 1)
            assert pasted["kind"] == "clipboard.pasted", pasted
            assert (pasted["sandbox"], pasted["target"]) == (work, personal)
            insert = (V, _CONTROL, _SHIFT)
            got = f"got {SECRET}, {personal}"
            await press_until_titled(w, person, personal, got, insert, enter)
