"""Puts a stand-in on a PATH of its own, with the wider jail that it needs.

The real VMM is one program without a further file.  A stand-in is Python, QEMU and
vhost-device-vsock, so a ``bwrap`` in front of the real one adds what these read, and
leaves the system-call filter away, which lets a VMM start no program.  What the
jail itself leaves is tested with a probe in the VMM's place
(``tests/attack/test_jail_vmm.py``).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from broker.host.vmm.accel import DEVICE
from tests.kit.vm.machines import require_vm

ROOT = Path(__file__).resolve().parents[4]
_BWRAP = """\
#!/usr/bin/python3 -I
import os, sys
words = sys.argv[1:]
if "{program}" in words and "--seccomp" in words:
    place = words.index("--seccomp")
    del words[place : place + 2]
    place = words.index("--remount-ro")
    words[place:place] = {more}
os.execv("{bwrap}", ["bwrap", *words])
"""
_PROGRAM = """\
#!/usr/bin/python3 -I
import sys
sys.path.insert(0, {root!r})
from {module} import main
main(sys.argv, {vhosts!r})
"""


def install(place: Path, name: str, fault: dict[str, str] | None = None) -> Path:
    """Write the stand-in ``name`` and its bwrap into ``place``; returns the program.

    ``place`` goes to the front of PATH.  Skips the test where it cannot run.
    """
    tools = require_vm()
    if not DEVICE.exists():
        pytest.skip(f"the jail of a VMM has {DEVICE}, which this machine lacks")
    place.mkdir(exist_ok=True)
    program = place / name
    vhosts = [str(tools.vhost_device_vsock)]
    module = f"tests.kit.vm.monitors.{name.replace('-', '_')}"
    text = _PROGRAM.format(root=str(ROOT), module=module, vhosts=vhosts)
    _write(program, text)
    seen = ["/usr", "/etc", str(place), str(ROOT / "tests"), *vhosts]
    more = [word for path in seen for word in ("--ro-bind", path, path)]
    more += ["--proc", "/proc", "--tmpfs", "/stand-in"]
    widen_jail(program, more)
    if fault:
        (place / "fault.json").write_text(json.dumps(fault))
    return program


def widen_jail(program: Path, more: list[str]) -> None:
    """Write a bwrap beside ``program`` that adds ``more`` to its jail."""
    bwrap = _BWRAP.format(program=program, more=more, bwrap=shutil.which("bwrap"))
    _write(program.with_name("bwrap"), bwrap)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
