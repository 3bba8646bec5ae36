"""A rehearsal with the real waypipe and foot, as process 1 of a namespace.

Its program may be hostile: its files would be in each machine that is made of this.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shims.guest.rehearsal import users_of

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 80
DRIVER = """
import json, os, resource, sys
sys.path.insert(0, sys.argv[1])
from shims.guest.guest import Guest
from shims.guest.rehearsal import Rehearsal
from shims.guest.settings import Settings

names = ("AGENT", "DISPLAY", "AUDIO", "DEVICES", "SECURITY_KEY")
environ = {f"VITRAIL_{name}": "unix:/nonexistent" for name in names}
guest = Guest(Settings({**environ, "VITRAIL_RUNTIME": "/tmp/vitrail"}, ""), None)
before = []
# The agent's own file in the session's directory, and one of the home.
for path in (OURS := f"{guest.session_dir}/service", PROFILE := f"{guest.account.home}/profile"):
    with open(path, "w") as file:
        file.write("before")

def text(path):
    return open(path).read() if os.path.exists(path) else ""

def files():
    places = ("/tmp", "/dev/shm", "/dev/mqueue", "/var/tmp", guest.account.home)
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

def done(rehearsal, looks=200):
    (known, ran), checked = before
    if processes() < ran and looks:  # waypipe has not started its command yet
        guest.loop.later(0.05, lambda: done(rehearsal, looks - 1))
        return
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
            "limit": resource.prlimit(guest.display.session, resource.RLIMIT_MSGQUEUE)[0],
            "texts": [text(OURS), text(PROFILE)],
            "mounts": sum(1 for _ in open("/proc/self/mountinfo")) - mounted,
        },
        sys.stdout,
    )
    guest.loop.stop()

mounted = sum(1 for _ in open("/proc/self/mountinfo"))
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


IN_THE_SERVER = """
for process in /proc/[0-9]*; do
    [ "$(cat $process/comm)" != waypipe ] || prlimit --pid=${process#/proc/} --msgqueue=7:7
done
"""
CHANGES = """
echo hostile >"$XDG_RUNTIME_DIR/service"
echo hostile >"$(getent passwd "$(id -u)" | cut -d: -f6)/profile"
"""
DEEP = """
import os
for top in (os.environ["HOME"], "/tmp"):
    os.chdir(top)
    for _ in range(3000):
        os.mkdir("deep")
        os.chdir("deep")
"""
MOUNTS = """
import ctypes, os
os.makedirs("/tmp/left/a place")
libc = ctypes.CDLL(None)
assert libc.mount(b"none", b"/tmp/left/a place", b"tmpfs", 0, None) == 0
open("/tmp/left/a place/file", "w").close()
"""
QUEUE = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
made = libc.mq_open(b"/left", os.O_CREAT | os.O_RDWR, 0o600, None)
assert made >= 0, os.strerror(ctypes.get_errno())
"""


def rehearse(*argv, mounts=False):
    """Have a guest agent rehearse a program in separate namespaces.

    ``mounts``: agent and program may mount there; in a machine a program may by FUSE.
    """
    home = Path.home()
    words = ["bwrap", "--dev-bind", "/", "/", "--unshare-pid", "--as-pid-1"]
    words += ["--proc", "/proc", "--unshare-net", "--unshare-ipc"]
    words += ["--die-with-parent"]
    if mounts:
        words += ["--unshare-user", "--cap-add", "CAP_SYS_ADMIN"]
    else:
        # With these, bubblewrap's capabilities are of another user namespace.
        words += ["--dev", "/dev", "--mqueue", "/dev/mqueue"]
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


def test_a_hostile_program_does_not_go_on_in_waypipe_s_server():
    found = rehearse("sh", "-c", IN_THE_SERVER)
    assert found["limit"] != 7, "the server that it could reach serves no machine"
    assert found["display"]
    assert found["files"] == []


def test_a_file_that_it_changed_is_not_there_any_more():
    ours, _ = rehearse("sh", "-c", CHANGES)["texts"]
    assert ours == ""


def test_the_home_is_read_only_for_it():
    found = rehearse("sh", "-c", CHANGES, mounts=True)
    assert found["texts"] == ["", "before"]
    assert found["mounts"] == 0


@pytest.mark.parametrize("program", [DEEP, QUEUE], ids=["deep", "queue"])
def test_what_it_made_does_not_stay(program):
    found = rehearse("python3", "-c", program)
    assert found["files"] == []


def test_a_file_system_that_it_mounted_does_not_stay():
    found = rehearse("python3", "-c", MOUNTS, mounts=True)
    assert found["mounts"] == 0
    assert found["files"] == []


def test_all_users_of_a_process_are_known():
    assert users_of(os.getpid()) == {os.getuid()}


@pytest.mark.parametrize("argv", [("false",), ("/nonexistent",)])
def test_a_program_that_fails_is_no_obstacle(argv):
    found = rehearse(*argv)
    assert not found["drawn"]
    assert (found["files"], found["display"]) == ([], True)
