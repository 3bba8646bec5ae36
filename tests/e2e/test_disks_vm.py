"""Images of the person's as disks of a real micro VM, and its mounts at paths of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import asynccontextmanager

import pytest

from broker.core.errors import SetupError
from broker.helpers.process.spawn import wait_ended
from broker.host.folders.folder_server import find_virtiofsd
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import NeverError, eventually
from tests.kit.needs import needs
from tests.kit.vm.machines import require_vm
from tests.kit.world import world

RECORD = """\
class = "persistent"
display = "allow"
[label]
colour = "blue"
[launch]
memory = "512M"
network = "none"
command = ["sleep", "3600"]
[[disks]]
tag = "data"
source = "{home}/data.img"
at = "/srv/data"
write = true
[[disks]]
tag = "disc"
source = "{home}/disc.iso"
[[disks]]
tag = "layers"
source = "{home}/layers.img"
[[disks]]
tag = "forbidden"
source = "{home}/forbidden.img"
[[mounts]]
kind = "memory"
at = "/srv/scratch"
size = "8M"
[[mounts]]
kind = "directory"
at = "/srv/papers"
source = "{home}/docs"
"""
RULES = """\
vitrail.Folder +docs      @anyvm @adminvm allow
vitrail.Block  +data      @anyvm @adminvm allow write=yes
vitrail.Block  +forbidden @anyvm @adminvm deny
vitrail.Block  *          @anyvm @adminvm allow
"""
_SECRET = "what only a backing file would show"

pytestmark = [
    pytest.mark.long,
    needs("mke2fs", "e2fsprogs"),
    needs("qemu-img", "qemu-utils"),
]


@pytest.fixture(autouse=True)
def _vm():
    require_vm()
    try:
        find_virtiofsd()
    except SetupError as error:
        pytest.skip(str(error))


def make_images(home):
    """A file system, an ISO's bytes, an image that claims to be of QED, and another."""
    tree = home / "tree"
    tree.mkdir(parents=True)
    (tree / "file").write_text("in the image")
    disk = [
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-E",
        "root_owner=1000:1000",
    ]
    subprocess.run([*disk, "-d", str(tree), str(home / "data.img"), "16M"], check=True)
    (home / "disc.iso").write_bytes(bytes(32768) + b"\x01CD001\x01" + bytes(65536))
    secret = home / "secret.img"
    secret.write_bytes(_SECRET.encode().ljust(1 << 20, b"\0"))
    layers = ["qemu-img", "create", "-q", "-f", "qed", "-F", "raw", "-b", str(secret)]
    subprocess.run([*layers, str(home / "layers.img")], check=True)
    (home / "forbidden.img").write_bytes(bytes(1 << 20))


@asynccontextmanager
async def a_machine():
    async with world(start=False) as w:
        home = w.base / "home"
        make_images(home)
        (home / "docs").mkdir()
        (home / "docs/file").write_text("docs")
        w.environ["HOME"] = str(home)
        w.write_record("work", RECORD.format(home=home))
        policy = w.paths.config[0] / "policy.d"
        policy.mkdir(parents=True)
        (policy / "30-mine.policy").write_text(RULES)
        await w.start()
        await w.said("run", "--detach", "-q", "--no-window", "work")
        yield w, home


async def inside(w, script, code=0):
    return await w.said("exec", "work", "--", "sh", "-c", script, code=code)


@pytest.mark.timeout(900)
async def test_a_micro_vm_has_its_disks_and_mounts():
    async with a_machine() as (w, home):
        await by_tag(w)
        await at_paths(w, home)
        await raw_only(w)
        await refused(w)
        await locked(w, home)
        await taken_back(w, home)
        await after_a_kill(w)


async def by_tag(w):
    wait = "until test -e /srv/data/file && test -e {0}/disc; do sleep 0.1; done; "
    out = await inside(w, wait.format("/dev/disk/by-tag") + "ls /dev/disk/by-tag")
    assert out.split() == ["data", "disc", "layers"]
    assert await inside(w, "head -c 32774 /dev/disk/by-tag/disc | tail -c 5") == "CD001"
    assert await inside(w, "cat /srv/data/file") == "in the image"
    await inside(w, "! dd if=/dev/zero of=/dev/disk/by-tag/disc count=1 conv=notrunc")
    found = json.loads(await w.said("share", "--json"))["folders"]
    assert {(f["inside"], f["write"]) for f in found} == {
        ("/dev/disk/by-tag/data", True),
        ("/dev/disk/by-tag/disc", False),
        ("/dev/disk/by-tag/layers", False),
        ("/srv/papers", False),
    }


async def at_paths(w, home):
    assert await inside(w, "cat /srv/papers/file") == "docs"
    assert "Read-only" in await inside(w, "echo x 2>&1 >/srv/papers/file; true")
    size = await inside(w, "df --output=size -k /srv/scratch | tail -1")
    assert size.strip() == "8192"
    await inside(w, "echo kept >/srv/scratch/file && grep kept /srv/scratch/file")
    await inside(w, "! dd if=/dev/zero of=/srv/scratch/big bs=1M count=9")
    for place in ("/srv/scratch", "/srv/data", "/srv/papers"):
        found = await inside(w, f"grep ' {place} ' /proc/mounts")
        assert "nosuid" in found, found
        assert "nodev" in found, found
    assert sorted(p.name for p in (home / "docs").iterdir()) == ["file"]


async def raw_only(w):
    """An image of QED, which is not refused, is a disk that begins with its bytes."""
    assert await inside(w, "head -c 3 /dev/disk/by-tag/layers") == "QED"
    await inside(w, f"! grep -a -q '{_SECRET[:20]}' /dev/disk/by-tag/layers")


async def refused(w):
    deny = {"service": "vitrail.Block", "verdict": "deny"}
    found = await w.wait_event("decision", **deny)
    assert found["sandbox"] == "work"


async def locked(w, home):
    """Another sandbox gets no image that this one may change, and the lock is QEMU's."""
    w.write_record("other", RECORD.format(home=home))
    answer = await brokerctl(
        "run", "--detach", "-q", "--no-window", "other", env=w.environ, deadline=300
    )
    assert answer.code == 0, answer
    wait = (
        "until test -e /dev/disk/by-tag/disc; do sleep 0.1; done; ls /dev/disk/by-tag"
    )
    out = await w.said("exec", "other", "--", "sh", "-c", wait)
    assert out.split() == ["disc", "layers"]
    assert (await brokerctl("stop", "other", env=w.environ)).code == 0


async def taken_back(w, home):
    await inside(w, "echo from the guest >/srv/data/new && sync")
    await w.said("unshare", "work", "data")
    await inside(w, "! test -e /srv/data/file && ! test -e /dev/disk/by-tag/data")
    read = subprocess.run(
        ["debugfs", "-R", "cat /new", str(home / "data.img")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert read.stdout == "from the guest\n"
    # Its permission ends: the disk goes, without a question, although it is open.
    await inside(w, "sleep 3600 </dev/disk/by-tag/disc >/dev/null 2>&1 &")
    policy = w.paths.config[0] / "policy.d/30-mine.policy"
    policy.write_text(RULES.replace("vitrail.Block  *", "vitrail.Block  +layers"))

    async def gone():
        return await inside(w, "ls /dev/disk/by-tag") == "layers\n"

    assert await eventually(gone)
    assert [s.name for s in (await w.status()).sandboxes] == ["work"]


async def after_a_kill(w):
    """A broker that was killed leaves a disk, which the next one takes and gives again."""
    broker = await w.broker_pid()
    os.kill(broker, signal.SIGKILL)
    await wait_ended(os.pidfd_open(broker))
    await w.start()

    said_last = []

    async def again():
        answer = await brokerctl(
            "exec", "work", "--", "head", "-c", "3", "/dev/disk/by-tag/layers",
            env=w.environ, deadline=120,
        )  # fmt: skip
        said_last[:] = [answer, w.events("lease.end"), w.events("folder.unshared")[-2:]]
        return answer.out == "QED"

    try:
        await eventually(again, deadline=240)
    except NeverError:
        pytest.fail(repr(said_last))
