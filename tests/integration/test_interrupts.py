"""Ctrl-C, SIGTERM, SIGHUP and a closed pipe end a verb without a traceback."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest
import trio

from broker.authority.audit.store import open_store
from broker.cli.verbs import VERBS
from broker.ipc.control import methods
from broker.ipc.control.api import ForwardItem, ForwardRequest, RunItem
from broker.ipc.control.method import Exchange, serves
from tests.kit.brokerctl import paths_of, running
from tests.kit.control import ScriptedBroker, serving
from tests.kit.eventually import eventually

ENDINGS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
WAITING = [
    ["status", "--watch"],
    ["audit", "--follow"],
    ["logs", "--follow", "work"],
    ["lease", "acquire", "work", "--cid", "42"],
]


@pytest.fixture(autouse=True)
def _hangup() -> Iterator[None]:
    """Have SIGHUP as a terminal's programs have it, also below nohup(1)."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


class Runs:
    """A run that lasts until its client goes, and what became of it."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.ended = trio.Event()
        self.may_end = trio.Event()
        self.floods = False

    async def run(self, caller, request, emit):
        self.begun.set()
        try:
            while self.floods:
                await emit(RunItem(output=b"x\n"))
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await self.may_end.wait()
            self.ended.set()


async def said_by(child) -> str:
    with trio.fail_after(30):
        text = await trio.to_thread.run_sync(child.popen.stderr.read)
    return text.decode()


@pytest.mark.parametrize(("number", "code"), ENDINGS)
async def test_run_ends_its_program_and_then_itself(env, number, code):
    runs = Runs()
    api = ScriptedBroker(on_run=runs.run)
    async with serving(paths_of(env).control, api):  # noqa: SIM117 -- the order of ends is tested
        async with running("run", "--no-window", "work", env=env) as child:
            with trio.fail_after(30):
                await runs.begun.wait()
                os.kill(child.pid, number)
                with trio.move_on_after(0.5):
                    await child.wait()
                assert child.returncode is None, "the broker has not ended it yet"
                runs.may_end.set()
                assert await child.wait() == code
            assert runs.ended.is_set()
            assert await said_by(child) == "brokerctl: interrupted\n"


async def test_a_second_ctrl_c_does_not_wait_for_the_broker(env):
    runs = Runs()
    api = ScriptedBroker(on_run=runs.run)
    async with serving(paths_of(env).control, api):
        async with running("run", "--no-window", "work", env=env) as child:
            with trio.fail_after(30):
                await runs.begun.wait()
                os.kill(child.pid, signal.SIGINT)
                with trio.move_on_after(0.5):
                    await child.wait()
                os.kill(child.pid, signal.SIGINT)
                assert await child.wait() == 130
            assert "Traceback" not in await said_by(child)
        runs.may_end.set()


async def test_a_closed_pipe_ends_a_run(env):
    runs = Runs()
    runs.floods = True
    runs.may_end.set()
    api = ScriptedBroker(on_run=runs.run)
    async with serving(paths_of(env).control, api):  # noqa: SIM117 -- the order of ends is tested
        async with running("run", "--no-window", "work", env=env) as child:
            with trio.fail_after(30):
                await runs.begun.wait()
                child.popen.stdout.close()
                assert await child.wait() == 141
                await runs.ended.wait()
            assert await said_by(child) == ""


@pytest.mark.parametrize(("number", "code"), ENDINGS)
@pytest.mark.parametrize("words", WAITING, ids=lambda words: words[0])
async def test_verbs_that_wait_end_with_a_line(env, words, number, code):
    paths = paths_of(env)
    folder = paths.logs("work")
    folder.mkdir(parents=True)
    (folder / "console.log").write_text("it boots\n")
    assert words[0] in VERBS
    async with open_store(paths.audit):
        pass
    async with serving(paths.control, ScriptedBroker()):  # noqa: SIM117
        async with running(*words, env=env) as child:
            with trio.fail_after(30):
                await eventually(lambda: _in_event_loop(child.pid))
                os.kill(child.pid, number)
                assert await child.wait() == code
            last = (await said_by(child)).splitlines()[-1:]
            assert last == ["brokerctl: interrupted"]


def _in_event_loop(pid: int) -> bool:
    """Whether it has trio's epoll: from there on it is the verb that waits."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(f"/proc/{pid}/fd/{fd}") == "anon_inode:[eventpoll]":
                return True
    return False


class Forwards(ScriptedBroker):
    """Forwards until its client goes: an answer would end the verb."""

    begun: trio.Event

    @serves(methods.FORWARD)
    async def forward(
        self, exchange: Exchange[ForwardItem], request: ForwardRequest
    ) -> ForwardItem:
        del exchange, request
        self.begun.set()
        await trio.sleep_forever()


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGHUP, 129, ""),
        (signal.SIGINT, 130, "brokerctl: interrupted\n"),
        (signal.SIGTERM, 143, "brokerctl: interrupted\n"),
    ],
)
async def test_ssh_alone_ends_its_proxy_command_without_a_word(env, number, code, said):
    """ssh(1) ends it by SIGHUP when the session is over."""
    api = Forwards()
    api.begun = trio.Event()
    async with serving(paths_of(env).control, api):  # noqa: SIM117
        async with running("forward", "--stdio", "work", "22", env=env) as child:
            with trio.fail_after(30):
                await api.begun.wait()
                os.kill(child.pid, number)
                assert await child.wait() == code
            assert await said_by(child) == said
