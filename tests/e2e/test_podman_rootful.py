"""Containers of root's Podman as sandboxes of a person.

Root's half has Podman and runs this file again as the ordinary user, for the broker and
the desktop.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.own_command import hooked_words
from tests.kit.podman import CONNECT_EACH, SECOND, shared_words
from tests.kit.records import shown_record
from tests.kit.rootful import AS_PERSON, IN_USER_NAMESPACE, PLACE, Asker, persons_half
from tests.kit.wayland.compositor import wait_frames, wait_window, windows
from tests.kit.world import world

ORANGE = (0xE6, 0x9F, 0x00)
RECORD = shown_record('kind = "podman"', "{required}", colour="orange")
pytestmark = pytest.mark.machine
CASES = ["framed", "box", "reaches", "required", "later_broker", "confined", "paused"]


@pytest.mark.root
@pytest.mark.parametrize("case", CASES)
def test_as_root(case):
    persons_half(Path(__file__), case)


def words(asker, *more, name="work", root="root"):
    return hooked_words(asker.base / root, *more, name=name)


BOX = shown_record('kind = "shared-box"', colour="orange", of="disposable")


@AS_PERSON
async def test_box():
    """As 'sudo toolbox' makes it, with the runtime directory: root draws by its record only."""
    records = {"devel": f"{BOX}rootful = true\n", "plain": BOX}
    async with world(records, image=False) as w:
        asker = Asker(Path(PLACE))
        script = w.base / "enter"
        script.write_text(
            f'#!/bin/sh\necho "$WAYLAND_DISPLAY" >{w.base}/$2\nexec sleep 1000\n'
        )
        script.chmod(0o755)
        run = w.paths.runtime.parent
        box = ("run", "--rm", "--network=none", "--pid=host", *shared_words())
        box += ("--volume", f"{run}:{run}", "--env=XDG_RUNTIME_DIR=/tmp")
        for name in records:
            words = ("launcher", "exec", "toolbox", str(script), "--name", name)
            async with running(*words, env=w.environ):
                file = w.base / name
                await eventually(lambda file=file: file.is_file() and file.read_text())
                root = ("--rootfs", f"{asker.base / 'root'}:O")
                display = f"--env=WAYLAND_DISPLAY={file.read_text().strip()}"
                foot = ("foot", "-T", f"in {name}", "sleep", "1000")
                begun = asker.begin(*box, f"--name={name}", display, *root, *foot)
                if name == "plain":
                    refused = await w.wait_event("stream.refused")
                    assert "rootful = true" in refused["reason"]
                    assert (await asker.end(begun))[0] != 0
                    continue
                await wait_window(w.comp, title="in devel")
                sandbox = w.events("lease.begin")[-1]["sandbox"]
                title = f"[{sandbox}: label, not boundary] in devel"
                await wait_frames(w.comp, {title: {ORANGE}})
                assert (await asker.run("kill", name))[0] == 0
                await asker.end(begun)


@AS_PERSON
async def test_framed():
    """Its window; a second container, a program outside; its death cuts its streams."""
    async with world({"work": RECORD.format(required="")}, image=False) as w:
        asker = Asker(Path(PLACE))
        await asker.install(w)
        foot = ("foot", "-T", "mine", "sleep", "1000")
        first = asker.begin(*words(asker, "--name=mine"), *foot)
        await wait_window(w.comp, title="mine")
        await wait_frames(w.comp, {"[work] mine": {ORANGE}})
        begin = await w.only_event("lease.begin")
        assert Path(f"/proc/{begin['pid']}").stat().st_uid == 0, "it is root's"
        assert "/libpod-" in begin["peer"]
        (sockets,) = (w.paths.runtime / "launch").glob("*/s")
        # Another container of root's with the same directory.
        other = ("run", "--rm", "--network=none", *shared_words())
        mount = ("--volume", f"{sockets}:/run/other")
        root = ("--rootfs", f"{asker.base / 'root'}:O")
        code, text = await asker.run(*other, *mount, *root, "python3", "-c", SECOND)
        assert code == 0, text
        refused = await w.wait_event("stream.refused", sandbox="work")
        assert "not in this container" in refused["reason"]
        # The person's own program.
        with socket.socket(socket.AF_UNIX) as outside:
            outside.connect(str(sockets / "wayland-0"))
            await eventually(lambda: _refused(w, 2))
        # A second sandbox of the record has no lease, and starts.
        code, _ = await asker.run(*words(asker), "ls", "/run/vitrail")
        assert code == 2, "no such directory"
        assert (await asker.run("kill", "mine"))[0] == 0
        ended = await w.wait_event("lease.end", sandbox="work")
        assert ended["reason"] == "it has ended"
        await asker.end(first)

        async def gone():
            return not windows(await w.comp.tree())

        await eventually(gone)
        assert list((w.paths.runtime / "launch").glob("*")) == []


async def _refused(w, number):
    return len(w.events("stream.refused")) == number


PROBE = (
    CONNECT_EACH
    + """\
there = "/run/vitrail/"
for what in (
    lambda: os.symlink("/", there + "x"),
    lambda: os.unlink(there + "vitrail.Audio"),
    lambda: os.chmod(there, 0o777),
    lambda: os.chmod(there + "wayland-0", 0),
    lambda: os.mknod(there + "disk", 0o060666, os.makedev(8, 0)),
    lambda: os.rename(there + "wayland-0", there + "y"),
    lambda: os.setxattr(there, "user.x", b"x"),
):
    try:
        what()
    except OSError as error:
        print(error.errno)
    else:
        print("done")
"""
)


@AS_PERSON
async def test_reaches():
    """As root, as another user, and in a user namespace: its sockets, nothing else."""
    async with world({"work": RECORD.format(required="")}, image=False) as w:
        asker = Asker(Path(PLACE))
        await asker.install(w)
        own, its = "root", "mapped/root"
        for user, more, root in (
            ("0", (), own),
            ("1000", (), own),
            ("0", IN_USER_NAMESPACE, its),
        ):
            code, text = await asker.run(
                *words(asker, f"--user={user}:{user}", *more, root=root),
                *("python3", "-c", PROBE, str(w.comp.display), str(w.paths.control)),
                *("/run/vitrail/wayland-0", f"/run/user/{user}/pulse/native"),
            )
            assert code == 0, text
            found = text.split()
            assert found[:4] == [
                *("FileNotFoundError", "FileNotFoundError", "connected", "connected")
            ], more
            # EROFS; without the right to make a device, EPERM comes first.
            assert set(found[4:]) <= {"30", "1"}, text
            assert len(found) == 11
            await eventually(lambda: _leases_ended(w))
        assert len(w.events("lease.begin")) == 3


async def _leases_ended(w):
    return len(w.events("lease.begin")) == len(w.events("lease.end"))


@AS_PERSON
async def test_required():
    """Without a broker, and with a person's links in the place of its directories."""
    records = {
        "work": RECORD.format(required=""),
        "strict": RECORD.format(required="required = true"),
        "child": 'inherits = "strict"\nclass = "persistent"\n',
    }
    async with world(records, image=False) as w:
        asker = Asker(Path(PLACE))
        await asker.install(w)
        shell = ("sh", "-c", "echo it runs; ls /run/vitrail")
        code, text = await asker.run(*words(asker, name="strict"), *shell)
        assert (code, "it runs" in text) == (0, True), text
        await eventually(lambda: _leases_ended(w))
        # Attack: the person's directory leads to root's files.
        launch = w.paths.runtime / "launch"
        launch.rename(launch.with_name("kept"))
        launch.symlink_to("kept")
        for name, runs in (("work", True), ("strict", False), ("child", False)):
            code, text = await asker.run(*words(asker, name=name), *shell)
            assert ("it runs" in text) is runs, (name, text)
        launch.unlink()
        launch.with_name("kept").rename(launch)
        await w.shutdown()
        for name, runs in (("work", True), ("strict", False), ("child", False)):
            code, text = await asker.run(*words(asker, name=name), *shell)
            assert ("it runs" in text) is runs, (name, text)
            assert (code == 2) is runs, (name, text)
        await w.start()


@AS_PERSON
async def test_later_broker():
    """One that was killed: the next one leases the container again, or its end."""
    async with world({"work": RECORD.format(required="")}, image=False) as w:
        asker = Asker(Path(PLACE))
        await asker.install(w)
        done = asker.begin(*words(asker, "--name=stays"), "sleep", "1000")
        await w.wait_event("lease.begin", sandbox="work")
        os.kill(await w.broker_pid(), 9)
        await w.start()
        await eventually(lambda: _begun(w, 2))
        assert (await asker.run("kill", "stays"))[0] == 0
        await asker.end(done)
        await w.wait_event("lease.end", sandbox="work")


async def _begun(w, number):
    return len(w.events("lease.begin")) == number


@AS_PERSON
async def test_confined():
    """Containers that can leave their namespaces, and one without a control group."""
    async with world({"work": RECORD.format(required="")}, image=False) as w:
        asker = Asker(Path(PLACE))
        await asker.install(w)
        shell = ("sh", "-c", "echo it runs; ls /run/vitrail")
        ways = ("--cap-add=DAC_READ_SEARCH", "--pid=host", "--cap-add=SYS_ADMIN")
        for way in ways:
            code, text = await asker.run(*words(asker, way), *shell)
            assert "it runs" in text, text
            assert code == 2, (way, text)
        assert w.events("lease.begin") == []


SERVED = """
import socket
sock = socket.socket(socket.AF_UNIX)
try:
    sock.connect("/run/vitrail/wayland-0")
    # wl_display.get_registry, wl_display.sync
    sock.send(bytes.fromhex("01000000 01000c00 02000000 01000000 00000c00 03000000"))
    print("served" if sock.recv(4096) else "refused")
except OSError as error:
    print(type(error).__name__)
"""


@AS_PERSON
async def test_paused():
    """Attack: a container is paused while its lease ends, and wants to go on after it."""
    async with world({"work": RECORD.format(required="")}, image=False) as w:
        asker = Asker(Path(PLACE))
        await asker.install(w)
        foot = ("foot", "-T", "mine", "sleep", "1000")
        first = asker.begin(*words(asker, "--name=mine"), *foot)
        await wait_window(w.comp, title="mine")

        def look(user):
            probe = ("python3", "-c", SERVED)
            return asker.run("exec", "--user", user, "mine", *probe)

        for user in ("0", "1234:1234"):
            assert await look(user) == (0, "served\n")
        # Another container has the first one's network, and nothing else of it.
        near = ("run", "--rm", "--network=container:mine", *shared_words())
        root = ("--rootfs", f"{asker.base / 'root'}:O")
        code, text = await asker.run(*near, *root, "python3", "-c", SERVED)
        assert (code, text) == (0, "FileNotFoundError\n")
        assert (await asker.run("pause", "mine"))[0] == 0
        assert (await brokerctl("stop", "work", env=w.environ)).code == 0
        await w.wait_event("lease.end", sandbox="work")

        async def gone():
            return not windows(await w.comp.tree())

        await eventually(gone)
        assert (await asker.run("unpause", "mine"))[0] == 0
        code, text = await look("0")
        assert "served" not in text, (code, text)
        assert len(w.events("lease.begin")) == 1
        assert (await asker.run("rm", "-f", "-t", "0", "mine"))[0] == 0
        await asker.end(first)
