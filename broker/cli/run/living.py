"""Sandboxes that outlived their broker, found without one."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from broker.core.errors import VitrailError
from broker.core.escape import printable
from broker.core.paths import Paths
from broker.helpers.process.identity import boot_id
from broker.host.launchers import interface
from broker.host.processes.tracked import find
from broker.host.vmm.vm_state import VmProcesses, read_as


class LivingSandbox(NamedTuple):
    """A sandbox, and the process with which it ends."""

    name: str
    pid: int


def living_sandboxes(paths: Paths) -> list[LivingSandbox]:
    """Return the sandboxes of this user whose first process lives, by name.

    Each is proven by its process's identity: the files are of an earlier broker.
    """
    living = []
    for directory in sorted(paths.sandbox("x").parent.glob("*/")):
        # What cannot be read was written by another version, whose broker reports it.
        with suppress(VitrailError, OSError):
            state = read_as(VmProcesses, directory)
            if state is None or state.vmm is None or state.boot != boot_id():
                continue
            if process := find("VMM", state.vmm):
                living.append(LivingSandbox(directory.name, state.vmm.pid))
                process.close()
    for directory in sorted((paths.runtime / "launch").glob("*/")):
        with suppress(VitrailError, OSError):
            launch = interface.read_state(directory)
            if launch.leader is None or launch.boot != boot_id():
                continue
            if process := find("leader", launch.leader):
                living.append(LivingSandbox(launch.sandbox, launch.leader.pid))
                process.close()
    return living


def living_words(paths: Paths) -> str:
    """Return which sandboxes still run without a broker, and how they end, or nothing."""
    found = living_sandboxes(paths)
    if not found:
        return ""
    names = ", ".join(f"{printable(one.name, 60)} (process {one.pid})" for one in found)
    pids = " ".join(str(one.pid) for one in found)
    return (
        f"still running without a broker: {names}; the next broker takes them over, "
        f"and 'brokerctl stop' ends them then; to end them now, run 'kill {pids}'"
    )
