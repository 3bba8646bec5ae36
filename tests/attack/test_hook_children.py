"""A user's file system that is silent when a file of it is closed, and root's hooks.

close(2) of a FUSE file waits for its server, and no signal ends that: a killed child
of a hook would keep its open files, and who started the hook reads its output.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import os, subprocess, sys
from pathlib import Path
from tests.kit.vm.silent_fuse import _libc, SilentFuse

place, hook = Path(sys.argv[1]), sys.argv[2]
device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
words = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
if _libc.mount(b"silent", os.fsencode(place / "fuse"), b"fuse", 0, words.encode()):
    sys.exit("cannot mount")
SilentFuse(device)
child = subprocess.Popen(
    [sys.executable, "-c", hook, str(place)], stdout=-1, stderr=-1, close_fds=True
)
try:
    out, err = child.communicate(timeout=15)
    print("ended", out.decode(), err.decode())
except subprocess.TimeoutExpired:
    print("held", child.wait())
finally:
    sys.stdout.flush()
    _libc.umount2(os.fsencode(place / "fuse"), 2)
    os.close(device)
"""
LIBVIRT = """
import os, sys
from tests.kit.hooks import libvirt as hook
hook.RECORDS_SECONDS = 0.5
hook.folders_of = lambda uid: [sys.argv[1] + "/records"]
print("required" if hook.user_requires(os.getuid(), {"win11"}) else "not required")
"""
OCI = """
import sys, time
from tests.kit.hooks import oci as hook
def work():
    hook.log("the child says")
    words = {hook.SANDBOX: "web"}
    return "yes" if hook.is_required(words, [sys.argv[1] + "/records"]) else "no"
print(hook.in_child("record", work, time.monotonic() + 0.5))
"""


def run(tmp_path, hook):
    (tmp_path / "fuse").mkdir()
    (tmp_path / "records").mkdir()
    (tmp_path / "records/web.toml").symlink_to(tmp_path / "fuse/file")
    words = ["unshare", "-Urm", sys.executable, "-c", CODE, str(tmp_path), hook]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if "cannot mount" in done.stderr:
        pytest.skip("no FUSE in a user namespace here")
    return done.stdout


@pytest.mark.parametrize("hook", [LIBVIRT, OCI], ids=["libvirt", "oci"])
def test_child_of_a_hook_that_cannot_end_keeps_no_output_open(tmp_path, hook):
    """libvirtd and Podman read a hook's output to its end, for every start."""
    # As in a file system that is silent, and is not known to be served by a program.
    unknown = "hook._on_fuse = lambda fd: False\n"
    words = hook.replace("as hook\n", f"as hook\n{unknown}")
    assert run(tmp_path, words).startswith("ended")


def test_reason_of_a_child_is_still_shown(tmp_path):
    assert "the child says" in run(tmp_path, OCI)


@pytest.mark.parametrize("hook", [LIBVIRT, OCI], ids=["libvirt", "oci"])
def test_record_in_such_a_file_system_is_not_opened(tmp_path, hook):
    """Each start would leave a process, for as long as it is silent."""
    seen = tmp_path / "opened"
    watching = CODE.replace("SilentFuse(device)", "fuse = SilentFuse(device)").replace(
        "    sys.stdout.flush()", f"    fuse.silent and Path({str(seen)!r}).touch()"
    )
    globals_of = globals()
    before, globals_of["CODE"] = CODE, watching
    try:
        run(tmp_path, hook)
    finally:
        globals_of["CODE"] = before
    assert not seen.exists()
