"""A real machine's connections over its port: commands, a broker that goes, a death."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from broker.core.services import AGENT, DISPLAY, OPEN_URL, PORTS
from broker.host.vmm.running import EndKind
from broker.ipc import agent
from tests.kit.needs import FORKING_VM
from tests.kit.vm.agent_broker import AgentBroker
from tests.kit.vm.copies import output, stage
from tests.kit.vm.machines import alive

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), FORKING_VM]


ABOUT = """
ls -ln /run/vitrail/port | sed 1d
python3 - <<'END'
import socket
s = socket.socket(socket.AF_UNIX)
s.connect("/run/vitrail/port/6502")
print("answer", s.recv(1)[0])
END
"""
AWAY_SECONDS = 8.0
"""Without broker; the program's output comes after three of them."""


async def about_its_sockets(broker):
    said = await output(broker, ABOUT)
    assert "answer 2" in said, "no process of ours listens at that port: ENOENT"
    ours = [line for line in said if line.startswith("srw------- 1 1000 ")]
    assert len(ours) == len(PORTS)


async def link_is_asked_for(broker, vm):
    path = Path(f"{vm.uds}_{PORTS[OPEN_URL]}")
    listener = broker._listen(path)
    await broker.run("vitrail-open", "http://one.example/", program=2)
    await broker.receive(agent.AgentStarted)
    async with await listener.accept() as stream:
        assert b"http://one.example/" in await stream.receive_some(4096)
    said, code = await broker.ended(2)
    assert code != 0
    assert b"interrupted" in said


async def output_waits_for_the_next_broker(broker, vm):
    paths = [Path(f"{vm.uds}_{PORTS[name]}") for name in (AGENT, DISPLAY)]
    await broker.run("sh", "-c", "sleep 3; echo late", program=3)
    await broker.receive(agent.AgentStarted)
    await broker.close_all()
    paths[0].unlink()
    await trio.sleep(AWAY_SECONDS)
    second = AgentBroker(*paths)
    await second.accept()
    said, code = await second.ended(3)
    assert (said, code) == (b"late\n", 0)
    return second


async def test_a_machine_is_reached_by_its_port_alone():
    async with stage() as s:
        await s.starter.make(await s.request("maker", mode="shared"))
        async with s.machine("one", mode="shared", seconds=300) as (made, broker, vm):
            assert (made.how, made.why) == ("fork", "")
            assert {p.role for p in vm.processes} == {"QEMU", "port-mux"}
            await about_its_sockets(broker)
            await link_is_asked_for(broker, vm)
            second = await output_waits_for_the_next_broker(broker, vm)
            (mux,) = (p for p in vm.processes if p.role == "port-mux")
            mux.kill()
            end = await vm.wait()
            assert (end.kind, end.reason) == (
                EndKind.LOST,
                "port-mux ended with code -9",
            )
            assert alive(vm) == []
            await second.close_all()
