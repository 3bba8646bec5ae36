"""Orders about our own programs: fork servers that a viewer has started."""

from __future__ import annotations

import os
import signal
import socket
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.helpers.process.fork_client import ForkServer
from broker.helpers.process.memory import read_memory
from broker.helpers.pump.starting import PUMPS, fork_pump
from broker.host_and_viewer.measured_rows import Found
from broker.ipc.session.display_orders import FindCompositor
from broker.viewer.orders.session_orders import order_server
from broker.viewer.part import measure
from broker.viewer.workers import pool
from tests.kit.eventually import eventually
from tests.kit.relay.sockets import running
from tests.kit.session import rows_of, starter_of_orders


@pytest.fixture
def orders():
    with starter_of_orders() as session:
        yield session


def _variables(pid):
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_an_ordered_fork_server_forks_and_is_replaced_when_it_has_died(orders):
    told = []
    heard = trio.Event()

    async def died(pid, code):
        told.append((pid, code))
        heard.set()
        await trio.lowlevel.checkpoint()

    server = ForkServer(PUMPS, partial(order_server, orders))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.reap, died)
        async with running(await fork_pump(server)) as pump:
            dead = server.pid
            os.kill(dead, signal.SIGKILL)
            with trio.fail_after(30):
                await heard.wait()
            assert not Path(f"/proc/{dead}").exists(), "the starter has reaped it"
            assert pump.statistics().alive, "its children continue to run"
            async with running(await fork_pump(server)) as other:
                assert other.statistics().alive
                assert server.pid not in {0, dead}
        last = server.pid
        await server.close()
        assert not Path(f"/proc/{last}").exists()
        nursery.cancel_scope.cancel()
    assert told[0] == (dead, -signal.SIGKILL)


async def test_an_ordered_fork_server_has_few_variables_and_no_file_of_the_session():
    environ = dict(os.environ, TOKEN_OF_THE_SESSION="secret")
    with starter_of_orders(environ) as orders:
        server = ForkServer(PUMPS, partial(order_server, orders))
        async with running(await fork_pump(server)):
            assert b"secret" not in _variables(server.pid)
            assert b"PATH=" in _variables(server.pid)
            place = Path(f"/proc/{server.pid}/fd")
            files = {link.name: os.readlink(link) for link in place.iterdir()}
            assert [n for n, to in files.items() if to.startswith("/memfd")] == []
            mine = os.readlink("/proc/self/fd/2")
            assert files["2"] == mine, "its children write where the broker does"
            assert os.readlink(f"/proc/{server.pid}/cwd") == "/"
        await server.close()


@pytest.mark.parametrize(
    "program", [PUMPS, pool.FORK_SERVER], ids=["helpers", "workers"]
)
async def test_an_ordered_fork_server_ends_with_the_broker(program):
    """With the starter that it is a child of, or when its client has gone."""
    with starter_of_orders() as orders:
        server = ForkServer(program, partial(order_server, orders))
        run = await server._running()
        pid = server.pid
        assert Path(f"/proc/{pid}").exists()
    run._channel.close()  # as where the viewer's process ends
    await eventually(lambda: not Path(f"/proc/{pid}").exists(), deadline=60)
    await server.close()


async def test_a_viewer_without_a_starter_starts_no_fork_server(orders):
    os.kill(orders._server.pid, signal.SIGKILL)
    server = ForkServer(PUMPS, partial(order_server, orders))
    with pytest.raises(Exception, match="cannot start a process for") as caught:
        await fork_pump(server)
    assert "restart the broker" in caught.value.hint


@pytest.mark.parametrize("there", [True, False])
async def test_the_compositor_of_the_session_is_found(tmp_path, there):
    path = tmp_path / "wayland-7"
    environ = dict(os.environ, XDG_RUNTIME_DIR=str(tmp_path), WAYLAND_DISPLAY=path.name)
    with socket.socket(socket.AF_UNIX) as compositor, starter_of_orders(environ) as it:
        compositor.bind(str(path))
        if there:
            compositor.listen()
        answer = await it.carry_out(FindCompositor())
    assert answer.value.path == (os.fsencode(path) if there else b"")


async def test_processes_of_the_broker_are_measured(orders):
    """The viewer, its children, the starter's."""
    server = ForkServer(PUMPS, partial(order_server, orders))
    async with running(await fork_pump(server)) as pump:
        pids = [os.getpid(), orders._server.pid, server.pid, pump.statistics().pid]
        found: Found = {}
        await measure(orders, rows_of([0, *pids, 1 << 40]), found)
        assert list(found) == pids
        for pid in pids:
            assert found[pid].memory == pytest.approx(
                read_memory(pid).proportional, rel=0.5
            )
        assert found[pump.statistics().pid].jail == "seccomp"
    await server.close()


async def test_a_pump_whose_fork_server_has_died_is_measured(orders):
    server = ForkServer(PUMPS, partial(order_server, orders))
    async with running(await fork_pump(server)) as pump:
        await server.close()
        found: Found = {}
        await measure(orders, rows_of([pump.statistics().pid]), found)
        assert found[pump.statistics().pid].memory > 0


async def test_without_a_starter_there_are_no_figures(orders):
    os.kill(orders._server.pid, signal.SIGKILL)
    found: Found = {}
    await measure(orders, rows_of([os.getpid()]), found)
    assert found == {}
