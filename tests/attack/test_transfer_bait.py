"""Attack: a sandbox asks about a small picture and sends something else.

The person and the rules see the name, the type and the size of the request, so
nothing else may pass.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from broker.core.errors import RefusedError
from broker.core.framing import FrameReader
from broker.core.transfer.entries import Directory, End, FileEntry, entry_frame
from broker.core.transfer.quota import Quota
from broker.jail.transfer.entry_reader import EntryReader
from shims.files import protocol
from tests.integration.test_opening import sandboxes
from tests.kit.needs import requires

pytestmark = requires("waypipe")
RULES = """\
vitrail.OpenFile * work @default  allow target=personal mime=image/jpeg max-size=1M
vitrail.FileCopy * work @adminvm  allow max-size=10M
"""
BAITS = {
    "another name": (FileEntry(["a.desktop"], 5), b"[Desk"),
    "larger": (FileEntry(["a.jpg"], 500_000), bytes(500_000)),
}


async def offer(address: str, ask: dict, parts: tuple) -> str:
    """Ask, send these entries whatever is answered, and return the last answer."""
    frames, last = FrameReader(1 << 16), ""
    with trio.fail_after(60):
        async with await trio.open_unix_socket(address) as stream:
            await stream.send_all(protocol.frame(ask))
            async for data in stream:
                for body in frames.feed(data):
                    last = body.decode()
                    if '"go"' in last:
                        for part in (*parts, End()):
                            raw = part if isinstance(part, bytes) else entry_frame(part)
                            await stream.send_all(raw)
    return last


async def test_the_file_that_is_sent_is_the_one_in_the_question():
    async with sandboxes(RULES) as (w, work, personal):
        personal.opens("image/jpeg", "true %f")
        door = work.env["VITRAIL_OPEN_FILE"].removeprefix("unix:")
        ask = {"type": "open-file", "name": "a.jpg", "size": 5}
        for parts in BAITS.values():
            last = await offer(door, ask, parts)
            assert '"refused"' in last
        copy = work.env["VITRAIL_COPY"].removeprefix("unix:")
        ask = {
            "type": "copy",
            "name": "a",
            "files": 1,
            "size": 3,
            "target": "@adminvm",
        }
        for parts in (
            (FileEntry(["b"], 3), b"abc"),
            (FileEntry(["a"], 3), b"abc", FileEntry(["b"], 0)),
            (Directory(["a"]), FileEntry(["a", "b"], 0)),
            (FileEntry(["a"], 4), b"abcd"),
        ):
            assert '"refused"' in await offer(copy, ask, parts)
        kept = Path(w.environ["HOME"]) / "Incoming" / "work"
        assert [p for p in kept.glob("*") if not p.name.startswith(".")] == []
        assert '"done"' in await offer(copy, ask, (FileEntry(["a"], 3), b"abc"))
        assert (kept / "a").read_bytes() == b"abc"
        # The last one's end is recorded after its answer.
        await w.wait_event("transfer.end", sandbox="work", outcome="done")
        ends = w.events("transfer.end", sandbox="work")
        assert [end["outcome"] for end in ends] == ["failed"] * 6 + ["done"]


def test_the_first_name_is_that_of_the_request():
    """Both ends check it: a sender's worker may be taken over."""
    quota = Quota(10, 10, 10, name="a")
    assert list(EntryReader(quota).feed(entry_frame(Directory(["a"]))))
    with pytest.raises(RefusedError, match="does not have the requested name"):
        list(EntryReader(quota).feed(entry_frame(FileEntry(["b"], 0))))
