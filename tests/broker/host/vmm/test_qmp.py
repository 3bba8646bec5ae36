"""QMP: lines to messages, and a client against a monitor that misbehaves."""

from __future__ import annotations

import itertools
import json
import socket

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.host.vmm import qmp as module
from broker.host.vmm.qmp import (
    Answered,
    Greeting,
    Qmp,
    QmpError,
    QmpEvent,
    QmpFailed,
    QmpReader,
    encode_command,
)

GREETING = b'{"QMP": {"version": {}, "capabilities": ["oob"]}}\r\n'
EVENT = (
    b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", '
    b'"data": {"guest": true, "reason": "guest-shutdown"}}\r\n'
)
ANSWER = b'{"return": {"status": "running"}, "id": 7}\r\n'
FAILURE = b'{"id": 8, "error": {"class": "GenericError", "desc": "no\\u001b[2J"}}\r\n'


def test_the_four_kinds_of_line():
    greeting, event, answer, failure = QmpReader().feed(
        GREETING + EVENT + ANSWER + FAILURE
    )
    assert isinstance(greeting, Greeting)
    assert event == QmpEvent("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})
    assert answer == Answered({"status": "running"}, 7)
    assert isinstance(failure, QmpFailed)
    assert failure.id == 8


@given(st.lists(st.integers(0, 400), max_size=20))
def test_chunking_changes_nothing(cuts):
    stream = GREETING + EVENT + ANSWER + b"\r\n" + FAILURE
    marks = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    reader = QmpReader()
    got = []
    for start, end in itertools.pairwise(marks):
        got += reader.feed(stream[start:end])
    assert got == QmpReader().feed(stream)


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"7",
        b"{}",
        b'{"return": {}, "error": {}}',
        b'{"return": {}}',  # to no command
        b'{"return": {}, "id": "seven"}',
        b'{"event": 7}',
        b'{"error": "text"}',
        b'{"event": "' + b"x" * 2001 + b'"}',
        b"\xff\xfe",
        b"[" * 100000,
        b'{"return": ' + b"[" * 100000,
    ],
)
def test_anything_else_is_refused(line):
    with pytest.raises(UpstreamError):
        QmpReader().feed(line + b"\n")


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_an_error_of_ours(data):
    try:
        QmpReader().feed(data + b"\n")
    except UpstreamError:
        return


def test_a_line_at_the_limit_passes_and_one_more_byte_does_not():
    line = b'{"return": "' + b"x" * 50 + b'", "id": 1}'
    assert QmpReader(len(line)).feed(line + b"\n") == [Answered("x" * 50, 1)]
    with pytest.raises(UpstreamError):
        QmpReader(len(line) - 1).feed(line + b"\n")
    with pytest.raises(UpstreamError):  # without an end, too
        QmpReader(len(line) - 1).feed(line)


def test_a_command_is_one_line_whatever_its_arguments_hold():
    line = encode_command("device_add", 3, {"id": 'a\n"b', "port": 1})
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "execute": "device_add",
        "id": 3,
        "arguments": {"id": 'a\n"b', "port": 1},
    }


class Monitor:
    """The far end: a QEMU that says what the test tells it to."""

    def __init__(self):
        self.ours, self.stream = (
            trio.SocketStream(trio.socket.from_stdlib_socket(end))
            for end in socket.socketpair()
        )

    async def command(self) -> dict:
        line = b""
        while not line.endswith(b"\n"):
            line += await self.stream.receive_some(1)
        return json.loads(line)

    async def say(self, **message) -> None:
        await self.stream.send_all(json.dumps(message).encode() + b"\r\n")


@pytest.fixture
async def far():
    made = Monitor()
    async with made.ours, made.stream:
        yield made


@pytest.fixture
async def monitor(far, nursery):
    far.qmp = Qmp(far.ours)
    await far.stream.send_all(GREETING)
    nursery.start_soon(far.qmp.negotiate)
    assert (await far.command())["execute"] == "qmp_capabilities"
    await far.say(**{"return": {}, "id": 0})
    await trio.testing.wait_all_tasks_blocked()
    return far


async def running(qmp: Qmp) -> str:
    try:
        await qmp.run()
    except UpstreamError as error:
        return str(error)
    raise AssertionError("run returned")


async def test_answers_find_their_commands_in_any_order(monitor, nursery):
    nursery.start_soon(running, monitor.qmp)
    got = {}

    async def ask(name):
        got[name] = await monitor.qmp.execute(name)

    nursery.start_soon(ask, "one")
    first = await monitor.command()
    nursery.start_soon(ask, "two")
    second = await monitor.command()
    await monitor.say(event="RTC_CHANGE")
    await monitor.say(**{"return": "2", "id": second["id"]})
    await monitor.say(**{"return": "1", "id": first["id"]})
    await trio.testing.wait_all_tasks_blocked()
    assert got == {first["execute"]: "1", second["execute"]: "2"}
    await monitor.stream.aclose()


async def test_a_refusal_is_escaped_for_showing(monitor, nursery):
    nursery.start_soon(running, monitor.qmp)

    async def refuse():
        number = (await monitor.command())["id"]
        error = {"class": "GenericError", "desc": "no \x1b[2J"}
        await monitor.say(id=number, error=error)

    nursery.start_soon(refuse)
    with pytest.raises(QmpError, match="rejected device_del") as caught:
        await monitor.qmp.execute("device_del", {"id": "x"})
    assert caught.value.kind == "GenericError"
    assert "\x1b" not in str(caught.value)
    await monitor.stream.aclose()


async def test_silence_ends_at_the_deadline_and_a_late_answer_is_unknown_request(
    monitor, nursery, autojump_clock
):
    nursery.start_soon(running, monitor.qmp)
    with pytest.raises(UpstreamError, match="within 5 s"):
        await monitor.qmp.execute("query-status", deadline=5)
    number = (await monitor.command())["id"]
    await monitor.say(**{"return": "late", "id": number})

    async def answer():
        await monitor.say(**{"return": "mine", "id": (await monitor.command())["id"]})

    nursery.start_soon(answer)
    assert await monitor.qmp.execute("query-status") == "mine"
    await monitor.stream.aclose()


async def test_the_end_of_the_connection_ends_every_command(monitor, nursery):
    nursery.start_soon(running, monitor.qmp)

    async def hang_up():
        await monitor.command()
        await monitor.stream.aclose()

    nursery.start_soon(hang_up)
    with pytest.raises(UpstreamError, match="no longer running"):
        await monitor.qmp.execute("query-status")
    with pytest.raises(UpstreamError, match="no longer running"):
        await monitor.qmp.execute("query-status")


async def test_events_beyond_the_limit_are_dropped(monitor, nursery):
    nursery.start_soon(running, monitor.qmp)
    for number in range(limits.QMP_EVENTS + 1):
        await monitor.say(event=f"E{number}")
    await trio.testing.wait_all_tasks_blocked()
    for number in range(limits.QMP_EVENTS):
        assert monitor.qmp.events.receive_nowait().name == f"E{number}"
    with pytest.raises(trio.WouldBlock):
        monitor.qmp.events.receive_nowait()
    await monitor.stream.aclose()


@pytest.mark.parametrize(
    "first", [b"SSH-2.0-OpenSSH\r\n", ANSWER, b'{"event": "X"}\n' + ANSWER]
)
async def test_what_does_not_greet_is_no_monitor(far, first):
    await far.stream.send_all(first)
    with pytest.raises(UpstreamError):
        await Qmp(far.ours).negotiate()


async def test_a_monitor_that_says_nothing_is_given_up(far, autojump_clock):
    with pytest.raises(UpstreamError, match="greeting"):
        await Qmp(far.ours).negotiate()


async def test_a_second_greeting_ends_the_connection(monitor, nursery):
    await monitor.stream.send_all(GREETING)
    assert await running(monitor.qmp) == "QEMU sent the QMP greeting twice"


async def test_a_missing_socket_is_an_error_of_ours(tmp_path):
    with pytest.raises(UpstreamError, match="cannot connect"):
        await module.open_qmp(tmp_path / "none")
