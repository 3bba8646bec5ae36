"""A rehearsal with the real waypipe and foot, as process 1 of a namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 80
DRIVER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from shims.guest.guest import Guest
from shims.guest.rehearsal import Rehearsal
from shims.guest.settings import Settings

names = ("AGENT", "DISPLAY", "AUDIO", "DEVICES", "SECURITY_KEY")
environ = {f"VITRAIL_{name}": "unix:/nonexistent" for name in names}
guest = Guest(Settings({**environ, "VITRAIL_RUNTIME": "/tmp/vitrail"}, ""), None)
before = []

def files():
    places = ("/tmp", "/dev/shm", "/var/tmp", guest.account.home)
    return sorted(
        os.path.join(folder, name)
        for place in places
        for folder, folders, names in os.walk(place)
        for name in (*folders, *names)
    )

def shared():
    lists = [open(f"/proc/sysvipc/{kind}") for kind in ("shm", "sem", "msg")]
    return sum(len(one.readlines()) - 1 for one in lists)

def processes():
    return len([name for name in os.listdir("/proc") if name.isdigit()])

def begin(reason):
    assert not reason, reason
    before.append((files(), processes()))
    rehearsal = Rehearsal(guest, json.loads(sys.argv[2]), lambda: done(rehearsal))
    rehearsal.begin()
    before.append(guest.display._carrier._address._owner == guest.account.uid)

def done(rehearsal):
    (known, ran), checked = before
    json.dump(
        {
            "drawn": rehearsal._screen.drawn,
            "files": sorted(set(files()) ^ set(known)),
            "before": ran,
            "after": processes(),
            "shared": shared(),
            "checked": checked,
            "display": guest.display.ready,
            "target": guest.display.lead_to(None).target,
        },
        sys.stdout,
    )
    guest.loop.stop()

guest.display.when_ready(begin)
guest.loop.run()
"""
LEAVES = """
setsid sleep 1000 &
touch /tmp/left /dev/shm/left /var/tmp/left ~/left "$XDG_RUNTIME_DIR/left"
mkdir -p "$(getent passwd "$(id -u)" | cut -d: -f6)/left/more"
python3 -c '
import ctypes
libc = ctypes.CDLL(None)
assert libc.shmget(77, 4096, 0o1600) >= 0
assert libc.semget(77, 1, 0o1600) >= 0
assert libc.msgget(77, 0o1600) >= 0
'
"""


def rehearse(*argv):
    """Have a guest agent rehearse a program in namespaces of its own."""
    home = Path.home()
    words = ["bwrap", "--dev-bind", "/", "/", "--unshare-pid", "--as-pid-1"]
    words += ["--proc", "/proc", "--unshare-net", "--unshare-ipc"]
    words += ["--die-with-parent"]
    for place in ("/tmp", "/dev/shm", "/var/tmp", str(home)):
        words += ["--tmpfs", place]
    for kept in (ROOT, Path(sys.executable).resolve()):
        words += ["--ro-bind", str(kept), str(kept)]
    said = subprocess.run(
        [*words, "/usr/bin/python3", "-I", "-c", DRIVER, str(ROOT), json.dumps(argv)],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"},
        stdout=subprocess.PIPE,
        timeout=WAIT_SECONDS,
        check=True,
    )
    return json.loads(said.stdout)


def test_a_program_draws_through_waypipe_and_nothing_of_it_stays():
    found = rehearse("foot", "sleep", "1000")
    assert found["drawn"], "foot's first window did not come through waypipe"
    assert found["files"] == []
    assert found["after"] == found["before"]
    assert found["display"], "waypipe's server goes on"
    assert found["target"] == "/nonexistent", "windows go to the broker again"
    assert found["checked"], "whose socket it is"


def test_what_a_program_leaves_behind_is_removed():
    found = rehearse("sh", "-c", LEAVES)
    assert not found["drawn"]
    assert found["files"] == []
    assert found["after"] == found["before"]
    assert found["shared"] == 0, "System V's memory, semaphores and queues"


@pytest.mark.parametrize("argv", [("false",), ("/nonexistent",)])
def test_a_program_that_fails_is_no_obstacle(argv):
    found = rehearse(*argv)
    assert not found["drawn"]
    assert (found["files"], found["display"]) == ([], True)
