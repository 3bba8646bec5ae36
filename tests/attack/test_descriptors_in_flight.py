"""A program of 'podman exec' keeps more descriptors in flight than the broker may send.

The kernel counts them for the person and holds each sender to its limit of open
files (ETOOMANYREFS).  The hook's limit does not reach programs of 'podman exec'.  Here
the broker has a low limit, so that the attack harms no other program of this user.
"""

from __future__ import annotations

import resource
import subprocess
from contextlib import asynccontextmanager

import pytest
import trio

from broker.net.peers.credentials import can_ask_pid_namespaces
from tests.kit.brokerctl import brokerctl
from tests.kit.own_command import hooked_words, install_hook
from tests.kit.podman import podman_settings, podman_start, root_directory
from tests.kit.podman_store import run as podman
from tests.kit.records import shown_record
from tests.kit.world import world

pytestmark = [
    pytest.mark.machine,
    pytest.mark.skipif(
        not can_ask_pid_namespaces(),
        reason="this kernel cannot tell a process's pid namespace",
    ),
]
RECORD = shown_record('kind = "podman"')
BROKERS = 300
"""The broker's own limit, and its workers': below the 400 that are in flight, which are
below the limits of all others."""
FLOOD = """
import array, os, socket, sys, time
held = []
fd = os.open("/dev/null", os.O_RDONLY)
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd] * 200))]
for _ in range(int(sys.argv[1])):
    pair = socket.socketpair()
    pair[0].sendmsg([b"x"], rights)
    held.append(pair)
print(200 * len(held), flush=True)
time.sleep(1000)
"""


@asynccontextmanager
async def container(*options):
    """A world, in which the container 'evil' runs with its lease."""
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        w.write_record("evil", RECORD)
        root_directory(w.base)
        await install_hook(w)
        words = hooked_words(w.base / "root", "--name=evil", *options, name="evil")
        child = podman_start(w.environ, *words[1:], "sleep", "1000")
        try:
            await w.wait_event("lease.begin", sandbox="evil")
            yield w
        finally:
            podman(w.environ, "rm", "-af", "-t", "0", check=False)
            await trio.to_thread.run_sync(child.communicate)


async def shows_a_window(w):
    """Whether a new box can: (exit code, standard error)."""
    code = "foot -T calm sh -c 'exit 0'"
    answer = await brokerctl(
        *("run", "-q", "--bwrap", "--", "sh", "-c", code), env=w.environ
    )
    return answer.code, answer.err


async def test_a_flood_by_podman_exec_is_named_and_ends_with_its_container():
    async with container() as w:
        code, err = await shows_a_window(w)
        assert code == 0, err
        for pid in (await w.broker_pid(), await w.pid_of("host")):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (BROKERS, BROKERS))
        flood = subprocess.Popen(
            ["podman", "exec", "evil", "python3", "-c", FLOOD, "2"],
            env=w.environ,
            cwd="/",
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            line = await trio.to_thread.run_sync(flood.stdout.readline)
            assert int(line) > BROKERS
            code, err = await shows_a_window(w)
            assert code == 1
            assert "descriptors in flight" in err
            # Calls that need no descriptor still work.
            assert [s.name for s in (await w.status()).sandboxes] == ["evil"]
            answer = await brokerctl("stop", "evil", env=w.environ)
            assert answer.code == 0, answer
            await w.wait_event("lease.end", sandbox="evil")
        finally:
            podman(w.environ, "kill", "evil")
            await trio.to_thread.run_sync(flood.communicate)
        code, err = await shows_a_window(w)
        assert code == 0, err


async def test_a_limit_of_podman_run_holds_for_podman_exec():
    """As docs/launchers/podman.md advises: the hook's own limit does not."""
    async with container("--ulimit=nofile=700:700") as w:
        assert podman(w.environ, "exec", "evil", "sh", "-c", "ulimit -Hn") == "700\n"
