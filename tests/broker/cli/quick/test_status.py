"""The short status: its imports, and the cases that it leaves to the verb of click."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest
import trio

from broker.cli.quick import status as quick_status
from broker.ipc.control.api import PolicyStatus, Status
from tests.kit.brokerctl import called, home, paths_of
from tests.kit.control import ScriptedBroker, serving

HEAVY = {"trio", "click", "rich", "msgspec"}
_RUN = f"""
import sys
sys.argv = ["brokerctl", "status"]
from broker.cli.app import main
main()
print("imports", sorted({HEAVY!r} & sys.modules.keys()))
"""


@pytest.fixture
def env():
    with home() as found:
        yield found


async def test_it_imports_neither_an_event_loop_nor_a_command_line_parser(env):
    async with serving(paths_of(env).control, ScriptedBroker()):
        ran = await trio.to_thread.run_sync(
            lambda: subprocess.run(
                [sys.executable, "-c", _RUN],
                env=env,
                capture_output=True,
                text=True,
                check=False,
            )
        )
    assert ran.stdout.splitlines() == ["no sandboxes are running", "imports []"], ran


async def test_it_prints_what_the_verb_prints(env):
    api = ScriptedBroker()
    api.state = msgspec.structs.replace(api.state, warnings=["a\x1b[31mb"])
    async with serving(paths_of(env).control, api):

        def both():
            quick = called("status", env=env)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(quick_status, "run", lambda: None)
                return quick, called("status", env=env)

        quick, full = await trio.to_thread.run_sync(both)
    assert quick == full
    assert "warning: a\\x1b[31mb" in quick.out


def test_without_a_broker_the_verb_says_how_to_start_one(env):
    answer = called("status", env=env)
    assert answer.code == 1
    assert "no broker is running" in answer.err


@pytest.mark.parametrize("answer", [{}, {"version": 3, "policy": []}, {"policy": None}])
def test_an_answer_of_another_shape_is_left_to_the_verb(monkeypatch, capsys, answer):
    class Odd:
        def call(self, *_):
            return answer

    monkeypatch.setattr(quick_status, "open_calls", lambda *_: Odd())
    assert quick_status.run() is None
    assert capsys.readouterr().out == ""


def test_each_field_that_it_reads_is_one_of_the_interface():
    """The answer is not checked by type there, so the names are compared here."""
    whole = Status(
        version="0.2.0",
        role="local",
        pid=1,
        since=0.0,
        monotonic=0.0,
        policy=PolicyStatus(digest=""),
    )
    assert quick_status.summary(msgspec.to_builtins(whole), 1.0).splitlines() == [
        "no policy is in force, so everything is denied",
        "no sandboxes are running",
    ]
