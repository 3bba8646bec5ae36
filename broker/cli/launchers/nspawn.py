"""``brokerctl run`` of a record with ``launch.kind = "nspawn"``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from broker.cli import render
from broker.cli.doctor.finding import Context, Finding, warn
from broker.cli.launchers.held import (
    HeldRun,
    Start,
    held,
    leased,
    resolver_file,
    variables_of,
)
from broker.cli.launchers.interface import Launcher
from broker.core.errors import SetupError
from broker.core.parts.absent import needed
from broker.host.launchers.nspawn.arguments import BRIDGE, ContainerTree
from broker.host.launchers.nspawn.process import HeldTree, choose_scope, start_held
from policy.records.model import Nspawn, Record


async def _begin(run: HeldRun, launch: Nspawn) -> tuple[str, int]:
    """Write the resolver's file, and run the container under a lease to its end."""
    resolver = resolver_file(run.paths.runtime, launch.network)
    start = _starter(run, launch, resolver)
    return await leased(run.paths, run.record.name, start, run.steps)


def _starter(run: HeldRun, launch: Nspawn, resolver: Path | None) -> Start:
    """Return a function that starts the container; tells of absent limits."""
    scope = choose_scope(os.environ, launch.memory_mib, launch.pids)
    if scope is None:
        render.note("memory and processes are not limited: systemd is not available")

    x11 = run.record.viewer.window.x11

    async def start(sockets: Path) -> HeldTree:
        if x11:
            with needed("the display of X11 programs"):
                from broker.cli.x11.verb import write_bridge

            write_bridge(sockets / BRIDGE)
        tree = ContainerTree(
            name=run.record.name,
            command=run.command,
            rootfs=launch.rootfs,
            sockets=sockets,
            read_only=launch.read_only,
            read_write=launch.read_write,
            home=run.tree,
            variables=variables_of(run.record),
            open_files=launch.open_files,
            user_namespaces=launch.user_namespaces,
            x11=x11,
            mounts=launch.mounts,
            without_links=run.without_links,
            resolver=resolver,
        )
        return await start_held(tree, scope)

    return start


async def _check(context: Context, records: Sequence[Record]) -> list[Finding]:
    """Check whether systemd-nspawn can create a control group."""
    launch = records[0].host.launch
    assert isinstance(launch, Nspawn)
    try:
        choose_scope(context.environ, launch.memory_mib, launch.pids)
    except SetupError as error:
        return [warn("launchers", str(error), error.hint or "")]
    return []


LAUNCHER = Launcher(
    run=held(Nspawn, _begin),
    programs=(("systemd-nspawn", "systemd-container"), ("newuidmap", "uidmap")),
    check=_check,
)
