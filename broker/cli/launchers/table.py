"""The launchers of brokerctl, by kind."""

from __future__ import annotations

from broker.cli.launchers.interface import Launcher
from policy.records import kinds
from policy.records.kinds import LaunchKind


def launcher_of(kind: LaunchKind) -> Launcher:
    """Return the launcher of a kind; loads its module.

    Each module is loaded for a record of its kind: a box starts while the others would
    be read.
    """
    match kind.name:
        case kinds.MICROVM.name:
            from broker.cli.launchers.microvm import LAUNCHER
        case kinds.LIBVIRT.name:
            from broker.cli.launchers.libvirt_domain import LAUNCHER
        case kinds.VMSPAWN.name:
            from broker.cli.launchers.vmspawn import LAUNCHER
        case kinds.BWRAP.name:
            from broker.cli.launchers.bwrap import LAUNCHER
        case kinds.PODMAN.name:
            from broker.cli.launchers.podman import LAUNCHER
        case kinds.NSPAWN.name:
            from broker.cli.launchers.nspawn import LAUNCHER
        case kinds.FLATPAK.name:
            from broker.cli.launchers.flatpak import LAUNCHER
        case kinds.EXTERNAL.name:
            from broker.cli.launchers.external import LAUNCHER
        case _:
            return Launcher()
    return LAUNCHER
