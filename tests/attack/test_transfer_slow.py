"""Attack: a sandbox sends files to another one as slowly as it may."""

from __future__ import annotations

import shutil

import pytest
import trio

from broker.core.limits import transfer as limits
from shims.files import protocol
from tests.integration.test_opening import run_cli, sandboxes

pytestmark = pytest.mark.skipif(
    shutil.which("waypipe") is None, reason="the guests' agent needs waypipe"
)
RULES = """\
vitrail.FileCopy * work     personal allow
vitrail.OpenURL  * personal @default allow target=work
"""


async def send_nothing(address, number, task_status):
    """Begin a copy, and send its head alone; then wait."""
    name = f"slow-{number}"
    ask = {"type": "copy", "name": name, "files": 1, "size": 1000, "target": "personal"}
    async with await trio.open_unix_socket(address) as stream:
        await stream.send_all(protocol.frame(ask))
        said = b""
        while b'"go"' not in said and b'"refused"' not in said:
            if not (more := await stream.receive_some()):
                break
            said += more
        if b'"go"' in said:
            head = {"type": "file", "path": [name], "size": 1000}
            await stream.send_all(protocol.frame(head))
        task_status.started(b'"go"' in said)
        await trio.sleep_forever()


async def test_the_target_still_asks_and_others_still_send_to_it():
    async with sandboxes(RULES) as (w, work, personal):
        work.opens("x-scheme-handler/https", "true %u")
        mine = w.base / "mine"
        mine.write_text("mine")
        door = work.env["VITRAIL_COPY"].removeprefix("unix:")
        async with trio.open_nursery() as nursery:
            going = [
                await nursery.start(send_nothing, door, number)
                for number in range(limits.TRANSFERS_PER_SANDBOX)
            ]
            assert any(going)
            code, said = await personal.command("xdg-open", "https://example.org/")
            assert code == 0, said
            code, said = await run_cli(w, "cp", f"{mine}", "personal:")
            assert code == 0, said
            nursery.cancel_scope.cancel()
