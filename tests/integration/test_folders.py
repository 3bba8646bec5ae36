"""``brokerctl share``: folders of the person's in a box, with a real broker."""

from __future__ import annotations

import json
import os
import shutil
import signal
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from broker.helpers.process.spawn import wait_ended
from broker.net.peers.credentials import can_ask_pid_namespaces
from tests.kit.brokerctl import running
from tests.kit.eventually import eventually
from tests.kit.podman import SHARED, podman_settings, root_directory
from tests.kit.records import shown_record
from tests.kit.world import world

FOLDERS = '[folders]\nread_only = ["{shared}"]\n'
RECORD = shown_record(
    'kind = "bwrap"',
    'command = ["/usr/bin/sleep", "600"]',
    colour="blue",
    tables=FOLDERS,
)
RULES = """\
vitrail.Folder +docs      work @adminvm allow
vitrail.Folder +Downloads work @adminvm allow write=yes
"""


@pytest.fixture(autouse=True)
def _kernel():
    """Whether the kernel can tell a container's pid namespace (Linux 6.11)."""
    if shutil.which("bwrap") is None or not can_ask_pid_namespaces():
        pytest.skip("bubblewrap, and a kernel that tells pid namespaces, are needed")


@asynccontextmanager
async def a_box(rules=RULES):
    """A world whose box ``work`` runs, and a home with folders; yields its root."""
    async with world(image=False, start=False) as w:
        home = w.base / "home"
        for name in ("docs", "Downloads", "private", ".ssh"):
            (home / name).mkdir(parents=True)
            (home / name / "file").write_text(name)
        w.environ["HOME"] = str(home)
        w.write_record("work", RECORD.format(shared=home / "docs"))
        w.write_rules(rules)
        await w.start()
        async with running("run", "-q", "work", env=w.environ):
            begin = await w.wait_event("lease.begin", sandbox="work")
            assert begin
            (pid,) = [s.pid for s in (await w.status()).sandboxes]
            # Folders come before the program: until that runs, a broker that is killed
            # takes the box with it.
            await eventually(lambda: program_runs(pid))
            yield w, home, Path(f"/proc/{pid}/root/folders")


def program_runs(pid: int) -> bool:
    """Whether the box with this first process has begun its program."""
    with suppress(OSError):  # one of them has just ended
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return any(Path(f"/proc/{n}/comm").read_text() == "sleep\n" for n in children)
    return False


async def test_folders_are_shared_shown_and_taken_back():
    async with a_box() as (w, home, inside):
        await eventually((inside / "docs/file").exists)  # by the record
        assert (inside / "docs/file").read_text() == "docs"
        await w.said("share", "--write", str(home / "Downloads"), "work")
        (inside / "Downloads/new").write_text("from the box")
        assert (home / "Downloads/new").read_text() == "from the box"
        found = json.loads(await w.said("share", "--json"))["folders"]
        assert [(f["inside"], f["write"]) for f in found] == [
            ("/folders/docs", False),
            ("/folders/Downloads", True),
        ]
        (status,) = (await w.status()).sandboxes
        assert status.folders[1].endswith("/Downloads (writable)")
        for refused, why in (
            ((str(home / "private"), "work"), "denied"),
            ((str(home / "docs"), "work"), "already"),
            (("--write", str(home / ".ssh"), "work"), "hidden directories"),
            ((str(home), "work"), "your home"),
            ((str(w.paths.state), "work"), "cannot share"),
            ((str(home / "private"), "absent"), "no sandbox"),
        ):
            assert why in await w.said("share", *refused, code=1)
        with (inside / "Downloads/new").open():
            text = await w.said("unshare", "Downloads", "work", code=1)
            assert "open" in text
            assert "--force" in text
        await w.said("unshare", str(home / "Downloads"), "work")
        assert not (inside / "Downloads").exists()
        await w.said("unshare", "docs", "work")
        text = await w.said("share", "--write", str(home / "docs"), "work", code=1)
        assert "write=yes" in text
        assert not (inside / "docs").exists()
        shared = w.events("folder.shared")
        assert [(e["object"], e["write"]) for e in shared] == [
            (str(home / "docs"), False),
            (str(home / "Downloads"), True),
        ]
        assert len(w.events("folder.unshared", outcome="unmounted")) == 2


async def test_a_rule_that_is_taken_away_unmounts():
    async with a_box() as (w, home, inside):
        await eventually((inside / "docs/file").exists)
        policy = w.paths.config[0] / "policy.d/30-mine.policy"
        policy.write_text(RULES.splitlines()[1] + "\n")
        ended = await w.wait_event("folder.unshared", sandbox="work")
        assert ended["outcome"] == "unmounted"
        assert not (inside / "docs").exists()
        assert [s.name for s in (await w.status()).sandboxes] == ["work"]
        assert (home / "docs/file").exists()


async def test_a_sandbox_that_keeps_a_folder_open_ends_with_the_permission():
    async with a_box() as (w, _, inside):
        await eventually((inside / "docs/file").exists)
        held = os.open(inside / "docs/file", os.O_RDONLY)
        try:
            await w.said("unshare", "--force", "docs", "work")
            ended = await w.wait_event("lease.end", sandbox="work")
            assert "folder docs open" in ended["reason"]
        finally:
            os.close(held)


async def test_a_broker_that_was_killed_leaves_no_folder_that_no_rule_allows():
    """The next one unmounts leftovers, and shares the folders of the record and rules."""
    async with a_box() as (w, home, inside):
        await eventually((inside / "docs/file").exists)
        await w.said("share", "--write", str(home / "Downloads"), "work")
        assert (inside / "Downloads/file").exists()
        broker = await w.broker_pid()
        os.kill(broker, signal.SIGKILL)
        await wait_ended(os.pidfd_open(broker))
        assert (inside / "Downloads/file").exists(), "nothing has unmounted it yet"
        await w.start()
        (pid,) = [s.pid for s in (await w.status()).sandboxes]
        assert Path(f"/proc/{pid}/root/folders") == inside
        await eventually(lambda: not (inside / "Downloads/file").exists())
        await eventually((inside / "docs/file").exists)
        found = json.loads(await w.said("share", "--json"))["folders"]
        assert [f["inside"] for f in found] == ["/folders/docs"]


async def test_a_sandbox_that_keeps_a_folder_over_a_crash_is_ended():
    async with a_box() as (w, _, inside):
        await eventually((inside / "docs/file").exists)
        held = os.open(inside / "docs/file", os.O_RDONLY)
        try:
            broker = await w.broker_pid()
            os.kill(broker, signal.SIGKILL)
            await wait_ended(os.pidfd_open(broker))
            await w.start()
            ended = await w.wait_event("lease.end", sandbox="work")
            assert "earlier broker" in ended["reason"]
        finally:
            os.close(held)


PODMAN = shown_record(
    'kind = "podman"',
    'rootfs = "{root}"',
    'command = ["/usr/bin/sleep", "600"]',
    "bind_read_only = [{binds}]",
    colour="blue",
    tables=FOLDERS,
)


async def test_folders_of_a_podman_container():
    async with podman_settings() as podman, world(image=False, start=False) as w:
        w.environ.update(podman)
        home = w.base / "home"
        for name in ("docs", "Downloads"):
            (home / name).mkdir(parents=True)
            (home / name / "file").write_text(name)
        w.environ["HOME"] = str(home)
        binds = ", ".join(f'"{path}"' for path in SHARED if Path(path).exists())
        text = PODMAN.format(
            shared=home / "docs", root=root_directory(w.base), binds=binds
        )
        w.write_record("work", text)
        w.write_rules(RULES)
        await w.start()
        async with running("run", "-q", "work", env=w.environ):
            await w.wait_event("folder.shared", sandbox="work")
            (pid,) = [s.pid for s in (await w.status()).sandboxes]
            inside = Path(f"/proc/{pid}/root/folders")
            await eventually((inside / "docs/file").exists)
            with pytest.raises(OSError, match="Read-only"):
                (inside / "docs/file").write_text("x")
            await w.said("share", "--write", str(home / "Downloads"), "work")
            (inside / "Downloads/new").write_text("from the container")
            assert (home / "Downloads/new").read_text() == "from the container"
            await w.said("unshare", "Downloads", "work")
            assert not (inside / "Downloads").exists()
