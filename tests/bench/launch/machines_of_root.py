"""Rows of ``machine_starts`` that root is needed for.

    sudo python -m tests.bench.launch.machines_of_root [RUNS]

Starts a libvirtd of the system, and boots a Debian whose systemd has systemd-vmspawn;
in each, an ordinary user measures, and a micro VM beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.kit.booted import CHECKOUT
from tests.kit.vm.system_libvirt import system_libvirt
from tests.kit.vm.vmspawn import USER, booted_sid

_ROWS = "tests.bench.launch.machine_starts"


def main(runs: str) -> None:
    """Measure and print."""
    with system_libvirt(USER) as place:
        words = [".ci/as-user", _ROWS, runs, "libvirt-lxc", "microvm"]
        environ = {**os.environ, "VITRAIL_SYSTEM_LIBVIRT": str(place.base)}
        subprocess.run(words, cwd=CHECKOUT, env=environ, check=True)
    with booted_sid() as system:
        print(system.module_of_host(_ROWS, runs, "vmspawn", "microvm"))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "3")
