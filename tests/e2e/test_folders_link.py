"""Folders of the viewer's user in a micro VM of another machine's host, by sshfs."""

from __future__ import annotations

import json
import os

import pytest

from broker.core.errors import SetupError
from broker.host.folders.folder_server import find_virtiofsd
from broker.host.images.store import DEFAULT_PACKAGES, ImageSpec
from broker.session.folders.folder_server import find_sftp_server
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.link.two_brokers import two
from tests.kit.shared_home import RULES, machine_record, shared_home
from tests.kit.vm.machines import require_vm
from tests.kit.world import the_image

IMAGE = ImageSpec(name="folders", packages=(*DEFAULT_PACKAGES, "sshfs"))


@pytest.fixture(autouse=True)
def _parts():
    require_vm()
    try:
        find_virtiofsd()
        find_sftp_server()
    except SetupError as error:
        pytest.skip(str(error))


async def said(t, *words, code=0):
    answer = await brokerctl(*words, env=t.viewer.environ, deadline=300)
    assert answer.code == code, answer
    return answer.out if code == 0 else answer.err


async def inside(t, script, code=0):
    return await said(t, "exec", "work", "--", "sh", "-c", script, code=code)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_machine_of_the_host_has_folders_of_the_viewers_user():
    await the_image(IMAGE)
    async with two({}, start=False) as t:
        home = shared_home(t.viewer.base)
        t.viewer.environ["HOME"] = str(home)
        for side in (t.host, t.viewer):
            side.write_record("work", machine_record(home, 'image = "folders"'))
        t.viewer.write_rules(RULES)
        await t.viewer.start()
        await t.host.start()
        await t.up()
        await said(t, "run", "--detach", "-q", "--no-window", "work")
        await by_the_record(t, home)
        await on_request(t, home)
        await taken_back(t, home)
        await ended(t, home)


async def by_the_record(t, home):
    """Mounted before a program asks; read-only; its links lead nowhere outside."""
    text = (
        "until test -e /folders/docs/file; do sleep 0.1; done; cat /folders/docs/file"
    )
    assert await inside(t, text) == "docs"
    await inside(t, "! touch /folders/docs/new && ! rm -f /folders/docs/file")
    await inside(t, "! cat /folders/docs/out")
    names = sorted(p.name for p in (home / "docs").iterdir())
    assert names == ["absolute", "file", "out"]


async def on_request(t, home):
    """Shared while it runs, changed by both, and shown."""
    await said(t, "share", "--write", str(home / "Downloads"), "work")
    await inside(t, "echo from the guest >/folders/Downloads/new")
    made = home / "Downloads/new"
    assert made.read_text() == "from the guest\n"
    assert made.stat().st_uid == os.getuid()
    (home / "Downloads/mine").write_text("from the user")
    assert await inside(t, "cat /folders/Downloads/mine") == "from the user"
    await inside(t, "! chmod 4755 /folders/Downloads/new")
    assert made.stat().st_mode & 0o7000 == 0
    found = json.loads(await said(t, "share", "--json"))["folders"]
    assert {(f["inside"], f["write"]) for f in found} == {
        ("/folders/docs", False),
        ("/folders/Downloads", True),
    }


async def taken_back(t, home):
    """Refused while a program has it open, and gone by force."""
    await said(
        t,
        *("exec", "work", "--", "sh", "-c"),
        "exec 3</folders/Downloads/mine; sleep 3600 <&3 >/dev/null 2>&1 & sleep 0.2",
    )
    assert "could not unmount" in await said(t, "unshare", "Downloads", "work", code=1)
    await said(t, "unshare", "--force", "Downloads", "work")
    await inside(t, "! test -e /folders/Downloads/mine")
    # Shared again, at the same place.
    await said(t, "share", "--write", str(home / "Downloads"), "work")
    assert await inside(t, "cat /folders/Downloads/mine") == "from the user"


async def ended(t, home):
    """A rule that is gone takes it back; so does the end of the machine."""
    policy = t.viewer.paths.config[0] / "policy.d/30-mine.policy"
    policy.write_text(RULES.splitlines()[0] + "\n")

    async def gone():
        found = json.loads(await said(t, "share", "--json"))["folders"]
        return [f["inside"] for f in found] == ["/folders/docs"]

    await eventually(gone, deadline=60)
    await inside(t, "! test -e /folders/Downloads/mine")
    assert await inside(t, "cat /folders/docs/file") == "docs"
    await said(t, "stop", "work")
    assert json.loads(await said(t, "share", "--json"))["folders"] == []
    reasons = {e["reason"] for e in t.viewer.events("folder.unshared")}
    assert "the sandbox stopped" in reasons
