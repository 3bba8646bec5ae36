"""Real micro VMs: boot, end, kill -9 of each process, adoption."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from broker.core.errors import SetupError, UpstreamError
from broker.core.names import SandboxName
from broker.helpers.process.spawn import PIPE, spawn
from broker.host.vmm.launcher import adopt_vm, clean_leftovers, start_vm
from broker.host.vmm.running import EndKind
from broker.host.vmm.vm_state import find_processes, read_state
from broker.host.vmm.vsock_backend import hybrid_environment
from tests.kit.vm.machines import (
    alive,
    console_says,
    leftovers,
    machine,
    require_vm,
    tiny_spec,
    vm_tools,
)
from tests.kit.vm.tinyguest import shell_listener
from tests.kit.wayland.compositor import short_directory


@pytest.fixture
def place():
    require_vm()
    with short_directory() as path:
        yield path
        for state in path.rglob("vm.json"):  # a test that failed half-way
            for process in find_processes(read_state(state.parent)).all:
                process.kill()
                process.close()


@pytest.fixture
def _no_leak():
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before, "descriptors leaked"


def text(path: Path) -> bytes:
    return path.read_bytes()


@pytest.mark.usefixtures("_no_leak")
async def test_a_guest_boots_runs_and_switches_itself_off(place):
    async with machine(place) as vm:
        # Paused: nothing of the guest has run when the listeners are made.
        assert (await vm.qmp.execute("query-status"))["status"] == "prelaunch"
        assert text(vm.console.path) == b""
        async with shell_listener(vm.uds) as accept:
            await vm.cont()
            shell = await accept()
            code, said = await shell.run("ls /sys/class/net; cat /proc/cmdline")
            assert code == 0
            assert said.splitlines()[0] == "lo", "a guest without network has no device"
            assert "vitrail.name=tiny vitrail.disposable=1" in said
            await shell.stream.send_all(b"poweroff -f\n")
            with trio.fail_after(60):
                end = await vm.wait()
        assert (end.kind, end.reason) == (
            EndKind.GUEST,
            "the guest powered off",
        )
        assert alive(vm) == []
        assert b"vitrail-probe-ok" in text(vm.console.path)
        assert stat.S_IMODE(vm.console.path.stat().st_mode) == 0o600
    assert leftovers(place) == ["logs", "logs/console.log"]


async def test_qemu_is_confined_and_told_nothing(place):
    async with machine(place) as vm:
        status = text(Path(f"/proc/{vm.vmm.pid}/status"))
        assert b"Seccomp:\t2" in status
        for process in vm.processes:
            environment = text(Path(f"/proc/{process.pid}/environ"))
            given = [
                w.partition(b"=")[0] for w in environment.strip(b"\0").split(b"\0")
            ]
            ours = (
                []
                if process is vm.vmm
                else [os.fsencode(n) for n in hybrid_environment()]
            )
            assert given == [b"PATH", *ours, b"PWD"]
        assert stat.S_IMODE(vm.directory.stat().st_mode) == 0o700
        state = vm.directory / "vm.json"
        assert stat.S_IMODE(state.stat().st_mode) == 0o600


@pytest.mark.slow
async def test_a_stream_that_is_full_both_ways_goes_on(place):
    """vhost-device-vsock 0.3 alone hangs here for ever (``_fairpoll.c``)."""
    if not hybrid_environment():
        pytest.skip("what mends vhost-device-vsock was not built; run 'make setup'")
    async with machine(place) as vm, shell_listener(vm.uds) as accept:
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(f"{vm.uds}_6600")
            listener.listen(1)
            await vm.cont()
            shell = await accept()
            cat = b"vsockx 2 6600 /bin/busybox cat >/dev/null 2>&1 &\n"
            await shell.stream.send_all(cat)
            with trio.fail_after(60):
                conn, _ = await listener.accept()
        with conn:
            for _ in range(3):
                await fill_and_empty(conn)


async def fill_and_empty(conn):
    """Send until nothing more is taken, then read it all again."""
    block = bytes(range(256)) * 256
    sent = 0
    while True:
        # Longer at first: the guest may not have read yet.
        with trio.move_on_after(1 if sent > 2 * 64 << 10 else 10) as patience:
            sent += await conn.send(block[sent % len(block) :])
        if patience.cancelled_caught:
            break
    assert sent > 2 * 64 << 10, "more than the transport keeps for one way"
    heard = b""
    with trio.fail_after(60):
        while len(heard) < sent:
            heard += await conn.recv(1 << 16)
    assert heard == (block * (sent // len(block) + 1))[:sent]


@pytest.mark.usefixtures("_no_leak")
@pytest.mark.parametrize("running", [False, True], ids=["paused", "running"])
@pytest.mark.parametrize("victim", ["QEMU", "vhost-device-vsock"])
async def test_kill_9_ends_the_whole_machine_within_a_second(place, victim, running):
    async with machine(place) as vm, AsyncExitStack() as stack:
        if running:
            accept = await stack.enter_async_context(shell_listener(vm.uds))
            await vm.cont()
            await accept()
        (process,) = [p for p in vm.processes if p.role == victim]
        os.kill(process.pid, signal.SIGKILL)
        with trio.fail_after(60):
            end = await vm.wait()
        assert end.kind is EndKind.LOST
        assert end.reason.startswith(f"{victim} ended with code -9")
        assert alive(vm) == []
        with pytest.raises(UpstreamError):
            await vm.qmp.execute("query-status")
    assert leftovers(place) == ["logs", "logs/console.log"]


async def test_a_guest_that_ignores_the_power_button_is_switched_off(place):
    async with machine(place) as vm, shell_listener(vm.uds) as accept:
        await vm.cont()
        await accept()
        with trio.fail_after(60):
            end = await vm.power_down(0.3)
        assert (end.kind, end.reason) == (EndKind.ASKED, "switched off")
        names = []
        async for event in vm.qmp.events:
            names.append(event.name)
        assert "POWERDOWN" in names, "the button was not pressed"


async def test_a_machine_that_runs_is_not_started_again(place):
    async with machine(place) as vm:
        tools = await vm_tools()
        async with trio.open_nursery() as nursery:
            with pytest.raises(SetupError, match=f"is already running .*{vm.vmm.pid}"):
                await start_vm(tiny_spec(place), tools, nursery=nursery)
        assert (await vm.qmp.execute("query-status"))["status"] == "prelaunch"


@pytest.mark.usefixtures("_no_leak")
async def test_a_start_that_fails_says_why_and_leaves_nothing(place):
    tools = await vm_tools()
    spec = tiny_spec(place, kernel=Path("/etc/hostname"))
    async with trio.open_nursery() as nursery:
        with pytest.raises(UpstreamError, match=r"kernel|hostname"):
            await start_vm(spec, tools, nursery=nursery)
    assert leftovers(place) == ["logs", "logs/console.log"]


@pytest.mark.usefixtures("_no_leak")
@pytest.mark.parametrize("after", [0, 0.01, 0.02, 0.04, 0.08])
async def test_a_start_that_is_cancelled_leaves_nothing(place, after):
    tools = await vm_tools()
    async with trio.open_nursery() as nursery:
        vm = None
        with trio.move_on_after(after):
            vm = await start_vm(tiny_spec(place), tools, nursery=nursery)
        if vm is not None:
            await vm.close()
    assert {name for name in leftovers(place) if not name.startswith("logs")} == set()
    assert mentioned_by(place) == []


def mentioned_by(place: Path) -> list[bytes]:
    """Command lines of running programs that name this directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if os.fsencode(place) in words:
            found.append(words)
    return found


async def test_a_machine_without_a_watcher_can_be_switched_off(place):
    tools = await vm_tools()
    async with trio.open_nursery() as nursery:
        vm = await start_vm(tiny_spec(place), tools, nursery=nursery)
        nursery.cancel_scope.cancel()
    assert sorted(alive(vm)) == ["QEMU", "vhost-device-vsock"]
    with trio.fail_after(60):
        assert (await vm.power_down(0)).kind is EndKind.ASKED
    assert alive(vm) == []
    await vm.close()


@pytest.mark.slow
async def test_two_machines_reach_only_their_own_sockets(place):
    async with (
        machine(place / "a", name=SandboxName("a")) as one,
        machine(place / "b", name=SandboxName("b")) as two,
    ):
        assert one.cid != two.cid
        async with (
            shell_listener(one.uds) as accept_one,
            shell_listener(two.uds) as accept_two,
        ):
            await one.cont()
            await two.cont()
            for accept, name in ((accept_one, "a"), (accept_two, "b")):
                shell = await accept()
                _, said = await shell.run("cat /proc/cmdline")
                assert f"vitrail.name={name} " in said
                # The other guest has no address that this one could use.
                other = two.cid if name == "a" else one.cid
                code, said = await shell.run(f"vsockx {other} 6500 /bin/true")
                assert code != 0, said


# -- a broker that dies ------------------------------------------------------------


async def test_a_cancelled_watcher_leaves_the_machine_to_the_next_broker(place):
    tools = await vm_tools()
    async with trio.open_nursery() as first:
        vm = await start_vm(tiny_spec(place), tools, nursery=first)
        first.cancel_scope.cancel()
    async with trio.open_nursery() as second:
        again = await adopt_vm(vm.directory, nursery=second)
        assert again is not None
        assert (again.cid, again.vmm.pid, again.uds) == (vm.cid, vm.vmm.pid, vm.uds)
        async with shell_listener(again.uds) as accept:
            await again.cont()
            shell = await accept()
            await shell.run("echo said-after-adoption >/dev/console")
            with trio.fail_after(60):
                await console_says(again.console, b"said-after-adoption")
            os.kill(again.vmm.pid, signal.SIGKILL)
            with trio.fail_after(60):
                end = await again.wait()
            assert end.kind is EndKind.LOST
        await again.close()
    await vm.close()  # the first object is of no use any more, and harmless
    assert leftovers(place) == ["logs", "logs/console.log"]


BROKER = """
import os, signal, sys
from pathlib import Path
import trio
sys.path.insert(0, sys.argv[1])
from broker.host.vmm.launcher import start_vm
from tests.kit.vm.machines import console_says, tiny_spec, vm_tools

async def main():
    async with trio.open_nursery() as nursery:
        vm = await start_vm(tiny_spec(Path(sys.argv[2])), await vm_tools(), nursery=nursery)
        await vm.cont()
        await console_says(vm.console, b"vitrail-probe-ok")
        os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""


async def killed_broker(place: Path) -> None:
    """Start a machine from a process that is then killed."""
    root = str(Path(__file__).parents[2])
    child = spawn(
        [sys.executable, "-c", BROKER, root, str(place)], name="broker", stderr=PIPE
    )
    with trio.fail_after(60):
        code = await child.wait()
    said = child.popen.stderr.read().decode()
    child.popen.stderr.close()
    assert code == -signal.SIGKILL, said


async def test_a_machine_outlives_its_broker_and_is_adopted(place):
    await killed_broker(place)
    directory = place / "tiny"
    async with trio.open_nursery() as nursery:
        vm = await adopt_vm(directory, nursery=nursery)
        assert vm is not None
        assert (await vm.qmp.execute("query-status"))["status"] == "running"
        async with shell_listener(vm.uds) as accept:
            shell = await accept()
            assert (await shell.run("echo still here")) == (0, "still here\n")
            await shell.stream.send_all(b"poweroff -f\n")
            with trio.fail_after(60):
                assert (await vm.wait()).kind is EndKind.GUEST
        await vm.close()
    assert leftovers(place) == ["logs", "logs/console.log"]


async def test_a_machine_of_a_newer_broker_is_ended(place):
    await killed_broker(place)
    directory = place / "tiny"
    running = find_processes(read_state(directory)).all
    state = directory / "vm.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"version": 2}))
    assert await clean_leftovers(directory) == len(running) >= 2
    for process in running:
        assert process.ended
        process.close()
    assert leftovers(place) == ["logs", "logs/console.log"]


async def test_what_a_killed_broker_left_is_cleaned_up(place):
    await killed_broker(place)
    directory = place / "tiny"
    found = find_processes(read_state(directory))
    (helper,) = found.helpers
    helper.kill()
    await helper.wait()
    for process in found.all:
        process.close()
    async with trio.open_nursery() as nursery:
        gone = await adopt_vm(directory, nursery=nursery)
        assert gone is None, "half a machine was adopted"
    assert await clean_leftovers(directory) >= 1
    assert leftovers(place) == ["logs", "logs/console.log"]
    assert await clean_leftovers(directory) == 0
