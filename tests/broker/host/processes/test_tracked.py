"""Processes of machines by proven identity, never by number."""

from __future__ import annotations

import os
import resource
import signal

import msgspec
import pytest
import trio

from broker.core.errors import SetupError, UpstreamError
from broker.helpers.process.spawn import spawn
from broker.host.processes.tracked import find, spawn_helper
from broker.host.vmm.vmm_jail import enter
from broker.ipc.captured_stderr import FirstWords
from tests.kit.eventually import eventually


async def test_a_child_is_found_again_until_it_ends():
    child = spawn_helper("sleeper", ["sleep", "100"])
    again = find("sleeper", child.identity)
    assert again is not None
    assert not again.ended
    again.kill()
    assert await again.wait() is None, "a found process has no code for us"
    assert await child.wait() == -signal.SIGKILL
    assert again.ended
    again.kill()  # harmless
    again.close()
    child.close()
    assert find("sleeper", child.identity) is None


@pytest.mark.parametrize("field", ["start", "inode"])
async def test_the_same_number_is_not_the_same_process(field):
    child = spawn_helper("sleeper", ["sleep", "100"])
    identity = child.identity
    other = msgspec.structs.replace(identity, **{field: getattr(identity, field) + 1})
    assert find("sleeper", other) is None
    assert not child.ended
    await child.end(0)
    child.close()


@pytest.mark.parametrize("pid", [0, 1, -1])
async def test_special_pids_are_no_process(pid):
    child = spawn_helper("sleeper", ["sleep", "100"])
    assert find("x", msgspec.structs.replace(child.identity, pid=pid)) is None
    await child.end(0)
    child.close()


async def test_a_zombie_has_ended():
    child = spawn(["true"])
    pidfd = os.dup(child.pidfd)
    await trio.lowlevel.wait_readable(pidfd)
    os.close(pidfd)
    from broker.helpers.process.identity import ProcessIdentity, start_time

    inode = os.fstat(child.pidfd).st_ino
    assert find("x", ProcessIdentity(child.pid, start_time(child.pid), inode)) is None
    await child.wait()


@pytest.mark.parametrize("descriptors", [0, 1])
async def test_without_descriptors_a_living_process_has_not_ended(descriptors):
    """Its machine would run on, and no broker know it: what is asked raises instead."""
    child = spawn_helper("sleeper", ["sleep", "100"])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + descriptors, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            find("sleeper", child.identity)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    left = os.open(os.devnull, os.O_RDONLY)
    os.close(left)
    assert left == free, "its descriptor is closed"
    await child.end(0)
    child.close()


async def test_a_helper_has_a_bare_environment_and_bounded_words():
    script = "env; yes hello | head -c 1000000; echo done >/dev/full; exec sleep 100"
    child = spawn_helper("talker", ["sh", "-c", script + " 2>/dev/null"])
    with trio.move_on_after(0.5):
        await child.wait()
    said = os.pread(child._words.fd, 1 << 20, 0)
    assert b"HOME" not in said.split(b"hello")[0]
    assert len(said) <= 1 << 16
    await child.end(0)
    child.close()


async def test_end_insists():
    child = spawn_helper(
        "deaf", ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"]
    )
    await eventually(lambda: "up" in child.words)
    with trio.fail_after(30):
        await child.end(0.1)
    assert child.ended
    child.close()


async def test_one_that_sleeps_in_the_kernel_is_waited_for_a_while(
    autojump_clock, monkeypatch, capsys
):
    child = spawn_helper("renderer", ["sleep", "100"])
    child.patience = 5.0
    with monkeypatch.context() as stuck:
        stuck.setattr(child, "wait", trio.sleep_forever)
        began = trio.current_time()
        with trio.fail_after(60):
            await child.end(2)
        assert trio.current_time() - began == pytest.approx(5.0)
    said = capsys.readouterr().err
    assert said == (
        f"renderer (process {child.pid}) did not exit after SIGKILL: the kernel blocks it\n"
    )
    assert await child.wait() == -signal.SIGKILL
    child.close()


def test_a_program_that_is_missing_leaks_nothing():
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SetupError):
        spawn_helper("x", ["/nonexistent/program"])
    assert len(os.listdir("/proc/self/fd")) == before


def test_first_words_are_kept_and_later_ones_refused():
    words = FirstWords(8)
    os.write(words.fd, b"abc\x1b\n")
    with pytest.raises(PermissionError):
        os.write(words.fd, b"x" * 8)
    assert words.text() == "abc\\x1b"
    os.write(words.fd, b"def")
    with pytest.raises(PermissionError):
        os.write(words.fd, b"g")
    words.close()
    assert words.text() == ""


async def test_a_jail_reports_its_own_child_or_nothing():
    outer = spawn_helper("sleeper", ["sleep", "100"])
    try:
        for pid in (os.getpid(), 1, outer.pid):
            with pytest.raises(UpstreamError, match="not a child of bubblewrap"):
                enter(outer, pid)
    finally:
        await outer.end(0)
        outer.close()


async def test_a_process_without_a_sigterm_handler_is_killed_at_once():
    ignoring = spawn_helper("deaf", ["sh", "-c", "trap '' TERM; exec sleep 100"])
    with trio.fail_after(30):
        await ignoring.end(3600)
    assert ignoring.ended
    ignoring.close()
