"""Messages between the broker and a worker."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import limits
from broker.core.errors import InternalError, PeerError
from broker.core.streams.wayland_rules import WindowRules
from broker.ipc import agent, worker
from broker.ipc.fork_server import Jail
from tests.broker.ipc import test_clipboard as clipboard

FROM_WORKER = [
    worker.WorkerReady(Jail(namespaces=True, seccomp=True, landlock=7)),
    worker.FromAgent(1, agent.AgentHello(version=1, waypipe="0.8.4", kernel="6.1")),
    worker.FromAgent(1, agent.Output(program=3, data=b"\x00\xff\n")),
    worker.FromAgent(1, agent.AgentExited(program=3, code=-9)),
    worker.FromAgent(
        1, agent.AgentStep(name="waypipe", ok=False, detail="no such file")
    ),
    worker.AgentClosed(1, "the guest agent closed"),
    worker.WaylandOpened(4),
    worker.WaylandClosed(4, 100, 200, "client closed"),
    worker.WaylandClosed(4, 1, 2, "a bad message", worker.Fault.CLIENT),
    worker.WorkerStatistics(1),
    worker.WorkerStatistics(1, [worker.Use("windows", 1, 128, 3)]),
    worker.Windows(
        1, [worker.WindowReport(1, "t", "a", 2, 3, focused=True)], last=False
    ),
    worker.WindowClosed(1, "no such window"),
    worker.LimitHit("windows", 7),
    worker.Traced(["#1 a line"], 2),
    worker.Violation("too many"),
    worker.Broken("Traceback"),
]
TO_WORKER = [
    worker.FrameRules(
        WindowRules("work", 0xFF0000, ceilings={"windows": 3}, strip=b"1234")
    ),
    worker.AgentStream(1),
    worker.ToAgent(agent.Run(program=1, argv=["foot"], env={"A": "b"})),
    worker.ToAgent(agent.AgentPowerOff()),
    worker.AskStatistics(),
    worker.WaylandStream(7),
    worker.AskWindows(3),
    worker.CloseWindow(4, 5, cut=True),
    worker.StopWorker(),
]


@pytest.mark.parametrize(
    "message", FROM_WORKER + clipboard.FROM_WORKER, ids=lambda m: type(m).__name__
)
def test_what_a_worker_says_arrives(message):
    assert worker.decode_from_worker(worker.encode(message)) == message


@pytest.mark.parametrize(
    "message", TO_WORKER + clipboard.TO_WORKER, ids=lambda m: type(m).__name__
)
def test_what_a_worker_is_told_arrives(message):
    assert worker.decode_to_worker(worker.encode(message)) == message


def _packet(**fields):
    return msgspec.msgpack.encode(fields)


HOSTILE = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"\xc1", id="no-msgpack"),
    pytest.param(_packet(type="stop"), id="an-order"),
    pytest.param(_packet(type="forked", number=1, pid=1), id="a-fork-server's-word"),
    pytest.param(_packet(type="wayland-opened"), id="field-missing"),
    pytest.param(_packet(type="wayland-opened", client=1, x=1), id="field-unknown"),
    pytest.param(_packet(type="wayland-opened", client=-1), id="negative"),
    pytest.param(_packet(type="wayland-opened", client=1.5), id="a-float"),
    pytest.param(_packet(type="wayland-opened", client="1"), id="a-text"),
    pytest.param(_packet(type="wayland-opened", client=1 << 63), id="too-large"),
    pytest.param(_packet(type="violation", reason="x" * 4001), id="text-too-long"),
    pytest.param(_packet(type="violation", reason=b"x"), id="bytes-for-text"),
    pytest.param(
        _packet(type="from-agent", stream=1, message={"type": "poweroff"}),
        id="guest-orders",
    ),
    pytest.param(
        _packet(
            type="from-agent",
            stream=1,
            message={"type": "exited", "program": 1, "code": 256},
        ),
        id="code-out-of-range",
    ),
    pytest.param(
        _packet(
            type="from-agent",
            stream=1,
            message={
                "type": "output",
                "program": 1,
                "data": b"x" * (limits.AGENT_OUTPUT_BYTES + 1),
            },
        ),
        id="output-too-long",
    ),
    pytest.param(worker.encode(worker.WaylandOpened(1)) + b"\x00", id="trailing-byte"),
    pytest.param(b"\x91" * 100_000, id="nested-deep"),
]


@pytest.mark.parametrize("untrusted", HOSTILE)
def test_a_worker_that_lies_is_refused(untrusted):
    with pytest.raises(PeerError, match="invalid message"):
        worker.decode_from_worker(untrusted)


@given(st.binary(max_size=300))
def test_no_bytes_give_anything_but_a_message_or_a_refusal(untrusted):
    try:
        message = worker.decode_from_worker(untrusted)
    except PeerError:
        return
    assert worker.decode_from_worker(worker.encode(message)) == message


def test_text_at_the_limit_passes():
    longest = worker.Violation("x" * 4000)
    assert worker.decode_from_worker(worker.encode(longest)) == longest
    assert len(worker.clip("x" * 4000)) == 4000
    assert len(worker.clip("x" * 4001)) == 4000


def test_a_message_of_ours_that_is_none_is_our_mistake():
    with pytest.raises(InternalError):
        worker.decode_to_worker(_packet(type="ready"))


def test_the_largest_agent_message_fits():
    run = agent.Run(program=1, argv=["x" * (limits.AGENT_FRAME_BYTES - 200)])
    assert len(agent.encode(run)) <= limits.AGENT_FRAME_BYTES
    assert len(worker.encode(worker.ToAgent(run))) <= limits.WORKER_MESSAGE_BYTES


def test_beyond_the_limit_is_not_sent():
    run = agent.Run(program=1, argv=["x" * limits.WORKER_MESSAGE_BYTES])
    with pytest.raises(InternalError):
        worker.encode(worker.ToAgent(run))
