"""Checks of ``brokerctl doctor`` of the programs that records need."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence

from broker.cli.doctor.finding import Context, Finding, fail, ok, warn
from broker.cli.launchers.table import launcher_of
from broker.cli.render import cause
from broker.core.distribution import install_command
from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.core.files.path_errors import path_error
from broker.core.parts.absent import AbsentPartError, require
from broker.helpers.process.spawn import run_tool
from broker.host.gpu.render_nodes import joining, render_nodes
from broker.net.peers.credentials import can_ask_pid_namespaces
from policy.records.kinds import KINDS, LaunchKind
from policy.records.loader import load_records, search_path
from policy.records.model import Record


async def check_launchers(context: Context) -> Sequence[Finding]:
    """Check what the records' launchers need, and name labels without a boundary."""
    folders = search_path(context.paths.runtime, context.paths.config)
    records = list(load_records(folders).records.values())
    by_kind: dict[str, list[Record]] = {}
    for record in records:
        by_kind.setdefault(record.host.launch.kind.name, []).append(record)
    kinds = [kind for kind in KINDS.values() if kind.name in by_kind]
    found, kinds = _without_parts(records, kinds)
    found += [
        *_missing(context, kinds),
        *_without_x11(context, records),
        *_without_gpu(records),
        *await _without_network(context, records),
        *_labels(records),
    ]
    for kind in kinds:
        try:
            found += await launcher_of(kind).check(context, by_kind[kind.name])
        except (VitrailError, OSError) as error:
            reason = (isinstance(error, OSError) and path_error(error)) or cause(error)
            text = f'the check of kind "{kind.name}" failed: {reason}'
            found.append(fail("launchers", text))
    return found or [
        ok("launchers", "no program or kernel feature that records need is missing")
    ]


def _without_parts(
    records: Sequence[Record], kinds: Sequence[LaunchKind]
) -> tuple[list[Finding], list[LaunchKind]]:
    """Return warnings of packages that records need, and the kinds that can start."""
    found: list[Finding] = []
    if any(record.viewer.window.x11 for record in records):
        found += _without_part("x11", "records allow X11 programs: x11 = true")
    able = []
    for kind in kinds:
        problems = _without_part(kind.part, f'records need kind = "{kind.name}", which')
        found += problems
        able += [] if problems else [kind]
    return found, able


def _without_part(part: str, what: str) -> list[Finding]:
    """Return a warning if a part is named and not installed."""
    try:
        if part:
            require(part, what)
    except AbsentPartError as error:
        return [warn("launchers", error.message, error.hint)]
    return []


def _missing(context: Context, kinds: Sequence[LaunchKind]) -> Iterator[Finding]:
    """Yield findings about missing programs and kernel features."""
    if any(kind.holds for kind in kinds) and not can_ask_pid_namespaces():
        text = "this kernel cannot identify a container's pid namespace"
        yield warn("launchers", text, "boot Linux 6.11 or later")
    path = context.environ.get("PATH", os.defpath)
    for kind in kinds:
        for program, package in launcher_of(kind).programs:
            # virsh starts libvirtd, which is not on everybody's PATH.
            if shutil.which(program, path=f"{path}:/usr/sbin:/usr/local/sbin") is None:
                yield _lacks(kind, program, install_command(*package.split()))


def _lacks(kind: LaunchKind, program: str, mend: str) -> Finding:
    text = f'records of kind "{kind.name}" need {program}, which is not installed'
    return warn("launchers", text, mend)


def _without_x11(context: Context, records: Sequence[Record]) -> list[Finding]:
    """Return a warning for records of X11 programs if Xwayland is missing."""
    path = context.environ.get("PATH")
    wanting = any(
        record.viewer.window.x11 and record.host.launch.kind.host_x11
        for record in records
    )
    if not wanting or shutil.which("Xwayland", path=path) is not None:
        return []
    text = "records of boxes allow X11 programs, but Xwayland is not installed"
    return [warn("launchers", text, install_command("xwayland"))]


def _without_gpu(records: Sequence[Record]) -> list[Finding]:
    """Return a warning for records with a GPU if this user has none."""
    names = [r.name for r in records if getattr(r.host.launch, "gpu", "") == "buffers"]
    nodes = render_nodes()
    if not names or any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
        return []
    text = (
        f"{', '.join(sorted(names))}: gpu is set, but /dev/dri does not contain a "
        "render node"
    )
    hint = "install a GPU driver; without it, programs draw with the CPU"
    if nodes:
        text = (
            f"{', '.join(sorted(names))}: gpu is set, but this user cannot open "
            f"{nodes[0]}"
        )
        hint = joining(nodes[0])
    return [warn("launchers", text, hint)]


async def _without_network(
    context: Context, records: Sequence[Record]
) -> list[Finding]:
    """Return warnings for boxes and containers with a network.

    Runs ip(8) in new namespaces, to try whether it can make a pair of interfaces.
    """
    if not any(
        record.host.launch.kind.holds and record.values.get("launch.network") == "user"
        for record in records
    ):
        return []
    text = 'boxes and containers with network = "user" cannot start: '
    # ip(8) is where administrators have their programs, on some systems only there.
    path = f"{context.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = [
        warn(
            "launchers",
            f"{text}{name} is not installed",
            install_command(package),
        )
        for name, package in (("ip", "iproute2"), ("passt", "passt"))
        if shutil.which(name, path=path) is None
    ]
    ip = shutil.which("ip", path=path)
    if ip is not None:
        try:
            await run_tool(["unshare", "-Urn", ip, "link", "add", "type", "veth"])
        except (UpstreamError, SetupError, OSError) as error:
            why = f"{text}a veth pair cannot be created ({error})"
            found.append(warn("launchers", why, "sudo modprobe veth"))
    return found


def _labels(records: Sequence[Record]) -> list[Finding]:
    """Return a warning that names records which are labels without a boundary."""
    names = [r.name for r in records if not r.host.launch.kind.boundary]
    if not names:
        return []
    text = (
        f"{', '.join(sorted(names))}: these boxes are labels, not boundaries: programs "
        "in these boxes can access your files and sockets"
    )
    return [warn("launchers", text, "see docs/launchers/boxes.md")]
