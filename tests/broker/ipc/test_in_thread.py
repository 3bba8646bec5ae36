"""Where cannot start a thread, one request fails and the process goes on."""

from __future__ import annotations

import subprocess
import sys

import pytest
import trio

from broker.core.errors import UpstreamError
from broker.ipc.in_thread import NoThreadError, in_thread
from docs.tables.imports import ROOT
from tests.kit.threads import MESSAGE, no_threads

# The kernel counts no threads of root, so the child is another user there.
CHILD = """
import os, resource, trio
from broker.core.errors import UpstreamError
from broker.ipc.in_thread import in_thread

if os.geteuid() == 0:
    os.setuid(65534)
_, most = resource.getrlimit(resource.RLIMIT_NPROC)

async def request(name):
    try:
        print(name, await in_thread(len, name))
    except UpstreamError as error:
        print(name, error, error.__cause__, error.hint, sep=": ")

async def main():
    async with trio.open_nursery() as nursery:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, most))
        await request("first")
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
        nursery.start_soon(request, "second")

trio.run(main)
"""


def test_a_process_at_its_limit_of_threads_goes_on():
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == (
        f"first: cannot start a thread: {MESSAGE}: "
        "stop a sandbox, or raise the limit on processes (ulimit -u)"
    )
    assert second == "second 6"


async def test_work_that_began_no_thread_keeps_no_place():
    places = trio.CapacityLimiter(1)
    for _ in range(2):
        with no_threads(), pytest.raises(UpstreamError):
            await in_thread(len, "abc", limiter=places)
    assert await in_thread(len, "abc", limiter=places) == 3


@pytest.mark.parametrize(
    "error", [RuntimeError("dictionary changed size"), RecursionError(), OSError(5, "")]
)
async def test_an_error_of_the_work_is_raised_as_it_is(error):
    def work():
        raise error

    with pytest.raises(type(error)) as caught:
        await in_thread(work)
    assert caught.value is error
    assert not isinstance(caught.value, NoThreadError)
