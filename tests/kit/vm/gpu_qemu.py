"""A QEMU that has a vhost-user GPU without KVM, for emulated machines.

QEMU 7.2 refuses one ("requires kvm"); later ones do not, and it works with 7.2 too: the
refusal is about KVM's way of passing interrupts on, which QEMU does without elsewhere.
So in a copy of the program the two jumps to that error are taken away, and that it looks
for its modules beside itself.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

NAME = "qemu-system-x86_64"
_CHECKS = re.compile(
    # cmpb $0, kvm_allowed; mov; je; cmpb $0, kvm_eventfds_allowed; je
    rb"\x80\x3d....\x00\x49\x89\xcc(\x74.)\x80\x3d....\x00(\x74.)",
    re.DOTALL,
)
_PREFIX = b"\x81\x7d\x00/usr"
"""cmpl "/usr": whether a directory is one of those that move with the program."""
_ERROR = b"vhost initialization failed: requires kvm"


def gpu_qemu(folder: Path) -> Path:
    """Make ``folder`` with such a QEMU; returns it, for the front of PATH."""
    found = shutil.which(NAME)
    if found is None:
        pytest.skip("no QEMU for x86")
    program = bytearray(Path(found).read_bytes())
    if _ERROR in program:
        checks = list(_CHECKS.finditer(program))
        if len(checks) != 1 or program.count(_PREFIX) != 1:
            pytest.skip("this QEMU has a vhost-user GPU under KVM only")
        for group in (1, 2):
            begin, end = checks[0].span(group)
            program[begin:end] = b"\x90\x90"
        program = program.replace(_PREFIX, _PREFIX[:3] + bytes(4))
    folder.mkdir(exist_ok=True)
    (folder / NAME).write_bytes(program)
    (folder / NAME).chmod(0o755)
    return folder
