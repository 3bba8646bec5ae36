"""Several commands that need a broker at once start one between them."""

from __future__ import annotations

import fcntl
import os

import pytest
import trio

from broker.cli.run import start
from broker.cli.run.start import end_broker, ensure_broker
from broker.core.errors import UpstreamError
from broker.core.paths import Paths
from broker.ipc.control.api import Nothing
from broker.ipc.control.client import open_client
from broker.ipc.control.methods import GET_VERSION
from tests.kit.brokerctl import home, paths_of


async def test_many_commands_at_once_start_one_broker() -> None:
    with home() as env:
        paths = paths_of(env)
        started: list[bool] = []

        async def command() -> None:
            started.append(await ensure_broker(paths, environ=env))
            async with open_client(paths.control) as client:
                await client.call(GET_VERSION, Nothing())

        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(command)
        assert sorted(started) == [False] * 4 + [True]
        async with open_client(paths.control) as client:
            await end_broker(client)


async def test_a_broker_that_another_program_starts_meanwhile_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A unit of the session starts one without the commands' lock."""
    with home() as env:
        paths = paths_of(env)
        assert await ensure_broker(paths, environ=env)
        looked = 0
        answers = start._answers

        async def look(where: Paths, *, tell: bool = False) -> bool:
            nonlocal looked
            looked += 1
            return looked > 2 and await answers(where, tell=tell)

        monkeypatch.setattr(start, "_answers", look)
        with trio.fail_after(120):
            assert not await ensure_broker(paths, environ=env)
        async with open_client(paths.control) as client:
            await end_broker(client)


async def test_one_that_hangs_while_it_starts_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(start, "_READY_SECONDS", 0.1)
    monkeypatch.setattr(start, "_DYING_SECONDS", 0.2)
    with home() as env:
        paths = paths_of(env)
        held = os.open(paths.runtime / "start.lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(
                UpstreamError, match="another command is starting a broker"
            ):
                await ensure_broker(paths, environ=env)
        finally:
            os.close(held)
