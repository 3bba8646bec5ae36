"""``vitrail-local`` on a machine whose KVM is taken for one that works.

Started in its place: ``world(program="tests.kit.vm.monitors.broker")``.  The stand-ins
emulate their machines, so that they need no KVM; the check that comes before a VMM
is started would refuse them.
"""

from __future__ import annotations

from broker.host.vmm import accel
from broker.host.vmm.qemu_arguments import Accel
from broker.programs.local import main


async def choose(*_files, **_settings):
    """Say that it works."""
    return accel.AcceleratorChoice(Accel.KVM, "a stand-in")


if __name__ == "__main__":
    accel.permission = lambda *_: None
    accel.choose_accel = choose
    main()
