"""What the viewer asks, and how much it lets pass, when the user has dropped files."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from broker.core.errors import RefusedError, UpstreamError
from broker.ipc.session.file_orders import FoundFiles
from broker.viewer.transfer.dropped_files import DroppedFiles
from broker.viewer.transfer.own import UserFiles
from tests.kit.rulebook import WORK


class Desktop:
    """The user's files, the rules and the target, as the service uses them."""

    def __init__(self, found, most=None, silent=False):
        self.found, self.most, self.silent = found, most, silent
        self.requests, self.quotas, self.sent, self.logged = [], [], [], []
        self.decider = self.own = self.targets = self.log = self

    writable = staticmethod(list)

    async def dropped(self, key, sandbox, _writable):
        assert (key, sandbox) == ("123456789", "work")
        if self.silent:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return UserFiles(self.found, b"ticket")

    @asynccontextmanager
    async def permit(self, request):
        self.requests.append(request)
        yield SimpleNamespace(max_size=self.most, where="r:1", warrant=b"warrant")

    @contextmanager
    def delivery(self, source, _pipe, quota, *, opened):
        assert (source, opened) == ("desktop", False)
        self.quotas.append(quota)
        yield SimpleNamespace(size=0, moved=5, done=trio.Event())

    @asynccontextmanager
    async def receiving_in(self, target, _delivery, _wait):
        assert target == "work"
        yield

    async def send(self, files, _write, _delivery, _follow, warrant):
        self.sent.append((files.ticket, warrant))
        await trio.lowlevel.checkpoint()

    async def require(self, event):
        self.logged.append(event)
        await trio.lowlevel.checkpoint()

    note = require


async def test_the_question_names_the_files_and_counts_the_others():
    names = tuple(f"{n}.txt" for n in range(10))
    desktop = Desktop(FoundFiles(300, names, 12))
    await DroppedFiles(desktop).give(WORK, "123456789")
    (request,) = desktop.requests
    assert (request.source, request.target) == ("@adminvm", "work")
    assert (request.size, request.settled, request.gesture) == (12, True, 0.0)
    shown = [*names[:8], "and 292 more"]
    lines = [*(("what", name) for name in shown), ("size", "12 bytes")]
    assert list(request.claims) == lines
    assert desktop.sent == [(b"ticket", b"warrant")]
    begin, end = desktop.logged
    assert (begin.rule, begin.files, begin.size) == ("r:1", 300, 12)
    assert (end.outcome, end.files, end.bytes) == ("done", 300, 12)


async def test_no_more_passes_than_the_rule_allows():
    """Of a directory the size is not known when the user is asked."""
    desktop = Desktop(FoundFiles(1, ("d",)), most=100)
    await DroppedFiles(desktop).give(WORK, "123456789")
    assert [(q.size, q.file_size) for q in desktop.quotas] == [(100, 100)]


async def test_the_portal_is_asked_about_one_drop_of_a_sandbox_at_a_time(
    autojump_clock,
):
    desktop = Desktop(FoundFiles(1, ("x",)), silent=True)
    service = DroppedFiles(desktop)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.give, WORK, "123456789")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RefusedError, match="already in progress"):
            await service.give(WORK, "123456789")
        nursery.cancel_scope.cancel()
    desktop.silent = False
    await service.give(WORK, "123456789")
    assert len(desktop.sent) == 1


async def test_a_portal_that_does_not_answer_is_given_up(autojump_clock):
    desktop = Desktop(FoundFiles(1, ("x",)), silent=True)
    with pytest.raises(UpstreamError, match="did not answer within 30 s") as caught:
        await DroppedFiles(desktop).give(WORK, "123456789")
    assert "xdg-document-portal" in caught.value.hint
    assert desktop.requests == []
