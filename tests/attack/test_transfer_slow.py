"""Attack: a sandbox sends files to another one as slowly as it may."""

from __future__ import annotations

import os
import signal

import trio

from broker.core.limits import transfer as limits
from shims.files import protocol
from tests.integration.test_opening import run_cli, sandboxes
from tests.kit.eventually import eventually
from tests.kit.needs import requires

pytestmark = requires("waypipe")
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


async def test_a_target_receives_nothing_after_the_rule_has_gone():
    """Also of a worker that was taken over: it keeps its end of the pipe."""
    async with sandboxes(RULES) as (w, work, _):
        door = work.env["VITRAIL_COPY"].removeprefix("unix:")
        async with trio.open_nursery() as nursery:
            assert await nursery.start(send_nothing, door, 1)
            assert await _receives(w)
            (pid,) = [
                one.pid
                for one in (await w.status()).processes
                if (one.role, one.sandbox) == ("worker", "work")
            ]
            os.kill(pid, signal.SIGSTOP)
            try:
                rules = w.paths.config[0] / "policy.d/30-mine.policy"
                rules.write_text(RULES.replace("personal allow", "personal deny"))
                await w.wait_event("decision", outcome="cut", sandbox="work")
                await eventually(
                    lambda: w.events(
                        "stream.closed", sandbox="personal", service="vitrail.FileCopy"
                    )
                )
            finally:
                os.kill(pid, signal.SIGCONT)
            nursery.cancel_scope.cancel()


async def _receives(w):
    async def there():
        streams = (await w.status()).streams
        return any(
            (s.sandbox, s.service) == ("personal", "vitrail.FileCopy") for s in streams
        )

    return await eventually(there)
