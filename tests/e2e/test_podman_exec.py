"""What programs have that ``podman exec`` starts in a leased container."""

from __future__ import annotations

import errno
import json

import pytest
import trio

from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES
from tests.kit.own_command import hooked_words, install_hook
from tests.kit.podman import podman_settings, podman_start, root_directory
from tests.kit.podman_store import run as podman
from tests.kit.records import shown_record
from tests.kit.world import world

pytestmark = PID_NAMESPACES
RECORD = shown_record('kind = "podman"', colour="orange")
PROBE = """
import ctypes, json, os, resource, socket
found = {}
found["files"] = resource.getrlimit(resource.RLIMIT_NOFILE)
try:
    socket.socket(socket.AF_VSOCK)
    found["vsock"] = 0
except OSError as error:
    found["vsock"] = error.errno
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall(250, 0, -3, 1)
found["keyctl"] = ctypes.get_errno()
with open("/proc/self/status") as file:
    lines = {k: v.strip() for k, _, v in (line.partition(":") for line in file)}
for name in ("Seccomp", "NoNewPrivs", "CapEff", "CapBnd"):
    found[name] = lines[name]
found["oom"] = open("/proc/self/oom_score_adj").read().strip()
sock = socket.socket(socket.AF_UNIX)
sock.connect("/run/vitrail/wayland-0")
found["display"] = "connected"
print(json.dumps(found), flush=True)
"""


@pytest.mark.parametrize("limited", [True, False])
async def test_a_program_of_podman_exec_has_the_filter_of_the_first(limited):
    """Podman gives it the limit of open files that its own command line had.

    The same holds for a health check, which an image may have.
    """
    async with podman_settings() as settings, world(image=False, extra=settings) as w:
        w.write_record("work", RECORD)
        root_directory(w.base)
        await install_hook(w)
        more = ["--name=mine", "--annotation", "io.vitrail.ours=true"]
        more += ["--health-cmd=ulimit -Hn >/tmp/files", "--health-interval=disable"]
        more += ["--ulimit=nofile=700:700"] if limited else []
        words = hooked_words(w.base / "root", *more, name="work")[1:]
        script = PROBE + "import time; time.sleep(1000)"
        child = podman_start(w.environ, *words, "python3", "-c", script)
        try:
            await w.wait_event("lease.begin", sandbox="work")
            line = await trio.to_thread.run_sync(child.stdout.readline)
            assert line, child.stderr.read()
            first = json.loads(line)
            found = podman(w.environ, "exec", "mine", "python3", "-c", PROBE)
            second = json.loads(found)
            podman(w.environ, "healthcheck", "run", "mine")
            checked = podman(w.environ, "exec", "mine", "cat", "/tmp/files")
        finally:
            podman(w.environ, "rm", "-af", "-t", "0", check=False)
            await trio.to_thread.run_sync(child.communicate)
        files, most = second.pop("files"), first.pop("files")
        assert most == [700, 700]
        assert (files == most) is limited, "docs/launchers/podman.md says so"
        assert int(checked) == files[1]
        assert second == first
        # By Podman's own filter, which has a default of its version.
        assert first["vsock"] in {errno.EAFNOSUPPORT, errno.EPERM, errno.ENOSYS}
        assert first["keyctl"] in {errno.EPERM, errno.ENOSYS}
        await eventually(lambda: w.events("lease.end") != [])
