"""``[[mounts]]`` of a record in a real box and a real container, with a real broker."""

from __future__ import annotations

import json
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.helpers.process.spawn import wait_ended
from tests.integration.test_folders import (
    _kernel,  # noqa: F401 -- a fixture, which holds here, too
    program_runs,
)
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.nspawn import skip_without_nspawn
from tests.kit.podman import SHARED, podman_settings, root_directory
from tests.kit.world import world

RECORD = """\
class = "persistent"
display = "allow"
[label]
colour = "blue"
[launch]
kind = "{kind}"
command = ["/usr/bin/sleep", "600"]
{more}
[[mounts]]
kind = "memory"
at = "/srv/scratch"
size = "4M"
[[mounts]]
kind = "directory"
at = "/srv/deep/papers"
source = "{home}/docs"
[[mounts]]
kind = "directory"
at = "/home/user/drafts"
source = "{home}/drafts"
write = true
"""
RULES = """\
vitrail.Folder +docs   work @adminvm allow
vitrail.Folder +drafts work @adminvm allow write=yes
"""
DISPOSABLE = """\
class = "disposable"
display = "allow"
[launch]
kind = "bwrap"
[[mounts]]
kind = "memory"
at = "{at}"
size = "4M"
"""


@asynccontextmanager
async def a_sandbox(kind, more="", settings=None):
    """A world whose sandbox ``work`` runs; yields it, the home, and the sandbox's root."""
    async with world(image=False, start=False) as w:
        w.environ.update(settings or {})
        home = w.base / "home"
        for name in ("docs", "drafts"):
            (home / name).mkdir(parents=True)
            (home / name / "file").write_text(name)
        w.environ["HOME"] = str(home)
        if callable(more):
            more = more(w.base)
        w.write_record("work", RECORD.format(home=home, kind=kind, more=more))
        policy = w.paths.config[0] / "policy.d"
        policy.mkdir(parents=True)
        (policy / "30-mine.policy").write_text(RULES)
        await w.start()
        async with running("run", "-q", "work", env=w.environ):
            for _ in range(2):
                await w.wait_event("folder.shared", sandbox="work")
            (pid,) = [s.pid for s in (await w.status()).sandboxes]
            if kind == "bwrap":
                await eventually(lambda: program_runs(pid))
            yield w, home, Path(f"/proc/{pid}/root")


async def has_its_mounts(w, home, root):
    await eventually((root / "srv/deep/papers/file").exists)
    await eventually((root / "home/user/drafts/file").exists)
    assert (root / "srv/deep/papers/file").read_text() == "docs"
    with pytest.raises(OSError, match="Read-only"):
        (root / "srv/deep/papers/file").write_text("x")
    (root / "home/user/drafts/new").write_text("from the sandbox")
    assert (home / "drafts/new").read_text() == "from the sandbox"
    assert not (root / "folders/docs").exists()
    found = json.loads(await w.said("share", "--json"))["folders"]
    assert {(f["inside"], f["write"]) for f in found} == {
        ("/srv/deep/papers", False),
        ("/home/user/drafts", True),
    }
    mounts = Path(root.parent, "mountinfo").read_text().splitlines()
    for place in ("/srv/scratch", "/srv/deep/papers", "/home/user/drafts"):
        (flags,) = [m.split()[5] for m in mounts if m.split()[4] == place][-1:]
        assert {"nosuid", "nodev"} <= set(flags.split(",")), (place, flags)
    size = os.statvfs(root / "srv/scratch")
    assert size.f_blocks * size.f_frsize == 4 << 20
    assert [path.name for path in (home / "docs").iterdir()] == ["file"]


async def test_mounts_of_a_box():
    async with a_sandbox("bwrap") as (w, home, root):
        await has_its_mounts(w, home, root)
        (root / "srv/scratch/file").write_text("x")
        with pytest.raises(OSError, match="No space left"):
            (root / "srv/scratch/big").write_bytes(bytes(5 << 20))
        await w.said("unshare", "docs", "work")
        assert not (root / "srv/deep/papers").exists()
        policy = w.paths.config[0] / "policy.d/30-mine.policy"
        policy.write_text("")
        await w.wait_event("folder.unshared", sandbox="work")
        await eventually(lambda: not (root / "home/user/drafts/file").exists())
        assert [s.name for s in (await w.status()).sandboxes] == ["work"]


async def test_a_broker_that_was_killed_leaves_no_mount_that_no_rule_allows():
    async with a_sandbox("bwrap") as (w, _, root):
        broker = await w.broker_pid()
        os.kill(broker, signal.SIGKILL)
        await wait_ended(os.pidfd_open(broker))
        policy = w.paths.config[0] / "policy.d/30-mine.policy"
        policy.write_text(RULES.splitlines()[0] + "\n")
        assert (root / "home/user/drafts/file").exists(), "nothing has unmounted it yet"
        await w.start()
        await eventually(lambda: not (root / "home/user/drafts/file").exists())
        await eventually((root / "srv/deep/papers/file").exists)


@pytest.mark.parametrize("at", ["/srv/scratch", "/home/user/.cache/scratch"])
async def test_a_box_writes_to_its_memory(at):
    """A box with no file of the user's has a user id of its own, but not in its home."""
    async with world(image=False) as w:
        w.write_record("app", DISPOSABLE.format(at=at))
        script = (
            f"cd {at} && echo kept >file && cat file && df --output=size -k . && id -u"
        )
        answer = await brokerctl(
            "run", "-q", "app", "--", "sh", "-c", script, env=w.environ
        )
        assert answer.code == 0, answer
        kept, _, size, uid = answer.lines
        assert (kept, size.strip()) == ("kept", "4096")
        if at.startswith("/home"):
            assert int(uid) == os.getuid()


def of_podman(base):
    binds = ", ".join(f'"{path}"' for path in SHARED if Path(path).exists())
    return f'rootfs = "{root_directory(base)}"\nbind_read_only = [{binds}]\n'


async def test_mounts_of_a_podman_container():
    async with (
        podman_settings() as settings,
        a_sandbox("podman", of_podman, settings) as (w, home, root),
    ):
        await has_its_mounts(w, home, root)
        (root / "srv/scratch/file").write_text("x")
        await w.said("unshare", "docs", "work")
        assert not (root / "srv/deep/papers/file").exists()


async def test_mounts_of_a_tree():
    skip_without_nspawn()
    async with a_sandbox("nspawn", of_podman) as (w, home, root):
        await has_its_mounts(w, home, root)
        (root / "srv/scratch/file").write_text("x")
        await w.said("unshare", "docs", "work")
        assert not (root / "srv/deep/papers/file").exists()
