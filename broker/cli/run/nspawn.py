"""``brokerctl run`` of a record with ``launch.kind = "nspawn"``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from broker.cli import render
from broker.cli.proxy.x11 import write_bridge
from broker.cli.quick.kept_home import kept_home
from broker.cli.run.box import (
    Start,
    exit_code,
    leased,
    local_paths,
    refuse_planted_links,
    resolver_file,
    variables_of,
)
from broker.cli.run.progress import Steps
from broker.cli.run.start import ensure_broker
from broker.host.launchers.nspawn.arguments import BRIDGE, ContainerTree
from broker.host.launchers.nspawn.process import HeldTree, choose_scope, start_held
from policy.records.model import Nspawn, Record


def run_tree(
    record: Record,
    launch: Nspawn,
    argv: Sequence[str] | None,
    *,
    quiet: bool,
    as_json: bool,
) -> int:
    """Run a container by its record to its end.

    Returns its exit code, 128 and more for a signal.
    """
    steps = Steps(quiet=quiet, as_json=as_json)
    name, code = trio.run(_run, record, launch, argv, steps)
    return exit_code(name, code, as_json=as_json)


async def _run(
    record: Record, launch: Nspawn, argv: Sequence[str] | None, steps: Steps
) -> tuple[str, int]:
    paths = local_paths()
    binds = (launch.rootfs, *launch.read_only, *launch.read_write)
    without_links = refuse_planted_links(paths, binds)
    async with steps.shown():
        await ensure_broker(paths)
        with kept_home(paths, record.name, record.host.sandbox_class) as home:
            kept = None if home is None else home.tree
            resolver = resolver_file(paths.runtime, launch.network)
            command = tuple(argv or launch.command)
            start = _starter(
                *(record, launch, command, kept), links=without_links, resolver=resolver
            )
            return await leased(paths, record.name, start, steps)


def _starter(
    record: Record,
    launch: Nspawn,
    command: tuple[str, ...],
    home: Path | None,
    *,
    links: Mapping[Path, Path],
    resolver: Path | None,
) -> Start:
    scope = choose_scope(os.environ, launch.memory_mib, launch.pids)
    if scope is None:
        render.note("memory and processes are not limited: systemd is not available")

    x11 = record.viewer.window.x11

    async def start(sockets: Path) -> HeldTree:
        if x11:
            write_bridge(sockets / BRIDGE)
        tree = ContainerTree(
            name=record.name,
            command=command,
            rootfs=launch.rootfs,
            sockets=sockets,
            read_only=launch.read_only,
            read_write=launch.read_write,
            home=home,
            variables=variables_of(record),
            open_files=launch.open_files,
            x11=x11,
            without_links=links,
            resolver=resolver,
        )
        return await start_held(tree, scope)

    return start
