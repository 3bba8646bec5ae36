"""A file of the person's that is edited in a sandbox, and rules that change meanwhile."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace

import pytest
import trio

from broker.core.errors import RefusedError
from broker.ipc.control.api import OpenRequest
from broker.ipc.session.file_orders import FoundFiles
from broker.viewer.exchange.guest_connection import Delivery
from broker.viewer.transfer.moving import TransferParts
from broker.viewer.transfer.own import ToolResult, UserFiles
from broker.viewer.transfer.person import PersonOpens
from broker.viewer.transfer.targets import Receiver
from tests.kit.control import exchange
from tests.kit.rulebook import rulebook

RULE = "vitrail.OpenFile * @adminvm work allow return=yes\n"
REDIRECT = "vitrail.OpenFile * @adminvm @default allow target=work return=yes\n"


class Targets:
    """A sandbox whose editor has ended, and returns the file ``after`` something."""

    def __init__(self, after):
        self.after = after
        self.returned = False

    @contextmanager
    def delivery(self, source, pipe, quota, *, opened):
        yield Delivery(source, opened, quota, pipe.detach())

    @asynccontextmanager
    async def receiving_in(self, target, delivery, wait, way):
        program = SimpleNamespace(ended=False, changed=trio.Event())

        async def edited():
            delivery.end("")
            await self.after()
            try:
                await way.wait_open(3)
            except RefusedError:
                return
            self.returned = True
            way.end("")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(edited)
            try:
                yield Receiver(target, program)
            finally:
                way.end("the file is no longer expected")


class Own:
    """Reads and replaces nothing."""

    async def named(self, warrant, writable):
        await trio.lowlevel.checkpoint()
        return UserFiles(FoundFiles(1, ("notes.txt",), 1), b"")

    @asynccontextmanager
    async def editing(self, ticket, origin, write, back):
        write.close()
        yield ToolResult(b"sha256 \n")


async def _emit(_item):
    """No person watches."""


async def edited(b, request, text, match):
    """Edit under rules that become ``text`` meanwhile; ``match``: of the refusal."""
    targets = Targets(lambda: b.change("50-test.policy", text))
    person = PersonOpens(TransferParts(b.decider, b.log, targets, Own(), list))
    with trio.fail_after(30):
        if match:
            with pytest.RaisesGroup(
                pytest.RaisesExc(RefusedError, match=match), flatten_subgroups=True
            ):
                await person.open(exchange(_emit), request)
        else:
            await person.open(exchange(_emit), request)
    assert targets.returned is not bool(match)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (RULE, ""),
        (RULE.replace(" return=yes", ""), "no rule allows the file to be returned"),
        ("vitrail.OpenFile * @adminvm work deny\n", "denied"),
    ],
)
async def test_a_file_comes_back_by_the_rules_of_that_time(text, match):
    """The editor may have run for hours; the person has taken it away since."""
    request = OpenRequest(path="/home/user/notes.txt", sandbox="work", edit=True)
    async with rulebook(RULE) as b:
        await edited(b, request, text, match)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (REDIRECT, ""),
        (REDIRECT.replace("target=work", "target=vault"), "now sets another target"),
        (f"vitrail.OpenFile * @adminvm work deny\n{REDIRECT}", "denied"),
        # A second sandbox to choose from does not take this one's file away.
        ("vitrail.OpenFile * @adminvm * ask return=yes\n", ""),
    ],
)
async def test_a_file_comes_back_from_where_the_rules_lead(text, match):
    """No sandbox was named, and the rule that chose it is another one now."""
    request = OpenRequest(path="/home/user/notes.txt", edit=True)
    async with rulebook(REDIRECT) as b:
        await edited(b, request, text, match)
