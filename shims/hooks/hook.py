"""The program of all hooks, which serves libvirt or Podman by its own name."""

from __future__ import annotations

import os
import sys
from typing import List

from shims.hooks.libvirt_hook import serve_domain
from shims.hooks.oci_hook import serve_container

DOMAIN_HOOK = "vitrail"
"""The name that broker/host/launchers/libvirt/hook.py gives it in ``qemu.d`` and ``lxc.d``."""


def main(argv: List[str]) -> int:
    """Serve libvirt by its name in libvirt's directories, else Podman."""
    if os.path.basename(argv[0]) == DOMAIN_HOOK:
        return serve_domain(argv[1:])
    return serve_container(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
