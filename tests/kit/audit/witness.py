"""Two brokers' logs that witness each other, over a link that a test plays."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import trio

from broker.authority.audit.journal import Journal
from broker.authority.audit.log_checkpoints import LogCheckpoints
from broker.authority.audit.refusals import Refusals
from broker.authority.audit.sealing import Sealing
from broker.authority.audit.settings import AuditSettings
from broker.authority.audit.store import open_store
from broker.host_and_viewer.checkpoints import CheckpointWitness
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.net.link.link_rows import WitnessNote
from tests.kit.audit.log import event
from tests.kit.eventually import eventually


class Side:
    """A broker's log, with all that keeps and sends checkpoints."""

    def __init__(self, path: Path, store) -> None:
        self.path = path
        self.store = store
        self.sealing = Sealing(store, AuditSettings())
        self.witness = CheckpointWitness(
            LogCheckpoints(store, self.sealing), Journal(store, Refusals(store))
        )

    def conflicts(self) -> list[str]:
        with open_log(self.path) as log:
            found = log.find(Filters(kinds=["audit.conflict"]))
            return [str(f.fields()["reason"]) for f in found]


class Line:
    """An epoch to the other side: requests are coded, and served at once."""

    def __init__(self, name: str, far: Side) -> None:
        self.name = name
        self.live = True
        self.asked: list[WitnessNote] = []
        self._far = far
        self._back: Line | None = None

    async def call(self, row, request):
        request = msgspec.msgpack.decode(
            msgspec.msgpack.encode(request), type=row.request
        )
        self.asked.append(request)
        self._back = self._back or Line("desk", self._far)
        return await self._far.witness.take(self._back, request)


@asynccontextmanager
async def sides(directory: Path):
    async with AsyncExitStack() as stack:
        made = []
        for name in ("near", "far"):
            path = directory / name / "audit.sqlite"
            made.append(Side(path, await stack.enter_async_context(open_store(path))))
        yield made


async def told(side: Side) -> None:
    """Wait until a witness has sent everything: it waits for news then.

    That all tasks are blocked would say nothing: the log has threads.
    """
    await eventually(lambda: side.witness._news.statistics().tasks_waiting, deadline=30)


async def talk(near: Side, far: Side, publish: int = 0) -> Line:
    """One epoch in which so many further checkpoints are published."""
    line = Line("screen", far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.witness.attend, line)
        await told(near)
        for number in range(publish):
            await near.store.record(event(number))
            await near.sealing.publish()
            await told(near)
        line.live = False
        nursery.cancel_scope.cancel()
    return line
