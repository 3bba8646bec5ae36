"""Applications in bubblewrap through waypipe: their clipboard goes through our wire end."""

from __future__ import annotations

import os

import trio

from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.messages import Outcome
from tests.kit.clipboard.stand import DEADLINE, Desk, V, desk
from tests.kit.eventually import eventually
from tests.kit.wayland.apps import boxed
from tests.kit.wayland.compositor import wait_window
from tests.kit.wayland.copying import copying

TEXT = "over the wall, by wire"
READ = 'until [ -n "$x" ]; do IFS= read -r x || exit; done'
"""For a shell: a line that is not empty, as Enter may come before the paste."""


async def front(it: Desk, name: str, title: str) -> None:
    await wait_window(it.comp, title=title, deadline=DEADLINE)
    await it.focus(name, title)


async def pasted(room, *options: str) -> str:
    """What wl-paste in the box finds."""
    async with boxed(room, "wl-paste", "-n", *options) as app:
        with trio.fail_after(DEADLINE):
            await app.child.wait()
        return app.said()


async def copied(it: Desk, name: str, title: str) -> w.RecordCrossing:
    """Press the copy chord until the selection has come over the wire."""

    async def there() -> w.RecordCrossing | None:
        await it.focus(name, title)
        # The window of wl-copy may take the keyboard between the chord's keys; the
        # chord is then another window's, and no record follows.
        with trio.move_on_after(5):
            record = await it.copy()
            return record if record.outcome is Outcome.COPIED else None
        return None

    return await eventually(there, deadline=DEADLINE)


async def test_text_crosses_between_two_boxes(tmp_path):
    tmp_path.chmod(0o777)
    shell = f"{READ}; echo $x > /shared/typed; sleep 1000"
    async with desk("red", "blue") as it:
        red, blue = it.rooms["red"], it.rooms["blue"]
        async with (
            boxed(red, "foot", "-T", "source", "sleep", "1000"),
            boxed(blue, "foot", "-T", "target", "sh", "-c", shell, shared=tmp_path),
        ):
            await front(it, "blue", "target")
            await front(it, "red", "source")
            (tmp_path / "text").write_text(TEXT)
            copy = copying("/shared/text")
            async with boxed(red, *copy, shared=tmp_path):
                record = await copied(it, "red", "source")
                assert record.size == len(TEXT)
                await it.focus("blue", "target")
                assert (await it.paste()).outcome is Outcome.PASTED
                assert await pasted(blue) == TEXT
                await it.focus("blue", "target")
                mark = tmp_path / "typed"
                with trio.fail_after(DEADLINE):
                    while not (mark.exists() and mark.read_text()):
                        # The terminal may not have been told of it yet, so again.
                        await it.control(V, shift=True)
                        await trio.sleep(0.1)
                        await it.press(28)
                        await trio.sleep(0.1)
                assert mark.read_text().replace(TEXT, "") == "\n"


async def test_a_picture_crosses_whole(tmp_path):
    tmp_path.chmod(0o777)
    # A source of more than 64 KiB stalls in Debian 12's waypipe server (0.8.4).
    content = os.urandom(60_000)
    (tmp_path / "picture").write_bytes(content)
    copy = copying("/shared/picture", "--type", "image/png")
    paste = "wl-paste --type image/png > /shared/pasted"
    async with desk("red", "blue") as it:
        red, blue = it.rooms["red"], it.rooms["blue"]
        async with (
            boxed(red, "foot", "-T", "source", "sleep", "1000"),
            boxed(blue, "foot", "-T", "target", "sleep", "1000"),
        ):
            await front(it, "blue", "target")
            await front(it, "red", "source")
            async with boxed(red, *copy, shared=tmp_path):
                assert (await copied(it, "red", "source")).size == len(content)
                await it.focus("blue", "target")
                assert (await it.paste()).outcome is Outcome.PASTED
                async with boxed(blue, "sh", "-c", paste, shared=tmp_path) as app:
                    with trio.fail_after(DEADLINE):
                        await app.child.wait()
                assert (tmp_path / "pasted").read_bytes() == content
