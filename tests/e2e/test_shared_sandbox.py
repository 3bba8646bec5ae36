"""A machine that shares memory is a sandbox like others: sound, input, a terminal.

Its streams go over a virtio-serial port; its windows: ``test_copied_windows.py``.
"""

from __future__ import annotations

import sys

import pytest
import trio

from broker.ipc.control.api import RunRequest
from broker.ipc.control.methods import RUN
from tests.e2e.test_sound import TONE, desk, in_tune
from tests.kit.needs import FORKING_VM
from tests.kit.sound.servers import hearing
from tests.kit.vm.parents import ready_parent
from tests.kit.world import record, the_image

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), FORKING_VM]
SHARED = 'fork = "shared"'
PROGRAM = "tests.kit.vm.patient_copies"
MANY = 4 << 20


async def test_a_tone_is_heard_and_programs_have_input_and_a_terminal():
    await ready_parent(await the_image(), "app", mode="shared")
    app = record(top='audio = "allow"\n', launch=SHARED)
    async with desk("pipewire", records={"app": app}, program=PROGRAM) as (w, server):
        last, _ = await w.run("app", "sleep", "100000", window=False)
        sandbox = last.started.sandbox
        assert [e["how"] for e in w.events("sandbox.machine")] == ["fork"]
        assert await w.pid_of("port-mux", sandbox)
        async with hearing(server) as heard:
            code, said = await w.output(sandbox, "python3", "-c", TONE, "700", "2")
            assert code == 0, said.decode()
        in_tune(heard, 700, 2)
        await has_input(w, sandbox)
        assert await terminal_size(w, sandbox) == "43 101"


async def has_input(w, sandbox):
    """Input of some megabytes arrives whole, and the program's exit code returns."""
    script = "wc -c; exit 7"
    words = [sys.executable, "-m", "broker.cli.app", "exec", sandbox, "--"]
    done = await trio.run_process(
        [*words, "sh", "-c", script],
        stdin=bytes(MANY),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env=w.environ,
    )
    assert (done.returncode, done.stdout.strip()) == (7, str(MANY).encode())


async def terminal_size(w, sandbox):
    said = b""

    async def take(item):
        nonlocal said
        said += item.output or b""

    request = RunRequest(
        record=sandbox,
        argv=["stty", "size"],
        window=False,
        wait=True,
        tty=True,
        rows=43,
        columns=101,
    )
    async with w.client() as client:
        last = await client.call(RUN, request, take)
    assert last.exited.code == 0
    return said.decode().strip()
