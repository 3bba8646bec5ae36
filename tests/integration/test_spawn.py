"""Starting real processes: ends, codes, descriptors, death of the parent."""

from __future__ import annotations

import errno
import os
import signal
import sys

import pytest
import trio
import trio.testing

from broker.core.errors import SetupError, UpstreamError
from broker.helpers.process import identity
from broker.helpers.process.spawn import PIPE, run_tool, spawn
from broker.host.processes.tracked import spawn_helper


def _fds():
    return set(os.listdir("/proc/self/fd"))


async def test_any_number_of_tasks_may_wait_and_nothing_stays_open():
    before = _fds()
    child = spawn(["true"])
    codes = []

    async def waiter():
        codes.append(await child.wait())

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(waiter)
    assert codes == [0] * 5
    assert _fds() == before


async def test_a_wait_that_is_woken_for_something_else_goes_on():
    """epoll(7) remembers a closed number as long as a duplicate of it lives.

    Its memory of the number wakes the task that waits for that number now; reaping then
    would stop every task of this process until the child ends.
    """
    child = spawn(["sleep", "3"])
    ours, theirs = os.pipe()
    number = os.dup(ours)
    with trio.move_on_after(0.01):
        await trio.lowlevel.wait_readable(number)
    os.close(number)
    codes = []

    async def waiter():
        codes.append(await child.wait())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiter)
        await trio.testing.wait_all_tasks_blocked()
        os.close(theirs)  # the pipe's end is told for the remembered number
        await trio.testing.wait_all_tasks_blocked()
        assert child.returncode is None
        child.kill()
    assert codes == [-signal.SIGKILL]
    os.close(ours)


async def test_a_cancelled_wait_leaves_the_child_to_others():
    child = spawn(["sleep", "60"])
    with trio.move_on_after(0.01) as scope:
        await child.wait()
    assert scope.cancelled_caught
    child.kill()
    assert await child.wait() == -signal.SIGKILL


async def test_stop_insists_when_asking_does_not_help():
    child = spawn(
        ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"], stdout=PIPE
    )
    assert child.popen.stdout.read(2) == b"up"
    child.popen.stdout.close()
    assert await child.stop(grace=0.1) == -signal.SIGKILL


async def test_killing_an_ended_process_is_harmless():
    child = spawn(["true"])
    assert await child.wait() == 0
    child.kill()


async def test_a_program_that_is_missing_is_a_sentence(tmp_path):
    with pytest.raises(SetupError, match="not installed") as caught:
        await run_tool([tmp_path / "nothing-here"])
    assert "doctor" in caught.value.hint


async def test_a_failed_tool_s_error_has_its_output():
    with pytest.raises(UpstreamError, match="code 3: the reason"):
        await run_tool(["sh", "-c", "echo the reason >&2; exit 3"])


async def test_a_tool_that_takes_too_long_is_killed():
    with pytest.raises(UpstreamError, match="longer than"):
        await run_tool(["sleep", "60"], deadline=0.1)


async def test_a_tool_for_which_there_are_no_pipes_leaves_none_open(monkeypatch):
    pipe2, made = os.pipe2, []

    def few(flags):
        if made:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made.append(pipe2(flags))
        return made[-1]

    before = _fds()
    monkeypatch.setattr(os, "pipe2", few)
    with pytest.raises(OSError, match="Too many"):
        await run_tool(["true"])
    assert _fds() == before


async def test_output_is_bounded():
    with pytest.raises(UpstreamError, match="more than 10 bytes"):
        await run_tool(["sh", "-c", "echo 12345678901"], output_limit=10)
    assert await run_tool(["printf", "1234567890"], output_limit=10) == b"1234567890"


PARENT = """
import sys, trio
from broker.helpers.process.spawn import spawn
async def main():
    child = spawn(["sleep", "300"], outlive_us=sys.argv[1] == "outlive")
    print(child.pid, flush=True)
    await trio.sleep_forever()
trio.run(main)
"""


@pytest.mark.parametrize("fate", ["die", "outlive"])
async def test_children_die_with_us_unless_they_are_to_outlive_us(fate):
    parent = spawn(
        [sys.executable, "-c", PARENT, fate],
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    pid = int(parent.popen.stdout.readline())
    parent.popen.stdout.close()
    pidfd = os.pidfd_open(pid)
    try:
        parent.kill()
        await parent.wait()
        with trio.move_on_after(0.5 if fate == "outlive" else 10) as scope:
            await trio.lowlevel.wait_readable(pidfd)
        assert scope.cancelled_caught is (fate == "outlive")
    finally:
        if fate == "outlive":
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


async def test_a_child_whose_parent_died_before_it_could_ask_for_the_signal_ends():
    """As if we had died between fork and prctl: another pid is the parent's."""
    from broker.helpers.process import popen as module

    orphan = [*module._GUARD, str(os.getppid()), "sleep", "300"]
    child = spawn(orphan, outlive_us=True)
    with trio.fail_after(60):
        assert await child.wait() == 125


async def test_a_child_that_cannot_be_held_is_not_left_running(monkeypatch):
    """No descriptor for a pidfd: it could be neither watched nor ended."""
    seen = []

    def full(pid):
        seen.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", full)
    with pytest.raises(OSError, match="Too many open files"):
        spawn(["sleep", "60"])
    assert not os.path.exists(f"/proc/{seen[0]}")


async def test_a_helper_that_cannot_be_written_down_is_not_left_running(monkeypatch):
    """It outlives us, and without its start time no later broker knows it."""
    seen = []
    before = _fds()

    def full(pid):
        seen.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(identity, "start_time", full)
    with pytest.raises(OSError, match="Too many open files"):
        spawn_helper("sleeper", ["sleep", "60"])
    assert not os.path.exists(f"/proc/{seen[0]}")
    assert _fds() == before


async def test_an_end_is_noticed_without_a_free_descriptor(monkeypatch):
    child = spawn(["sleep", "60"])
    ended = []

    async def waiter():
        ended.append(await child.wait())

    with monkeypatch.context() as table:

        def full(_fd):
            raise OSError(24, "Too many open files")

        table.setattr(os, "dup", full)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(waiter)
                nursery.start_soon(waiter)
                await trio.testing.wait_all_tasks_blocked(0.01)
                child.kill()
    assert ended == [-signal.SIGKILL] * 2
