"""What a machine's launcher says to its guest when it runs."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.host.vmm import running
from broker.host.vmm.control import QemuControl
from broker.host.vmm.qmp import QmpEvent
from broker.host.vmm.running import EndKind, Vm


class Control:
    def __init__(self, port):
        self.port = port

    async def cont(self):
        with pytest.raises(BlockingIOError):
            self.port.recv(100)


class Quiet:
    async def cont(self):
        pass


@pytest.fixture
def port():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.settimeout(0)
        yield ours, theirs


@pytest.fixture
def vm(tmp_path, port):
    ended = []
    vmm = SimpleNamespace(kill=lambda: ended.append("kill"), close=lambda: None)
    console = SimpleNamespace(close=lambda: ended.append("console"))

    async def end(_grace):
        ended.append("end")

    vmm.end = end
    made = Vm(tmp_path, SimpleNamespace(cid=3), vmm=vmm, helpers=(), console=console)
    made._control = Control(port[1])
    return made


async def test_a_guest_hears_its_word_once_when_it_runs_and_not_before(vm, port):
    ours, theirs = port
    vm.say_when_running(ours, b"begin")
    await vm.cont()
    assert theirs.recv(100) == b"begin"
    await vm.cont()
    with pytest.raises(BlockingIOError):
        theirs.recv(100)
    await vm.close()
    assert theirs.recv(100) == b"", "it is closed with the machine"


async def test_a_machine_that_ends_meanwhile_is_not_an_error_of_the_port(vm, port):
    ours, theirs = port
    vm.say_when_running(ours, b"begin")
    theirs.close()
    vm._control = Quiet()
    await vm.cont()
    await vm.close()


async def test_a_full_disk_under_a_machine_is_told_once(tmp_path, monkeypatch):
    """Its guest saw an error, and the user a terminal that forgot."""
    told, taken = [], []

    async def connect(_directory, events):
        await trio.lowlevel.checkpoint()
        taken.append(events)
        return Quiet(), None

    monkeypatch.setattr(running, "connect_qemu", connect)
    vm = Vm(
        tmp_path,
        SimpleNamespace(cid=3),
        vmm=None,
        helpers=(),
        console=None,
        on_loss=told.append,
    )
    await vm.connect(SimpleNamespace(start_soon=lambda *_: None))
    (events,) = taken
    other = {"device": "home", "operation": "write", "nospace": False}
    events.take(QmpEvent("BLOCK_IO_ERROR", other))
    assert told == []
    for _ in range(3):
        events.take(QmpEvent("BLOCK_IO_ERROR", {**other, "nospace": True}))
    assert len(told) == 1
    assert "the disk that holds its home is full" in told[0]


@pytest.mark.parametrize("asked", [True, False])
async def test_a_network_that_goes_with_a_machine_that_stops_is_no_loss(
    tmp_path, autojump_clock, asked
):
    """A stop that took longer than half a second was logged as a failure of passt."""
    told = []

    async def lives():
        await trio.sleep_forever()

    async def has_ended():
        await trio.lowlevel.checkpoint()
        return 0

    vmm = SimpleNamespace(wait=lives, ended=False)
    passt = SimpleNamespace(role="passt", wait=has_ended, words="")
    vm = Vm(
        tmp_path,
        SimpleNamespace(cid=3),
        vmm=vmm,
        helpers=(passt,),
        console=None,
        on_loss=told.append,
    )
    if asked:
        vm._blame(EndKind.ASKED, "switched off")
    await vm._watch_helper(passt)
    lost = "passt ended with code 0: the guest no longer has a network"
    assert told == ([] if asked else [lost])


class FakeQmp:
    """QEMU's monitor of a machine that has stopped, until its disk has room."""

    def __init__(self):
        self.status = ["io-error", "io-error", "running"]
        self.commands = []

    async def run(self):
        await trio.sleep(1000)
        raise UpstreamError("QEMU has gone")

    async def execute(self, command):
        await trio.lowlevel.checkpoint()
        self.commands.append((command, round(trio.current_time())))
        return {"status": self.status.pop(0)} if command == "query-status" else {}


async def test_a_machine_with_a_full_disk_tries_again_until_there_is_room(
    autojump_clock,
):
    qmp = FakeQmp()
    control = QemuControl(qmp)
    with pytest.raises(UpstreamError, match="QEMU has gone"):
        await control.run()
    names = [name for name, _ in qmp.commands]
    # Asked at once: an earlier broker may have had the event.
    again = ["query-status", "cont"]
    assert names == [*again, *again, "query-status"]
    assert qmp.commands[3][1] - qmp.commands[1][1] >= limits.VM_ROOM_SECONDS


async def test_a_machine_that_was_stopped_by_others_is_not_let_go(autojump_clock):
    qmp = FakeQmp()
    qmp.status = ["paused", "paused"]
    control = QemuControl(qmp)
    with pytest.raises(UpstreamError):
        await control.run()
    assert [name for name, _ in qmp.commands] == ["query-status"]


async def test_a_machine_that_could_not_be_let_go_on_is_let_go_on_later(
    autojump_clock,
):
    """It has stopped and has no second error: QEMU was busy, and it stood for good."""
    qmp = FakeQmp()
    asked = qmp.execute

    async def busy(command):
        answer = await asked(command)
        if len(qmp.commands) == 2:
            raise UpstreamError("QEMU did not answer within 30 s")
        return answer

    qmp.execute = busy
    with pytest.raises(UpstreamError, match="QEMU has gone"):
        await QemuControl(qmp).run()
    again = ["query-status", "cont"]
    assert [name for name, _ in qmp.commands] == [*again, *again, "query-status"]
