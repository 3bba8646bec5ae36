"""Our micro VM as a machine that can be suspended."""

from __future__ import annotations

import signal
import sys
from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest
import trio

from broker.core.errors import RefusedError
from broker.core.process_status import status_fields
from broker.host.launchers.microvm_machine import MicroVmMachine
from broker.host.processes.tracked import spawn_helper
from broker.host.vmm.running import Vm
from tests.kit.eventually import eventually

STUBBORN = "import time\nwhile True: time.sleep(0.01)"


@pytest.fixture
def machine(monkeypatch):
    """A machine whose VMM is a program that does not end by itself."""
    monkeypatch.setattr("broker.host.launchers.microvm_machine._claim", lambda _: None)
    vmm = spawn_helper("QEMU", [sys.executable, "-c", STUBBORN])
    vm = Vm("/nowhere", None, vmm=vmm, helpers=(), console=None)
    vm._control = SimpleNamespace(qmp="monitor")
    monkeypatch.setattr(Vm, "qmp", property(lambda self: self._control.qmp))
    yield MicroVmMachine("app", vm, None, None)
    vmm.kill_now()


@pytest.mark.parametrize("keep", [True, False])
async def test_console_of_ended_machine(machine, monkeypatch, tmp_path, keep):
    """The guest's console is the host's; the viewer removes the programs' logs."""
    logs = tmp_path / "logs"
    logs.mkdir()
    monkeypatch.setattr(machine, "_keep_logs", keep)
    monkeypatch.setattr(machine._vm, "state", SimpleNamespace(logs=str(logs)))
    monkeypatch.setattr(machine._vm, "close", trio.lowlevel.checkpoint)
    monkeypatch.setattr(machine._vm, "directory", tmp_path / "directory")
    machine._log = SimpleNamespace(note=AsyncMock())
    await machine.close()
    assert logs.exists() is keep


def is_stopped(machine) -> bool:
    return status_fields(machine._vm.vmm.pid)["State"][0] == "T"


async def test_a_suspended_machine_is_stopped_and_asked_nothing(machine):
    await machine.suspend()
    await eventually(lambda: is_stopped(machine))
    with pytest.raises(RefusedError, match="app is suspended"):
        assert machine.qmp
    await machine.resume()
    await eventually(lambda: not is_stopped(machine))
    assert machine.qmp == "monitor"


async def test_a_suspended_machine_that_is_ended_runs_again(machine, monkeypatch):
    """Else its guest would not hear that it is to end, and write nothing back."""
    stopped = []

    async def power_down(_vm, grace):
        await eventually(lambda: not is_stopped(machine))
        stopped.append(grace)
        machine._vm.vmm.kill(signal.SIGKILL)

    monkeypatch.setattr(Vm, "power_down", power_down)
    await machine.suspend()
    await eventually(lambda: is_stopped(machine))
    await machine.power_down(5)
    assert stopped == [5]
