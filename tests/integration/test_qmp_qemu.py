"""QMP with a real QEMU: refusals in its own words, events, its death."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress

import pytest
import trio

from broker.core.errors import UpstreamError
from broker.helpers.console_log import ConsoleLog
from broker.host.processes.ready import listen_unix
from broker.host.processes.tracked import spawn_helper
from broker.host.vmm.qemu_arguments import Accel, Network
from broker.host.vmm.qmp import QmpError, open_qmp
from broker.host.vmm.running import Vm
from broker.host.vmm.vm_state import VmState
from tests.kit.needs import requires
from tests.kit.wayland.compositor import short_directory

pytestmark = requires("qemu-system-x86_64")


@pytest.fixture
async def qemu():
    """A machine that never runs, with a USB controller to plug things into."""
    with short_directory() as place:
        path = place / "qmp"
        with listen_unix(path) as listener:
            words = f"socket,id=qmp,fd={listener.fileno()},server=on,wait=off"
            process = spawn_helper(
                "QEMU",
                [
                    *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-m", "64"),
                    *("-S", "-nodefaults", "-no-user-config", "-nographic"),
                    *("-device", "qemu-xhci,id=xhci"),
                    *("-chardev", words, "-mon", "chardev=qmp,mode=control"),
                ],
                pass_fds=(listener.fileno(),),
            )
        try:
            yield process, path
        finally:
            await process.end(0)
            process.close()


async def run(qmp, task_status=trio.TASK_STATUS_IGNORED):
    with pytest.raises(UpstreamError):
        await qmp.run()


async def test_commands_refusals_and_events(qemu):
    _, path = qemu
    async with trio.open_nursery() as nursery:
        qmp = await open_qmp(path)
        nursery.start_soon(run, qmp)
        status = await qmp.execute("query-status")
        assert status == {"running": False, "singlestep": False, "status": "prelaunch"}
        with pytest.raises(QmpError, match="Device 'nope' not found") as caught:
            await qmp.execute("device_del", {"id": "nope"})
        assert caught.value.kind == "DeviceNotFound"
        with pytest.raises(QmpError, match=r"No 'nobus' bus|Bus 'nobus' not found"):
            await qmp.execute("device_add", {"driver": "usb-kbd", "bus": "nobus"})
        await qmp.execute("device_add", {"driver": "usb-kbd", "id": "k"})
        await qmp.execute("device_del", {"id": "k"})
        with trio.fail_after(30):
            async for event in qmp.events:
                if event.name == "DEVICE_DELETED" and event.data.get("device") == "k":
                    break
        with pytest.raises(QmpError) as caught:
            await qmp.execute("no-such-command")
        assert caught.value.kind == "CommandNotFound"
        await qmp.execute("quit")


async def test_the_largest_answer_fits_into_the_limit(qemu):
    _, path = qemu
    async with trio.open_nursery() as nursery:
        qmp = await open_qmp(path)
        nursery.start_soon(run, qmp)
        schema = await qmp.execute("query-qmp-schema")
        assert len(schema) > 100
        await qmp.execute("quit")


async def test_many_commands_at_once(qemu):
    _, path = qemu
    async with trio.open_nursery() as outer:
        qmp = await open_qmp(path)
        outer.start_soon(run, qmp)
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(qmp.execute, "query-status")
        await qmp.execute("quit")


async def test_kill_9_ends_the_command_that_waits(qemu):
    process, path = qemu
    async with trio.open_nursery() as nursery:
        qmp = await open_qmp(path)
        nursery.start_soon(run, qmp)
        os.kill(process.pid, signal.SIGKILL)
        # The first may be answered before the signal arrives.
        with trio.fail_after(30), suppress(UpstreamError):
            await qmp.execute("query-status")
            await process.wait()
        with (
            trio.fail_after(30),
            pytest.raises(UpstreamError, match="no longer running"),
        ):
            await qmp.execute("query-status")


async def test_a_second_connection_takes_over_after_the_first(qemu):
    _, path = qemu
    for last in (False, True):
        async with trio.open_nursery() as nursery:
            qmp = await open_qmp(path)
            nursery.start_soon(run, qmp)
            await qmp.execute("query-status")
            if last:
                await qmp.execute("quit")
            else:
                nursery.cancel_scope.cancel()


async def test_a_stopped_qemu_meets_the_deadline(qemu):
    process, path = qemu
    async with trio.open_nursery() as nursery:
        qmp = await open_qmp(path)
        nursery.start_soon(run, qmp)
        process.kill(signal.SIGSTOP)
        with pytest.raises(UpstreamError, match=r"within 0\.2 s"):
            await qmp.execute("query-status", deadline=0.2)
        process.kill(signal.SIGCONT)
        assert (await qmp.execute("query-status"))["status"] == "prelaunch"
        await qmp.execute("quit")


def test_a_stale_socket_is_replaced():
    with short_directory() as place:
        path = place / "s"
        listen_unix(path).close()
        with listen_unix(path), socket.socket(socket.AF_UNIX) as conn:
            assert path.stat().st_mode & 0o777 == 0o600
            conn.connect(str(path))


async def test_a_machine_without_a_console_does_not_keep_its_monitor(qemu, tmp_path):
    """QEMU speaks to one at a time: the next attempt must be heard."""
    process, path = qemu
    state = VmState(
        boot="",
        name="work",
        cid=3,
        vsock="hybrid",
        accel=Accel.TCG,
        network=Network.NONE,
        disposable=True,
        logs=str(tmp_path),
        helpers={},
    )
    console = ConsoleLog(tmp_path)
    vm = Vm(path.parent, state, vmm=process, helpers=(), console=console)
    async with trio.open_nursery() as nursery:
        with pytest.raises(UpstreamError, match=r"cannot connect to .*console"):
            await vm.connect(nursery)
    with pytest.raises(UpstreamError, match="not connected"):
        await vm.cont()
    console.close()
    qmp = await open_qmp(path)
    await qmp.close()
    with pytest.raises(UpstreamError, match="no longer running"):
        await qmp.execute("query-status")
