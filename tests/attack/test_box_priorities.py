"""Attack from inside a box, or a VMM: processors and memory before the user's programs.

A box inherits the limits of its user: real-time priority, as members of the groups
"pipewire" and "audio" have it, locked memory, and a place among those that end when
memory ends.
"""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

import pytest

from broker.core import limits
from broker.helpers.process.gate import limited_gate_words
from broker.host.processes import tracked
from broker.host.processes.tracked import ordinary
from tests.kit.boxes import said
from tests.kit.needs import requires

pytestmark = requires("bwrap", "/usr/bin/python3")
INHERITED = """
import json, resource
kinds = ("RTPRIO", "NICE", "MEMLOCK")
print(json.dumps({kind: resource.getrlimit(getattr(resource, "RLIMIT_" + kind)) for kind in kinds}))
"""
CLASSES = """
import ctypes, errno, json, os
libc = ctypes.CDLL(None, use_errno=True)
def tried(done):
    return "worked" if done == 0 else errno.errorcode[ctypes.get_errno()]
# The kernel would say EINVAL: there are no parameters.
found = {
    f"{policy:x}": tried(libc.sched_setscheduler(0, policy, None))
    for policy in (0, 1, 2, 3, 6, 0x40000001)
}
found["attributes"] = tried(libc.syscall({"x86_64": 314, "aarch64": 274}[os.uname().machine], 0, None, 0))
before = os.nice(0)  # that of the test run
found["nicer"] = tried(os.nice(1) - min(before + 1, 19))
print(json.dumps(found))
"""
FIRST = """
import json
found = {"adjusted": int(open("/proc/self/oom_score_adj").read())}
try:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("0")
    found["lowered"] = "worked"
except OSError as error:
    found["lowered"] = error.strerror
print(json.dumps(found))
"""
FILLED = """
import json, os
found = {}
for line in open("/proc/self/mounts"):
    _, place, kind, options, *_ = line.split()
    if kind == "tmpfs" and "rw" in options.split(","):
        found[place] = os.statvfs(place).f_blocks * os.statvfs(place).f_frsize
print(json.dumps(found))
"""


async def test_a_box_inherits_no_priority_and_locks_little_memory(tmp_path):
    found = await said(tmp_path, INHERITED)
    least = [limits.SANDBOX_LOCKED_BYTES] * 2
    assert found == {"RTPRIO": [0, 0], "NICE": [0, 0], "MEMLOCK": least}


def test_a_program_that_has_the_users_id_has_these_limits_too():
    words = [*limited_gate_words(700), "sh", "-c", "ulimit -Hl"]
    done = subprocess.run(words, input=b"go\n", capture_output=True, check=True)
    assert int(done.stdout) << 10 == limits.SANDBOX_LOCKED_BYTES


@pytest.mark.parametrize("nested", [False, True])
async def test_a_box_takes_no_real_time_class(tmp_path, nested):
    found = await said(tmp_path, CLASSES, user_namespaces=nested)
    # Its own courtesy it may raise.
    assert found.pop("nicer") == "worked"
    assert (found.pop("0"), found.pop("3")) == ("EINVAL", "EINVAL")
    assert found == dict.fromkeys(found, "EPERM")


@pytest.mark.parametrize("own", [False, True])
async def test_a_box_is_the_first_to_end_where_memory_ends(tmp_path, own):
    home = tmp_path / "home"
    home.mkdir()
    found = await said(tmp_path, FIRST, home=home if own else None)
    assert found == {"adjusted": limits.BOX_OOM, "lowered": "Read-only file system"}


@pytest.mark.parametrize("own", [False, True])
async def test_a_boxs_files_in_memory_have_a_size(tmp_path, own):
    """They belong to no process: no end of one frees them."""
    (tmp_path / "file").write_text("")
    files = (tmp_path / "file",) if own else ()
    found = await said(tmp_path, FILLED, files=files)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert "/dev" not in found, "bubblewrap makes it without a size: it is read-only"
    assert {"/tmp", "/var/tmp", "/home", "/dev/shm", "/run", "/"} <= set(found)
    assert sum(found.values()) < memory * 0.51


def test_a_vmm_keeps_a_higher_score_of_its_broker(monkeypatch, tmp_path):
    """As root gave it, which this user could not lower."""
    (tmp_path / "adj").write_text("600\n")
    monkeypatch.setattr(tracked, "_OOM", tmp_path / "adj")
    assert ordinary()[-3:-1] == ["-n", "600"]
    monkeypatch.setattr(tracked, "_OOM", tmp_path / "none")
    assert ordinary()[-3:-1] == ["-n", str(limits.VMM_OOM)]


def test_a_vmm_ends_before_the_desktops_programs_and_has_no_priority():
    words = [*ordinary(), "sh", "-c", "ulimit -Hl; cat /proc/self/oom_score_adj"]
    done = subprocess.run(words, capture_output=True, check=True)
    locked, adjusted = map(int, done.stdout.split())
    assert locked << 10 == limits.SANDBOX_LOCKED_BYTES
    inherited = int(Path("/proc/self/oom_score_adj").read_text())
    assert adjusted == max(limits.VMM_OOM, inherited)
    assert {"--rtprio=0:0", "--nice=0:0"} <= set(words)
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    assert hard > limits.SANDBOX_LOCKED_BYTES, "the machine's own limit hides ours"
