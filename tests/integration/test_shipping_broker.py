"""A broker ships its log by itself, and neither waits for it nor dies with it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.core.paths import Paths
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import PIPE, spawn
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from broker.ipc.control.api import Nothing
from broker.ipc.control.client import open_client
from broker.ipc.control.methods import STATUS
from tests.kit.brokerctl import brokerctl, home, lines_of, paths_of
from tests.kit.eventually import eventually


@asynccontextmanager
async def broker(env: dict[str, str]) -> AsyncIterator[None]:
    """One that runs; asked to end afterwards, as a person's session does."""
    child = spawn(
        our_program("broker.programs.local"), env=env, stdout=PIPE, stderr=PIPE
    )
    child.popen.stdout, child.popen.stderr = child.popen.stderr, child.popen.stdout
    try:
        with trio.fail_after(60):
            async with aclosing(lines_of(child)) as lines:
                async for line in lines:
                    if line.endswith("ready"):
                        break
        yield
        with trio.fail_after(60):
            assert await child.stop(30) == 0
    finally:
        await child.kill_and_wait()
        for pipe in (child.popen.stdout, child.popen.stderr):
            assert pipe is not None
            pipe.close()


def configure(paths: Paths, out: Path) -> None:
    paths.config[0].mkdir(parents=True, exist_ok=True)
    fresh = paths.config[0] / "new"
    fresh.write_text(f'[[target]]\nname = "file"\nto = "jsonl"\npath = "{out}"\n')
    fresh.replace(paths.config[0] / "ship.toml")


def shipped(out: Path) -> list[dict]:
    whole = out.read_text().rpartition("\n")[0] if out.exists() else ""
    found = [json.loads(line) for line in whole.splitlines()]
    return [event for event in found if "checkpoint" not in event]


async def shipper(paths: Paths, without: int = 0) -> int:
    """Wait until there is one, other than ``without``, and return its pid."""

    async def found() -> list[int]:
        async with open_client(paths.control) as client:
            status = await client.call(STATUS, Nothing())
        pids = [p.pid for p in status.processes if p.role == "shipper"]
        return [pid for pid in pids if pid != without]

    return (await eventually(found))[0]


async def written(out: Path, kind: str, count: int = 1) -> None:
    """Wait until so many events of a kind are in the file."""
    await eventually(
        lambda: [event["kind"] for event in shipped(out)].count(kind) >= count
    )


async def test_a_broker_ships_its_log_and_outlives_the_shipper() -> None:
    with home() as env:
        paths = paths_of(env)
        out = Path(env["HOME"]) / "out.jsonl"
        configure(paths, out)
        async with broker(env):
            await written(out, "policy.loaded")
            first = await shipper(paths)
            os.kill(first, signal.SIGKILL)
            second = await shipper(paths, without=first)
            await written(out, "process.died")
            died = next(e for e in shipped(out) if e["kind"] == "process.died")
            assert (died["process"], died["pid"], died["code"]) == (
                "shipper",
                first,
                -9,
            )
            # A receiver that fails is a warning in status, after a while; the file says
            # how far it is at once.
            out.unlink()
            out.mkdir()
            os.kill(second, signal.SIGKILL)
            with trio.fail_after(60):
                while True:
                    answer = await brokerctl("audit", "ship", "--json", env=env)
                    (target,) = answer.objects[0]["targets"]
                    if target["problem"]:
                        break
            assert answer.code == 1
            assert target["behind"] >= 1
            out.rmdir()
            await written(out, "process.died")
        # Its end is in it, too: the last recorded events are still sent.
        with open_log(paths.audit) as log:
            everything = [found.fields() for found in log.find(Filters())]
        assert everything[-1]["kind"] == "broker.stop"
        sent = shipped(out)
        assert sent[-1]["kind"] == "broker.stop"
        assert [event["sequence"] for event in sent] == [
            event["sequence"] for event in everything[-len(sent) :]
        ]


@pytest.mark.long
async def test_a_receiver_can_be_added_while_it_runs() -> None:
    with home() as env:
        paths = paths_of(env)
        out = Path(env["HOME"]) / "out.jsonl"
        async with broker(env):
            async with open_client(paths.control) as client:
                status = await client.call(STATUS, Nothing())
            assert not [p for p in status.processes if p.role == "shipper"]
            configure(paths, out)
            await written(out, "broker.start")
