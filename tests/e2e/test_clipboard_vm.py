"""From one micro VM to another: foot, waypipe, vsock, two workers, a real broker."""

from __future__ import annotations

import base64

import pytest
import trio

from tests.e2e.test_clipboard import held_from, status
from tests.kit.clipboard.person import Person, V
from tests.kit.eventually import eventually
from tests.kit.link.two_brokers import two
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import record, world

SECRET = "over two walls"
OSC = base64.b64encode(SECRET.encode()).decode()
RULES = "vitrail.ClipboardPaste * work personal allow\n"
_CONTROL, _SHIFT, _ENTER = 29, 42, 28


def records():
    return {
        "work": record("persistent", colour="blue"),
        "personal": record("persistent", colour="green"),
    }


def rules_of(w):
    w.write_rules(RULES)


async def crosses(w):
    """Copy in one machine's window and paste in the other's; ``w`` has the screen."""
    # A terminal takes a selection from its program (OSC 52), once it has
    # the keyboard; so the program says it again and again.
    say = f"while sleep 1; do printf '\\033]52;c;{OSC}\\a'; done"
    await w.run("work", "foot", "-T", "work", "sh", "-c", say)
    typed = "cat > /tmp/typed"
    await w.run("personal", "foot", "-T", "personal", "sh", "-c", typed)
    for name in records():
        await wait_window(w.comp, title=f"[{name}] {name}", deadline=120)
    with Person(w) as person:
        await person.awake()
        await person.focus("work")

        async def copied():
            await person.copy("work")
            with trio.move_on_after(5):
                return await held_from(w, "work")

        await eventually(copied, deadline=120)
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

        await eventually(arrived, deadline=180)
    assert (await status(w)).source == ""


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_text_crosses_from_machine_to_machine():
    async with world(records(), start=False) as w:
        rules_of(w)
        await w.start()
        await crosses(w)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_it_crosses_on_the_viewers_screen_where_the_machines_are_the_hosts():
    """The host has no part in it, nor any event of it: the person is elsewhere."""
    async with two(records(), start=False) as t:
        rules_of(t.viewer)
        await t.viewer.start()
        await t.host.start()
        await t.up()
        await crosses(t.viewer)
        status_there = await t.host.status()
        assert [s.name for s in status_there.sandboxes] == ["work", "personal"]
        assert t.host.events("clipboard") == []
        # The rules are the viewer's: taken away, nothing more crosses.
        (t.viewer.paths.config[0] / "policy.d" / "30-mine.policy").write_text("")
        with Person(t.viewer) as person:
            await person.awake()

            async def denied():
                await person.copy("work")
                with trio.move_on_after(5):
                    await held_from(t.viewer, "work")
                    await person.paste("personal")
                    return await t.viewer.wait_event(
                        "clipboard.ended", outcome="refused", target="personal"
                    )

            assert await eventually(denied, deadline=120)
        assert len(t.viewer.events("clipboard.pasted")) == 1
        # With the link, held and offered content is withdrawn.
        await person_copies_and_the_link_ends(t)


async def person_copies_and_the_link_ends(t):
    with Person(t.viewer) as person:
        await person.awake()

        async def held():
            await person.copy("work")
            with trio.move_on_after(5):
                return await held_from(t.viewer, "work")

        await eventually(held, deadline=120)
    await t.host.shutdown()

    async def wiped():
        now = await status(t.viewer)
        return (now.source, now.offered) == ("", [])

    await eventually(wiped, deadline=60)
