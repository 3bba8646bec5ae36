"""Folders of the person's in a real micro VM, through virtiofsd in its jail."""

from __future__ import annotations

import json
import os
import signal
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.needs import FOLDERS_VM
from tests.kit.shared_home import RULES, machine_record, shared_home
from tests.kit.shared_mounts import (
    mount_memory,
    namespaces_with_later_mounts,
    run_in_shared_mounts,
    unmount,
)
from tests.kit.world import world

pytestmark = FOLDERS_VM


@asynccontextmanager
async def a_machine():
    """A running micro VM with a folder of its record; yields the world and the home."""
    async with world(start=False) as w:
        home = shared_home(w.base)
        w.environ["HOME"] = str(home)
        w.write_record("work", machine_record(home))
        w.write_rules(RULES)
        await w.start()
        await w.said("run", "--detach", "-q", "--no-window", "work")
        yield w, home


async def inside(w, script, code=0):
    return await w.said("exec", "work", "--", "sh", "-c", script, code=code)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_micro_vm_reads_and_writes_its_folders():
    async with a_machine() as (w, home):
        await by_the_record(w, home)
        await on_request(w, home)
        await taken_back(w, home)
        await killed(w, home)
        assert (home / "secret").read_text() == "not shared"
        assert [s.name for s in (await w.status()).sandboxes]


async def by_the_record(w, home):
    """Mounted before a program asks; read-only; its links lead nowhere outside."""
    text = (
        "until test -e /folders/docs/file; do sleep 0.1; done; cat /folders/docs/file"
    )
    assert await inside(w, text) == "docs"
    assert "Read-only" in await inside(w, "echo x 2>&1 >/folders/docs/file; true")
    await inside(w, "! cat /folders/docs/out && ! cat /folders/docs/absolute")
    await inside(w, "! touch /folders/docs/new && ! rm -f /folders/docs/file")
    assert sorted(p.name for p in (home / "docs").iterdir()) == [
        "absolute",
        "file",
        "out",
    ]
    # The root of the device, beside the folder, is not for the guest to fill.
    pid = await w.pid_of("virtiofsd-0", "work")
    assert os.listdir(f"/proc/{pid}/root") == ["here"]


async def on_request(w, home):
    """Shared while it runs, changed by both, and shown."""
    await w.said("share", "--write", str(home / "Downloads"), "work")
    await inside(w, "echo from the guest >/folders/Downloads/new")
    made = home / "Downloads/new"
    assert made.read_text() == "from the guest\n"
    assert made.stat().st_uid == os.getuid()
    (home / "Downloads/mine").write_text("from the person")
    assert await inside(w, "cat /folders/Downloads/mine") == "from the person"
    await inside(
        w, "chmod 4755 /folders/Downloads/new; chmod 755 /folders/Downloads/new"
    )
    assert oct(made.stat().st_mode) == "0o100755"
    await inside(w, "! chmod 4755 /folders/Downloads/new")
    assert oct(made.stat().st_mode) == "0o100755"
    found = json.loads(await w.said("share", "--json"))["folders"]
    assert {(f["inside"], f["write"]) for f in found} == {
        ("/folders/docs", False),
        ("/folders/Downloads", True),
    }
    (home / "more").mkdir()
    policy = w.paths.config[0] / "policy.d/30-mine.policy"
    loaded = len(w.events("policy.loaded"))
    policy.write_text(f"{RULES}vitrail.Folder +more @anyvm @adminvm allow\n")
    await eventually(lambda: len(w.events("policy.loaded")) > loaded)
    text = await w.said("share", str(home / "more"), "work", code=1)
    assert "no free slot" in text


async def taken_back(w, home):
    """Refused while a program has it open; the place can be used again."""
    opened = await brokerctl(
        "exec",
        "work",
        "--",
        "sh",
        "-c",
        "sleep 3600 </folders/Downloads/file >/dev/null 2>&1 & echo $!",
        env=w.environ,
    )
    assert opened.code == 0, opened
    text = await w.said("unshare", "Downloads", "work", code=1)
    assert "--force" in text
    await inside(w, f"kill {opened.out.strip()}")

    async def gone():
        answer = await brokerctl("unshare", "Downloads", "work", env=w.environ)
        return answer.code == 0

    await eventually(gone)
    await inside(w, "! test -e /folders/Downloads")
    await w.said("share", "--write", str(home / "Downloads"), "work")
    assert await inside(w, "cat /folders/Downloads/file") == "Downloads"
    ended = w.events("folder.unshared", outcome="unmounted")
    assert [e["object"] for e in ended] == [str(home / "Downloads")]


async def killed(w, home):
    """A rule that goes takes an open folder; a dead server ends its folder alone."""
    await inside(w, "sleep 3600 </folders/Downloads/file >/dev/null 2>&1 &")
    policy = w.paths.config[0] / "policy.d/30-mine.policy"
    policy.write_text(RULES.splitlines()[0] + "\n")

    async def none(name):
        found = json.loads(await w.said("share", "--json"))["folders"]
        return all(Path(f["path"]).name != name for f in found)

    with trio.fail_after(120):
        await eventually(lambda: none("Downloads"), deadline=120)
    (home / "Downloads/file").write_text("changed afterwards")
    await inside(w, "! grep -q changed /folders/Downloads/file")
    os.kill(await w.pid_of("virtiofsd-0", "work"), signal.SIGKILL)
    await eventually(lambda: none("docs"), deadline=120)
    reasons = [e["reason"] for e in w.events("folder.unshared", outcome="unmounted")]
    assert "virtiofsd" in reasons[-1]

    async def warned():
        texts = (await w.status()).warnings
        return [t for t in texts if "the folder docs is no longer shared" in t]

    (warning,) = await eventually(warned)
    assert "stop the sandbox and start it again" in warning
    loaded = len(w.events("policy.loaded"))
    policy.write_text(f"{RULES}vitrail.Folder +more @anyvm @adminvm allow\n")
    await eventually(lambda: len(w.events("policy.loaded")) > loaded)
    text = await w.said("share", str(home / "more"), "work", code=1)
    assert "2 can no longer be used: virtiofsd" in text
    assert await inside(w, "echo alive") == "alive\n"


async def mount_below_folders():
    """By the record, read-only, and by ``brokerctl share --write``."""
    async with a_machine() as (w, home):
        for name in ("docs", "Downloads"):
            (home / name / "vault").mkdir()
        await inside(w, "until test -e /folders/docs/file; do sleep 0.1; done")
        await w.said("share", "--write", str(home / "Downloads"), "work")
        for name in ("docs", "Downloads"):
            for target in (home / name / "vault", home / name):
                mount_memory(target)
                assert not namespaces_with_later_mounts()
                script = (
                    f"! test -e /folders/{name}/secret && ls -A /folders/{name}/vault"
                )
                assert await inside(w, script) == ""
                # Not busy, although a guest program is there.
                await inside(
                    w, f"cd /folders/{name}/vault && sleep 600 >/dev/null 2>&1 &"
                )
                unmount(target)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_later_mount_absent_in_folders_of_micro_vm():
    run_in_shared_mounts(partial(trio.run, mount_below_folders))
