"""Many copies of one parent: it is as it was, and has no secret in it."""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
from pathlib import Path

import pytest
import trio

from tests.kit.eventually import eventually
from tests.kit.needs import FORKING_VM
from tests.kit.vm.copies import output, stage
from tests.kit.world import descriptors, processes

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), FORKING_VM]
IN_A_ROW = int(os.environ.get("VITRAIL_COPIES", "10"))
WRITE = "head -c 64M /dev/urandom > /tmp/written && wc -c < /tmp/written"


def parent(s):
    return s.place / "parents" / "web"


def digest(path):
    total = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 22):
            total.update(data)
    return total.hexdigest()


def contains(path, needle):
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
    ):
        return view.find(needle) >= 0


@pytest.mark.parametrize(("mode", "how"), [("copy", "copy"), ("shared", "fork")])
async def test_many_copies_in_a_row_leave_the_parent_as_it_was(
    monkeypatch, tmp_path, mode, how
):
    """And it has no secret of this machine in it."""
    token = secrets.token_hex(24)
    monkeypatch.setenv("VITRAIL_TEST_TOKEN", token)
    (tmp_path / "key").write_text(token)
    async with stage() as s:
        await s.starter.make(await s.request("maker", mode=mode))
        files = [parent(s) / name for name in ("memory", "state")]
        # Its content is found: the kernel's command line, the agent's source.
        assert contains(files[0], b"vitrail.parent=1")
        assert contains(files[0], b"FORK_SEED_BYTES")
        home = os.path.expanduser("~")
        for secret in (token, home, str(s.place), os.environ["XDG_RUNTIME_DIR"]):
            assert not any(contains(path, secret.encode()) for path in files), secret
        before = await trio.to_thread.run_sync(lambda: list(map(digest, files)))
        await in_a_row(s, mode, how)
        after = await trio.to_thread.run_sync(lambda: list(map(digest, files)))
        assert after == before
        if mode == "shared":
            # The mapped memory is unchanged after all of their writes.
            memory = s.starter._memories._held["web"].memory
            mapped = Path(f"/proc/self/fd/{memory}")
            assert await trio.to_thread.run_sync(digest, mapped) == before[0]


async def in_a_row(s, mode, how):
    seen = set()
    began = trio.current_time()
    for number in range(IN_A_ROW):
        print(f"{number} copies in {trio.current_time() - began:.0f} s", flush=True)
        enter = s.machine(f"copy-{number}", mode=mode)
        async with enter as (started, broker, _vm):
            assert (started.how, started.why) == (how, "")
            said = await output(broker, f"{WRITE}; cat /proc/sys/kernel/random/boot_id")
            assert said[0] == str(64 << 20)
            seen.add(said[1])
        if number == 0:
            held = descriptors(os.getpid())
    assert len(seen) == IN_A_ROW

    async def closed():
        # What watched the last one is cancelled, and closes its own soon after.
        return not descriptors(os.getpid()) - held

    assert await eventually(closed, deadline=60)

    async def gone():
        return not processes(s.place)

    assert await eventually(gone, deadline=60)
