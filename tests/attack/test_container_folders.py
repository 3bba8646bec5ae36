"""Attack: a container keeps a shared folder after 'brokerctl unshare'.

A program makes a user and a mount namespace, in which there is a copy of each mount,
opens the folder there, and passes the descriptor to another program.  No process is in
that namespace any more, so no look at processes finds the copy.
"""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES
from tests.kit.own_command import Nspawn, Podman, RecordedPodman
from tests.kit.world import world

pytestmark = [pytest.mark.slow, PID_NAMESPACES]

RULES = "vitrail.Folder +paper work @adminvm allow write=yes\n"
KEEP = """
import array, ctypes, os, socket, time
SHARED = "/folders/paper"
while not os.path.exists(SHARED + "/file"):
    time.sleep(0.01)
ours, theirs = socket.socketpair()
if os.fork() == 0:
    if ctypes.CDLL(None).unshare(0x10000000 | 0x20000) == 0:
        copy = os.open(SHARED, os.O_PATH)
        theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [copy]))])
    os._exit(0)
theirs.close()
_, control, _, _ = ours.recvmsg(1, 100)
print("copy" if control else "refused", flush=True)
while os.path.exists(SHARED + "/file"):
    time.sleep(0.01)
if control:
    copy = array.array("i", control[0][2][:4])[0]
    print("READ", os.read(os.open("file", os.O_RDONLY, dir_fd=copy), 100), flush=True)
print("gone", flush=True)
time.sleep(600)
"""


@asynccontextmanager
async def keeper(kind):
    """A container whose program keeps the folder if it can; yields its output."""
    async with (
        kind.settings() as settings,
        world(image=False, start=False, extra=settings) as w,
    ):
        home, folder = w.base / "home", w.base / "open"
        (home / "paper").mkdir(parents=True)
        (home / "paper/file").write_text("later text")
        folder.mkdir()
        program, output = folder / "keep.py", w.base / "output"
        program.write_text(KEEP)
        w.environ["HOME"] = str(home)
        w.write_rules(RULES)
        await w.start()
        launcher = kind(w, folder)
        async with (
            launcher.prepared(),
            launcher.running(output, "python3", str(program)),
        ):
            await w.wait_event("lease.begin", sandbox="work")
            await w.said("share", "--write", str(home / "paper"), "work")

            def printed(text):
                return text in output.read_text(errors="replace")

            yield w, launcher.child, printed


@pytest.mark.parametrize("kind", [RecordedPodman, Nspawn])
async def test_unshared_folder_is_gone_for_container_by_record(kind):
    """Promise: docs/folders.md, "can no longer access" is true of each program."""
    async with keeper(kind) as (w, _, printed):
        await eventually(lambda: printed("refused") or printed("copy"), deadline=60)
        assert printed("refused")
        await w.said("unshare", "paper", "work")
        await eventually(lambda: printed("gone"), deadline=60)
        assert not printed("READ")


async def test_unshare_is_refused_for_users_own_container():
    """Promise: where programs may keep a copy, it is refused, and --force ends them."""
    async with keeper(Podman) as (w, child, printed):
        await eventually(lambda: printed("copy"), deadline=60)
        text = await w.said("unshare", "paper", "work", code=1)
        assert "may have separate mounts" in text
        assert "--force" in text
        await w.said("unshare", "--force", "paper", "work")
        await w.wait_event("lease.end", sandbox="work")
        await eventually(lambda: child.poll() is not None)
