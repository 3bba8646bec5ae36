"""``vitrail-local`` whose machines all get one CID.

Started in its place (``world(program="tests.kit.vm.fixed_cid")``): what would be
one chance in two thousand million happens every time.
"""

from __future__ import annotations

from broker.host.vmm import launcher
from broker.programs.local import main

CID = 1_234_567


def fixed(quarantine=frozenset()):
    """As ``draw_cid``, if that had very bad luck."""
    assert CID not in quarantine
    return CID


if __name__ == "__main__":
    launcher.draw_cid = fixed
    main()
