"""Files copied by chord in one sandbox's window and pasted in another's.

A real broker, its workers, a real compositor and the guests' agents and programs; the
guests are processes.
"""

from __future__ import annotations

import os

import pytest

from broker.core.transfer.entries import left_out_text
from tests.e2e.test_clipboard import held_from, status, told
from tests.kit.clipboard.person import Person
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world

pytestmark = [pytest.mark.slow, requires("waypipe")]
RULES = """\
vitrail.FileCopy       * work     personal allow max-size=10M gesture=30s
vitrail.ClipboardPaste * work     personal allow
"""
# wl-copy ends before its selection has passed waypipe and the filter.
COPY = (
    "until wl-copy -t text/uri-list < {}/list && timeout 20 wl-paste -l | grep -q uri-list;"
    " do sleep 0.1; done; touch copied; sleep 1000"
)


async def windows(w, work):
    """A terminal in each; the one in ``work`` has copied a list of files."""
    await w.run("personal", "foot", "-T", "personal", "sleep", "1000")
    copy = COPY.format(work.home)
    await w.run("work", "foot", "-T", "work", "-D", str(work.home), "sh", "-c", copy)
    for name in ("work", "personal"):
        await wait_window(w.comp, title=f"[{name}] {name}", deadline=60)

    async def copied():
        await w.comp.command('[title="work$"] focus')
        return (work.home / "copied").exists()

    await eventually(copied, deadline=60)


async def test_the_bytes_of_copied_files_go_to_the_other_sandbox_by_rule():
    async with (
        told() as (bus, shown),
        world(start=False, image=False, extra={"DBUS_SESSION_BUS_ADDRESS": bus}) as w,
    ):
        w.write_rules(RULES)
        await w.start()
        async with plain(w, "work", "personal") as guests:
            work, personal = guests["work"], guests["personal"]
            (work.home / "d").mkdir()
            (work.home / "d/a b.txt").write_text("in a directory")
            (work.home / "d/latest").symlink_to("a b.txt")
            (work.home / "one.txt").write_text("one")
            listed = f"file://{work.home}/d\r\nfile://{work.home}/one.txt\r\n"
            (work.home / "list").write_text(listed)
            with Person(w) as person:
                await person.awake()
                await windows(w, work)
                await person.copy("work")
                held = await held_from(w, "work")
                assert held.types == ["text/uri-list"]
                await person.paste("personal")
                ended = await w.wait_event("transfer.end", sandbox="work")
                assert (ended["outcome"], ended["files"]) == ("done", 3)
                kept = personal.home / "Incoming/work"
                assert (kept / "d/a b.txt").read_text() == "in a directory"
                assert (kept / "one.txt").read_text() == "one"
                decision = w.events("decision", service="vitrail.FileCopy")[-1]
                assert decision["rule"].endswith("30-mine.policy:1")
                assert (await status(w)).source == ""

                async def reported():
                    return [n[3:5] for n in shown.values() if "Files copied" in n[3]]

                ((summary, body),) = await eventually(reported)
                assert summary == "Files copied: work → personal"
                assert body.splitlines() == [
                    "the files are in ~/Incoming/work",
                    left_out_text(1),
                ]
                # Once only, and not back: no rule says so.
                await person.paste("personal")
                await w.wait_event("clipboard.ended", outcome="refused")
        assert len(w.events("transfer.begin")) == 1
        assert str(work.home) not in str(w.events()), "no path is logged"
        assert sorted(os.listdir(kept)) == ["d", "one.txt"]
