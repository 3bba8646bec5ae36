"""A micro VM whose home fills the disk of the host, until there is room again.

On a machine of the test's own (``changing_machine``), whose small disk has the homes.
"""

from __future__ import annotations

import os
import sys
import time

import pytest

from broker.helpers.process.identity import process_stat
from tests.kit.brokerctl import brokerctl
from tests.kit.changing_machine import (
    NEEDS,
    SMALL_DISK,
    enlarge_small_disk,
    inside,
    own_machine,
)
from tests.kit.eventually import eventually
from tests.kit.needs import NEEDS_VM
from tests.kit.world import record, world

pytestmark = [NEEDS, NEEDS_VM, pytest.mark.slow, pytest.mark.timeout(400)]

FILL = "dd if=/dev/zero of=big bs=1M count=120 conv=fsync >/dev/null 2>&1 &"


@pytest.mark.skipif(inside(), reason="is on a machine of its own already")
def test_a_machine_outlives_a_full_disk():
    """Runs the other test of this file on such a machine."""
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    argv += ["-p", "no:rerunfailures", __file__]
    done = own_machine(*argv, seconds=380, follow=True)
    print(done.stdout)
    assert done.returncode == 0
    assert "1 passed" in done.stdout


@pytest.mark.skipif(not inside(), reason="needs a disk of its own")
async def test_a_machine_stops_before_the_disk_is_full_and_goes_on():
    extra = {"XDG_STATE_HOME": str(SMALL_DISK / "state")}
    async with world({"full": record("persistent")}, extra=extra) as w:
        await w.said("run", "--detach", "-q", "--no-window", "full")
        assert await w.output("full", "sh", "-c", FILL) == (0, b"")

        async def warned():
            return [t for t in (await w.status()).warnings if "full: its home's" in t]

        (warning,) = await eventually(warned)
        assert "the sandbox is stopped until" in warning
        assert os.statvfs(SMALL_DISK).f_bavail, "QEMU would have stopped it itself"
        (event,) = w.events("sandbox.failed")
        assert event["reason"] in warning
        refused = await brokerctl("exec", "full", "--", "true", env=w.environ)
        assert refused.code
        assert "MiB left" in refused.err
        pid = await w.pid_of("QEMU", "full")
        assert process_stat(pid)[0] == b"T"
        enlarge_small_disk()

        async def warned_no_more():
            return not await warned()

        await eventually(warned_no_more)
        wait = f"until test $(wc -c < big) = {120 << 20}; do sleep 1; done; date +%s"
        code, seconds = await w.output("full", "sh", "-c", wait)
        assert code == 0
        assert abs(int(seconds) - time.time()) < 60
        await w.stop("full", grace=60)
        assert "full:" not in str((await w.status()).warnings)
