"""A container that serves a file, and never answers for it (FUSE).

Its descriptor is sent where pixels are expected: a process that asks anything of that
file waits until the container answers, and no signal ends it.  The container has the
device and the capability to mount, which its person gave it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from broker.net.peers.credentials import can_ask_pid_namespaces
from tests.attack.test_launch_sockets import SENDER
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.own_command import hooked_words, install_hook
from tests.kit.podman import podman_settings, podman_start, root_directory
from tests.kit.podman_store import run as podman
from tests.kit.vm import silent_fuse
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import descriptors, world

pytestmark = [
    pytest.mark.machine,
    pytest.mark.skipif(
        not os.access("/dev/fuse", os.R_OK | os.W_OK),
        reason="this user cannot open /dev/fuse",
    ),
    pytest.mark.skipif(
        not can_ask_pid_namespaces(),
        reason="this kernel cannot tell a process's pid namespace",
    ),
]
RECORD = """\
class = "persistent"
display = "allow"
[launch]
kind = "podman"
"""
CODE = """
import ctypes, threading, time
answered = until
def until(sock, number):
    if number == 6:
        print("sent", flush=True)
    return answered(sock, number)
sys.path.insert(0, "/shared")
from silent_fuse import SilentFuse
device = os.open("/dev/fuse", os.O_RDWR)
words = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % device
if ctypes.CDLL(None).mount(b"silent", b"/mnt", b"fuse", 0, words):
    sys.exit("cannot mount")
SilentFuse(device)
if os.fork() == 0:
    # No signal would end a process that has both, and the test has to end it.
    os.close(device)
    fd = os.open("/mnt/file", os.O_RDWR)
    # In a thread: close(2) of the descriptor waits for us as well.
    threading.Thread(target=tried, args=("fuse", fd), daemon=True).start()
time.sleep(1000)
"""


async def test_a_file_that_never_answers_ends_its_own_connection_alone():
    async with (
        podman_settings() as settings,
        world(image=False, extra=settings, program="tests.kit.hurried_broker") as w,
    ):
        w.write_record("evil", RECORD)
        (root_directory(w.base) / "mnt").mkdir()
        await install_hook(w)
        shared = w.base / "shared"
        shared.mkdir()
        (shared / "code.py").write_text(SENDER + CODE)
        (shared / "silent_fuse.py").write_text(Path(silent_fuse.__file__).read_text())
        before = descriptors(await w.broker_pid())
        options = ("--name=evil", "--device=/dev/fuse", "--cap-add=SYS_ADMIN")
        words = hooked_words(
            w.base / "root", *options, "--volume", f"{shared}:/shared:ro", name="evil"
        )
        command = ("python3", "/shared/code.py")
        evil = podman_start(w.environ, *words[1:], *command)
        try:
            with trio.fail_after(120):
                while (
                    line := await trio.to_thread.run_sync(evil.stdout.readline)
                ) != "sent\n":
                    assert line, evil.stderr.read()
                    print(line)
            # Its server still lives and is silent: others start, and it can be stopped.
            calm = ("run", "-q", "--bwrap", "--", "foot", "-T", "calm", "sleep", "99")
            async with running(*calm, env=w.environ):
                await wait_window(w.comp, title="calm")
                answer = await brokerctl("stop", "evil", "--grace=1", env=w.environ)
                assert answer.code == 0, answer
                await w.wait_event("lease.end", sandbox="evil")
                await eventually(lambda: _as_before(w, before))
            # It was not a worker that had ended, or had not read the file yet.
            log = (w.paths.state / "broker.log").read_text()
            assert "the worker of evil was killed but has not exited" in log
        finally:
            podman(w.environ, "rm", "-af", "-t", "0", check=False)
            await trio.to_thread.run_sync(evil.communicate)


async def _as_before(w, before):
    """No file of the container's is left in the broker."""
    now = descriptors(await w.broker_pid())
    # The fork server of workers, which runs now, has the broker's file for its errors.
    kinds = {kind for kind in now if kind.startswith("/")} - {"/memfd"}
    return all(now[kind] <= before[kind] for kind in kinds)
