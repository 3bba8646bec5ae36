"""``vitrail-local`` whose machines' kernels have no driver for an arena's device.

Started in its place: ``world(program="tests.kit.vm.no_dax")``.
"""

from __future__ import annotations

from broker.host.images import initramfs
from broker.programs.local import main

if __name__ == "__main__":
    initramfs.ARENA_MODULES = initramfs.SHARED_IMAGE_MODULES
    main()
