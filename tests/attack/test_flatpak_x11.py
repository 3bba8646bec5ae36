"""The X server of a Flatpak application: its files and rights are not the application's.

The server is a program of this machine in a pid namespace below the application's, so
the application sees its processes; what they have (this machine's ``/usr``, no filter of
Flatpak's) it must not get at.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from broker.core.process_status import descendants
from tests.kit.brokerctl import running
from tests.kit.eventually import eventually
from tests.kit.flatpak import LAUNCH, applications, environment
from tests.kit.needs import PID_NAMESPACES
from tests.kit.records import shown_record
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world

pytestmark = [
    PID_NAMESPACES,
    pytest.mark.skipif(not shutil.which("Xwayland"), reason="xwayland is missing"),
]
RECORD = shown_record(*LAUNCH, tables="[window]\nx11 = true\n")
PROBE = """
import json, os, sys, time
def tried(what):
    try:
        what()
    except OSError as error:
        return type(error).__name__
    return "done"
found = {}
for pid in filter(str.isdecimal, os.listdir("/proc")):
    try:
        words = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\\0")
    except OSError:
        continue
    name = os.path.basename(words[0].decode())
    found.setdefault(name, []).append({
        "root": tried(lambda: os.listdir(f"/proc/{pid}/root/usr")),
        "memory": tried(lambda: open(f"/proc/{pid}/mem", "rb+")),
        "file": tried(lambda: open(f"/proc/{pid}/fd/0", "rb")),
    })
with open(sys.argv[1] + ".new", "w") as file:
    json.dump({"found": found, "display": os.environ["DISPLAY"]}, file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(1000)
"""
NOTHING = dict.fromkeys(("root", "memory", "file"), "PermissionError")


async def test_the_application_gets_at_nothing_of_its_x_server():
    async with world(image=False) as w:
        env = environment(w)
        folder = w.base / "shared"
        folder.mkdir()
        (folder / "probe.py").write_text(PROBE)
        w.write_record("term", RECORD.format(folder=folder))
        async with applications(w.base, env, command="xterm", Foot=""):
            inside = ("python3", str(folder / "probe.py"), str(folder / "found"))
            words = ("run", "-q", "term", "--", "-T", "own", "-e", *inside)
            async with running(*words, env=env) as child:
                await wait_window(w.comp, title="own", deadline=60)
                await eventually((folder / "found").exists, deadline=60)
                told = json.loads((folder / "found").read_text())
                _is_shut(told["found"])
                assert told["display"] == ":0"
                servers = [pid for pid in descendants(child.pid, 9) if _is_server(pid)]
                assert servers
                for pid in servers:
                    _has_no_right(pid)


def _is_shut(found):
    """It sees them, so that the probe is one; its processes are open to it."""
    assert found["python3"][-1]["root"] == "done", found
    for tries in found["Xwayland"]:
        assert tries == NOTHING, found


def _is_server(pid):
    try:
        return b"Xwayland" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _has_no_right(pid):
    """Neither over the application's namespaces nor by a setuid program."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    words = dict(line.split(":", 1) for line in lines)
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(words[name], 16) == 0, (name, words[name])
    assert words["NoNewPrivs"].strip() == "1"
    assert words["Seccomp"].strip() == "2"
