"""From one micro VM to another: foot, waypipe, vsock, two workers, a real broker."""

from __future__ import annotations

import base64

import pytest
import trio

from tests.e2e.test_clipboard import held_from, status
from tests.kit.clipboard_person import Person, V
from tests.kit.compositor import until, wait_window
from tests.kit.world import record, world

SECRET = "over two walls"
OSC = base64.b64encode(SECRET.encode()).decode()
RULES = "vitrail.ClipboardPaste * work personal allow\n"
_CONTROL, _SHIFT, _ENTER = 29, 42, 28


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_text_crosses_from_machine_to_machine():
    records = {
        "work": record("persistent", colour="blue"),
        "personal": record("persistent", colour="green"),
    }
    async with world(records, start=False) as w:
        folder = w.paths.config[0] / "policy.d"
        folder.mkdir(parents=True)
        (folder / "30-mine.policy").write_text(RULES)
        await w.start()
        # A terminal takes a selection from its program (OSC 52), once it has
        # the keyboard; so the program says it again and again.
        say = f"while sleep 1; do printf '\\033]52;c;{OSC}\\a'; done"
        await w.run("work", "foot", "-T", "work", "sh", "-c", say)
        typed = "cat > /tmp/typed"
        await w.run("personal", "foot", "-T", "personal", "sh", "-c", typed)
        for name in records:
            await wait_window(w.comp, title=f"[{name}] {name}", deadline=120)
        with Person(w) as person:
            await person.awake()
            await person.focus("work")

            async def copied():
                await person.copy("work")
                with trio.move_on_after(5):
                    return await held_from(w, "work")

            await until(copied, deadline=120)
            await person.paste("personal")
            pasted = await w.wait_event("clipboard.pasted", deadline=120)
            assert (pasted["sandbox"], pasted["bytes"]) == ("work", len(SECRET))

            async def arrived():
                await person.focus("personal")
                await person.press(V, _CONTROL, _SHIFT)
                await person.press(_ENTER)
                code, out = await w.output("personal", "cat", "/tmp/typed")
                # Its shell may still be on its way to make the file.
                return code == 0 and SECRET in out.decode()

            await until(arrived, deadline=180)
        assert (await status(w)).source == ""
