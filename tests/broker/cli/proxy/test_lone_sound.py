"""The sound filter that runs without a broker, before a worker that is a stub."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import trio
from msgspec.structs import replace
from trio.testing import wait_all_tasks_blocked

from broker.cli.proxy import pulse
from broker.cli.proxy.lone_sound import LoneSound
from broker.core.errors import UpstreamError
from broker.core.limits import sound as limits
from broker.core.streams.sound_rules import Level, SoundRules
from broker.ipc import worker

MICROPHONE = [
    *((False, False), (True, False), (True, True)),
    *((False, False), (True, True), (True, False)),
]
"""Whether a program wants it, and has it, within a second."""


async def test_no_more_connections_reach_the_server_than_a_sandbox_may_have():
    """Also while the server takes its time: it has 64 places for all clients."""
    asked, reported, answers = 0, [], trio.Event()
    served: list[int] = []

    async def connect() -> socket.socket:
        nonlocal asked
        asked += 1
        await answers.wait()
        near, far = socket.socketpair()
        far.close()
        return near

    async def send(order, _fds) -> None:
        await trio.lowlevel.checkpoint()
        served.append(order.stream)

    def end_all() -> None:
        for stream in served:
            sound.take(worker.SoundClosed(stream, 0, 0, "closed"))
        served.clear()

    sound = LoneSound(
        *(SimpleNamespace(send=send), SoundRules("work"), Level()),
        connect=connect,
        told=SimpleNamespace(failed=reported.append),
        signs=None,
    )
    most = limits.PULSE_CONNECTIONS
    with ExitStack() as stack, trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(most + 3):
                ours, theirs = socket.socketpair()
                stack.enter_context(theirs)
                nursery.start_soon(sound.program, ours)
            await wait_all_tasks_blocked()
            assert asked == most
            answers.set()
            await wait_all_tasks_blocked()
            assert len(served) == most
            end_all()  # others have waited for that
            await wait_all_tasks_blocked()
            assert (asked, len(served)) == (most + 3, 3)
            end_all()
    assert reported == []


async def test_a_filter_that_does_not_give_the_microphone_back_is_ended(autojump_clock):
    ended: list[str] = []

    async def send(*_order) -> None:
        await trio.lowlevel.checkpoint()  # and nothing is answered

    async def close(reason: str) -> None:
        await trio.lowlevel.checkpoint()
        ended.append(reason)

    sound = LoneSound(
        *(SimpleNamespace(send=send, close=close), SoundRules("work"), Level()),
        connect=None,
        told=None,
        signs=None,
    )
    with pytest.raises(UpstreamError, match="did not obey"):
        await sound.set_microphone(allow=False)
    assert ended == ["it did not change the recorded source"]


async def test_each_change_of_the_microphone_is_printed(capsys):
    """Scripts and users go by the last line: what it says is so."""
    told = pulse._Told(json=True)
    state = worker.SoundState(1, 0, False, False, "mumble", "", "")
    states = [replace(state, wanted=w, active=a) for w, a in MICROPHONE]
    for one in states:
        told.event(one)
        for number in range(2, 20):
            told.event(replace(one, streams=number))
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["wanted"], line["active"]) for line in printed] == MICROPHONE
