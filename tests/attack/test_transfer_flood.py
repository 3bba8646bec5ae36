"""Attack: a sandbox asks to open a thousand addresses at once."""

from __future__ import annotations

from contextlib import suppress

import trio

from broker.core import limits
from broker.core.limits import transfer as transfer_limits
from broker.ipc.control.api import Nothing
from broker.ipc.control.methods import PENDING
from shims.files import protocol
from tests.integration.test_opening import sandboxes
from tests.kit.needs import requires

pytestmark = requires("waypipe")
ASKS = 1000
RULES = """\
vitrail.OpenURL * work     @default ask   target=personal
vitrail.OpenURL * personal @default allow target=work
"""


async def ask(address: str, number: int, ended: list[int]) -> None:
    """One request, read to its end, whatever the answer is."""
    with suppress(OSError, trio.BrokenResourceError):
        async with await trio.open_unix_socket(address) as stream:
            url = f"https://example.org/{number}"
            await stream.send_all(protocol.frame({"type": "open-url", "url": url}))
            async for _ in stream:
                pass
    ended.append(number)


async def test_another_sandbox_is_served_meanwhile_and_the_questions_are_few():
    async with sandboxes(RULES) as (w, work, personal):
        work.opens("x-scheme-handler/https", "true %u")
        door = work.env["VITRAIL_OPEN_URL"].removeprefix("unix:")
        ended: list[int] = []
        async with trio.open_nursery() as nursery:
            for number in range(ASKS):
                nursery.start_soon(ask, door, number, ended)
            code, said = await personal.command("xdg-open", "https://example.org/")
            assert code == 0, said
            async with w.client() as client:
                waiting = (await client.call(PENDING, Nothing())).questions
            assert len(waiting) <= transfer_limits.TRANSFERS_PER_SANDBOX
            status = await w.status()
            live = [s for s in status.streams if s.sandbox == "work"]
            assert len(live) <= limits.STREAMS_PER_SANDBOX
            nursery.cancel_scope.cancel()
        # Nothing of it is left once its programs have gone.
        code, said = await personal.command("xdg-open", "https://example.org/again")
        assert code == 0, said
        assert not w.events("transfer.begin", sandbox="work")
