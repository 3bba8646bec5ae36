"""A sandbox whose links start machines does not fill the user's machine with them.

A disposable lives as long as its program likes, and a disposable that may open
disposables needs no help: 512 were started, as many as a host has leases.
"""

from __future__ import annotations

import itertools
import mmap
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from broker.core import limits
from broker.core.errors import RefusedError, UpstreamError
from broker.core.launch_changes import NO_CHANGES, LaunchChanges
from broker.core.names import SandboxName, disposable_name
from broker.helpers.process.spawn import spawn
from broker.host import box_starts
from broker.host.box_starts import start_box
from broker.host.gpu.gpu_renderer import DATA_BYTES
from broker.host.machine_interface import MachineFacts
from broker.host.part import HostPart
from broker.host.room import Room, resident_bytes
from broker.host.vmm.arena import ARENA_BYTES
from broker.ipc.host_rows import START, StartSandbox
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.host_ends.host_starts import HostStart, RemoteStarts
from broker.viewer.transfer import origins
from broker.viewer.transfer.targets import Targets
from policy.tools.record_files import parse_record
from tests.kit.link.roles import PaperMachine, host_role
from tests.kit.rulebook import VAULT, WORK

WEB = "@dispvm:web"
MIB = 1 << 20
FLOOR = limits.MACHINE_FREE_BYTES
SIZE = 768 * MIB


class Memory:
    """What /proc/meminfo says."""

    def __init__(self, available, total=1 << 40):
        self.available, self.total = available, total

    def room(self):
        """The room of a host whose records all have 768 MiB."""
        return Room(
            lambda record, changes: SIZE // MIB,
            available=lambda: self.available,
            total=lambda: self.total,
        )


class Desk:
    """The viewer's targets beside a host with paper machines."""

    def __init__(self, host):
        self.host = host
        self.waited = []
        self.targets = Targets(self, own=None, host=host)

    def guests(self):
        """One for each lease, as a viewer has."""
        return [
            SimpleNamespace(lease=active.lease) for active in self.host.active_leases()
        ]

    def guest(self, lease):
        """A guest in which no program runs yet."""
        programs = SimpleNamespace(live=list)
        held = next(a.lease for a in self.host.active_leases() if a.lease.id == lease)
        return SimpleNamespace(lease=held, programs=programs)

    def record(self, name):
        """Paper machines are no boxes: a file or an address starts them."""
        return

    async def power_off(self, lease, *, reason, grace):
        await self.host.stop(lease, grace=0, reason=reason)

    async def wait(self, what):
        await trio.lowlevel.checkpoint()
        self.waited.append(what)

    async def open(self, source, target=WEB):
        """Start a target for a sandbox; None: for the user."""
        lease, _ = await self.targets._lease(target, self.wait, source, autostart=True)
        return lease


@asynccontextmanager
async def desk(tmp_path, memory=None, facts=None):
    """Each start of a record is a fresh disposable."""
    numbers = itertools.count(1000)

    async def opened(sandbox, record, closed, progress, changes):
        await trio.lowlevel.checkpoint()
        machine = PaperMachine()
        machine.facts = facts or machine.facts
        return machine

    def name(record, taken):
        return disposable_name(record, next(numbers))

    memory = memory or Memory(1 << 40)
    async with host_role(tmp_path, opened, name_for=name, room=memory.room()) as host:
        yield Desk(host)


async def most(d, source):
    """Start as many as a sandbox gets; returns them."""
    leases = []
    while len(leases) < 2 * limits.MACHINES_PER_ORIGIN:
        try:
            leases.append(await d.open(source))
        except ShareableError:
            break
    return leases


async def test_machines_of_a_sandbox_have_a_number(tmp_path):
    async with desk(tmp_path) as d:
        leases = await most(d, WORK)
        assert len(leases) == limits.MACHINES_PER_ORIGIN
        await d.open(VAULT)  # another record has its own
        for _ in range(3):
            await d.open(None)  # the user is not counted
        await d.host.stop(leases[0].id, grace=0, reason="its window was closed")
        assert len(await most(d, WORK)) == 1, "what has ended is not counted"


async def test_starts_at_the_same_time_have_the_same_number(tmp_path):
    async with desk(tmp_path) as d:
        refused = []

        async def one():
            try:
                await d.open(WORK)
            except ShareableError as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(limits.MACHINES_PER_ORIGIN + 3):
                nursery.start_soon(one)
        assert len(refused) == 3
        assert len(d.guests()) == limits.MACHINES_PER_ORIGIN


async def test_a_chain_of_disposables_counts_for_who_began_it(tmp_path):
    async with desk(tmp_path) as d:
        source = WORK
        for _ in range(limits.MACHINES_PER_ORIGIN):
            source = await d.open(source)
        for asker in (source, WORK):
            with pytest.raises(
                ShareableError, match="cannot start another sandbox for"
            ):
                await d.open(asker)


async def test_a_start_that_failed_is_not_counted_in_the_number(tmp_path):
    memory = Memory(0)
    async with desk(tmp_path, memory) as d:
        for _ in range(2 * limits.MACHINES_PER_ORIGIN):
            with pytest.raises(RefusedError, match="for another sandbox"):
                await d.open(WORK)
        memory.available = 1 << 40
        assert len(await most(d, WORK)) == limits.MACHINES_PER_ORIGIN


@pytest.mark.parametrize("up", [False, True], ids=["started", "booting"])
async def test_callers_that_hang_up_start_no_more_machines_than_others(
    tmp_path, monkeypatch, up
):
    """Attack: each time another machine was started and ended, as often as they called."""
    now = 1000.0
    clock = SimpleNamespace(current_time=lambda: now)
    monkeypatch.setattr(origins, "trio", clock)

    async def hang_up(source):
        """Ask for one as a call does, and go before a program runs in it."""
        asked = trio.Event()

        async def wait(what):
            await d.wait(what)
            if not up:
                asked.set()

        async with trio.open_nursery() as caller:

            async def call():
                async with d.targets.guest(WEB, wait, source, autostart=True):
                    asked.set()
                    await trio.sleep_forever()

            caller.start_soon(call)
            await asked.wait()
            caller.cancel_scope.cancel()

    async with desk(tmp_path) as d:
        for _ in range(limits.MACHINES_PER_ORIGIN):
            await hang_up(WORK)
        opened = len(d.waited)
        with pytest.raises(ShareableError, match="another sandbox for 'work'"):
            await d.open(WORK)
        assert len(d.waited) == opened == limits.MACHINES_PER_ORIGIN
        await hang_up(VAULT)  # another record has its own
        now += 120
        await hang_up(WORK)


@pytest.mark.parametrize(
    ("available", "starts"),
    [(SIZE + FLOOR, True), (SIZE + FLOOR - 1, False), (0, False)],
    ids=["fits", "one byte less", "cannot be read"],
)
async def test_short_memory_refuses_a_sandbox_and_warns_the_user(
    tmp_path, available, starts
):
    async with desk(tmp_path, Memory(available)) as d:
        warned = []
        await d.host.start(SandboxName("web"), progress=warned.append)
        assert bool(warned) is not starts
        if starts:
            await d.open(WORK)
        else:
            with pytest.raises(RefusedError) as caught:
                await d.open(WORK)
            assert not isinstance(caught.value, ShareableError), (
                "the sandbox learns no number"
            )


async def test_memory_that_is_promised_is_not_given_twice(tmp_path):
    """Guests take their memory later: the available memory does not change at once."""
    async with desk(tmp_path, Memory(2 * SIZE + FLOOR)) as d:
        first = await d.open(WORK)
        await d.open(VAULT)
        with pytest.raises(RefusedError, match="for another sandbox"):
            await d.open(WORK)
        await d.host.stop(first.id, grace=0, reason="its window was closed")
        await d.open(WORK)


async def test_memory_that_was_promised_and_is_taken_counts_once(tmp_path, monkeypatch):
    """It is not available any more."""
    monkeypatch.setattr("broker.host.room.resident_bytes", lambda pid: 2 * SIZE)
    async with desk(tmp_path, Memory(SIZE + FLOOR), MachineFacts(pid=7)) as d:
        await d.open(WORK)
        await d.open(WORK)


@pytest.mark.parametrize(("text", "pages"), [("9 3 1\n", 3), ("", 0), ("9 x", 0)])
def test_what_a_process_has_taken(tmp_path, text, pages):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "statm").write_text(text)
    assert resident_bytes(7, tmp_path) == pages * mmap.PAGESIZE
    assert resident_bytes(8, tmp_path) == 0


def record(name, text):
    """A record of this text."""
    made, problems = parse_record(name, Path(f"{name}.toml"), text.encode())
    assert not problems
    return made


def test_an_arena_and_a_renderer_are_promised_beside_the_memory():
    """A guest writes all over them, and what its VMM has taken counts the arena, too."""
    launch = '[launch]\nkind = "microvm"\nimage = "work"\nmemory = "768M"\n'
    sizes = []
    for more in ("", "pixel_arena = true\n", 'gpu = "render"\n'):
        web = record("web", f'class = "disposable"\ndisplay = "none"\n{launch}{more}')
        part = SimpleNamespace(_record=lambda _name, web=web: web)
        sizes += [
            HostPart._memory_mib(part, SandboxName("web"), changes)
            for changes in (NO_CHANGES, LaunchChanges(memory_mib=512))
        ]
    arena = ARENA_BYTES // MIB
    drawn = arena + DATA_BYTES // MIB
    assert sizes == [
        *(768, 512),
        *(768 + arena, 512 + arena),
        *(768 + drawn, 512 + drawn),
    ]


SERVING = """\
class = "persistent"
display = "none"
[launch]
kind = "bwrap"
command = ["vitrail-services"]
"""


@pytest.fixture(name="children")
def _children(monkeypatch):
    """Processes that hold a box; they never have it leased by themselves."""
    children = []

    def started(_words, **options):
        children.append(spawn(["sleep", "1000"], **options))
        return children[-1]

    monkeypatch.setattr(box_starts, "spawn", started)
    yield children
    for child in children:
        child.kill()


async def test_callers_that_hang_up_have_a_box_started_once(children):
    """Each time it was started and killed, as often as they called."""
    leased, over = trio.Event(), []
    async with trio.open_nursery() as broker:

        async def call():
            try:
                await start_box(record("late", SERVING), leased, broker)
            finally:
                over.append(leased.is_set())

        async with trio.open_nursery() as caller:
            caller.start_soon(call)
            await wait_all_tasks_blocked()
            caller.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked(0.1)
            assert children[0].popen.poll() is None
            leased.set()
        assert over == [True], "others wait for the same start until then"
        assert children[0].popen.poll() is None, "it serves the next call"
        children[0].kill()


async def test_the_start_of_a_box_ends_with_the_broker(children):
    async with trio.open_nursery() as caller, trio.open_nursery() as broker:

        async def call():
            with pytest.raises(UpstreamError, match="cannot start 'late'"):
                await start_box(record("late", SERVING), trio.Event(), broker)

        caller.start_soon(call)
        await wait_all_tasks_blocked()
        broker.cancel_scope.cancel()
    _, status = os.waitpid(children[0].popen.pid, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM


async def test_a_machine_that_is_larger_than_this_one_is_refused_to_the_user(tmp_path):
    async with desk(tmp_path, Memory(0, SIZE - 1)) as d:
        with pytest.raises(
            RefusedError, match="768 MiB of memory: this machine has 767"
        ):
            await d.open(None)
    async with desk(tmp_path / "unknown", Memory(0, 0)) as d:
        await d.open(None)  # a size that cannot be read refuses the user nothing


def test_a_record_that_starts_no_machine_needs_no_memory():
    room = Room(lambda record, changes: None, available=lambda: 0, total=lambda: 0)
    with room.promised(SandboxName("a"), NO_CHANGES, print, for_sandbox=True):
        pass


@pytest.mark.parametrize("for_sandbox", [True, False])
async def test_the_link_says_whether_a_sandbox_has_asked(for_sandbox):
    """The host of a pair judges by its own memory."""
    sent = []

    async def call_with_fds(row, request, *, on_item):
        await trio.lowlevel.checkpoint()
        del on_item
        sent.append((row, request))
        raise UpstreamError("the link is gone")

    changes = LaunchChanges(memory_mib=512)
    peer, web = SimpleNamespace(call_with_fds=call_with_fds), SandboxName("web")
    host = SimpleNamespace(peer=peer)
    start = HostStart(host, web, changes, for_sandbox, print)
    async with trio.open_nursery() as nursery:
        with pytest.raises(UpstreamError, match="the link is gone"):
            await RemoteStarts(withdraw=None).start(start, nursery)
    assert sent == [(START, StartSandbox("web", 512, for_sandbox=for_sandbox))]
