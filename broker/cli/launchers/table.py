"""The launchers of brokerctl, by kind, and how programs are set up, by program."""

from __future__ import annotations

from broker.cli.launchers.interface import Launcher
from broker.cli.launchers.setup import Setup
from broker.core.parts.absent import needed, require
from policy.records import kinds
from policy.records.kinds import LaunchKind

PROGRAMS = ("flatpak", "libvirt", "podman", "distrobox", "toolbox")
"""Programs that 'brokerctl launcher install' sets up."""


def launcher_of(kind: LaunchKind) -> Launcher:
    """Return the launcher of a kind.

    Each module is loaded for a record of its kind: a box starts while the others would
    be read.  Raises AbsentPartError if the package of the kind is not installed.
    """
    if kind.part:
        require(kind.part, f'the launcher of kind = "{kind.name}"')
    with needed(f'the launcher of kind = "{kind.name}"'):
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


def setup_of(program: str) -> Setup:
    """Return how a program is set up.

    Raises AbsentPartError if the package that has it is not installed.
    """
    with needed(f"'brokerctl launcher install {program}'"):
        match program:
            case "flatpak":
                from broker.cli.launchers.flatpak_setup import FLATPAK_SETUP

                return FLATPAK_SETUP
            case "libvirt":
                from broker.cli.launchers.libvirt import LIBVIRT_SETUP

                return LIBVIRT_SETUP
            case "podman":
                from broker.cli.launchers.podman_setup import PODMAN_SETUP

                return PODMAN_SETUP
            case _:
                from broker.cli.launchers.shared_box_setup import BOX_SETUPS

                return BOX_SETUPS[program]
