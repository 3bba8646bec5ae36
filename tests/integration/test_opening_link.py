"""Files and links of sandboxes on another machine: host and viewer are two brokers.

The guests are processes, leased by the host's broker; the rules are the viewer's.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path

from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.link.two_brokers import two
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.world import record

pytestmark = requires("waypipe")
RULES = """\
vitrail.OpenURL  * work @default allow target=personal scheme=https
vitrail.OpenFile * work @default allow target=personal max-size=1M
vitrail.FileCopy * work personal allow max-size=10M
vitrail.FileCopy * work @adminvm allow max-size=10M
"""
NAMES = ("work", "personal")


@asynccontextmanager
async def far_sandboxes():
    records = dict.fromkeys(NAMES, record("persistent"))
    async with two(records, image=False) as t:
        home = t.viewer.base / "person"
        home.mkdir()
        t.viewer.write_rules(RULES)

        async def ruled():
            return (await t.viewer.status()).policy.rules == 4

        await eventually(ruled)
        async with plain(t.host, *NAMES) as guests:
            yield t, guests["work"], guests["personal"]


async def test_files_and_links_cross_between_sandboxes_of_the_host():
    async with far_sandboxes() as (t, work, personal):
        out = personal.folder / "out"
        personal.opens("x-scheme-handler/https", f"sh -c 'echo $0 > {out}' %u")
        code, said = await work.command("xdg-open", "https://example.org/far")
        assert code == 0, said
        there = "https://example.org/far\n"
        await eventually(lambda: out.exists() and out.read_text() == there)
        data = os.urandom(2_000_000)
        (work.home / "big").write_bytes(data)
        code, said = await work.command("vitrail-copy", "big", "personal")
        assert code == 0, said
        assert (personal.home / "Incoming/work/big").read_bytes() == data
        code, said = await work.command("xdg-open", "http://example.org/")
        assert (code, "denied" in said) == (1, True), said
        # No rule is evaluated on the host, and no content is in its log.
        assert not t.host.events("decision", service="vitrail.OpenURL")
        assert t.viewer.events("transfer.end", outcome="done", sandbox="work")


async def test_the_person_copies_to_and_from_a_sandbox_of_the_host():
    async with far_sandboxes() as (t, work, _):
        note = t.viewer.base / "note.txt"
        note.write_text("from the viewer")
        answer = await brokerctl("cp", str(note), "work:", env=t.viewer.environ)
        assert answer.code == 0, answer
        there = work.home / "Incoming/desktop/note.txt"
        assert there.read_text() == "from the viewer"
        (work.home / "report").write_text("from the host")
        code, said = await work.command("vitrail-copy", "report", "@adminvm")
        assert code == 0, said
        home = Path(t.viewer.environ.get("HOME", os.environ["HOME"]))
        assert (home / "Incoming/work/report").read_text() == "from the host"


async def test_a_folder_is_refused_on_the_host():
    """It has no files of the user's; the viewer's are shared from there."""
    async with far_sandboxes() as (t, _, __):
        answer = await brokerctl("share", "/tmp", "work", env=t.host.environ)
        assert answer.code == 1
        assert "on different machines" in answer.err, answer
        assert "run the command on the viewer" in answer.err, answer
