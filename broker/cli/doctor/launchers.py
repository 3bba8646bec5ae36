"""The part of ``brokerctl doctor`` about containers and boxes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from broker.cli.doctor.finding import Context, Finding, ok, warn
from broker.cli.images import x11_needs
from broker.cli.images.installed import list_images
from broker.core.errors import SetupError, UpstreamError
from broker.helpers.process.spawn import run_tool
from broker.host.devices.render_nodes import joining, render_nodes
from broker.host.images.initramfs import has_gpu
from broker.host.images.store import GPU_PACKAGES
from broker.host.launchers.nspawn.process import choose_scope
from broker.host.vmm.gpu_renderer import find_renderer, own_node
from broker.net.peers.credentials import can_ask_pid_namespaces
from policy.records.loader import load_records, search_path
from policy.records.model import (
    Bwrap,
    Flatpak,
    MicroVM,
    Nspawn,
    Podman,
    Record,
    SharedBox,
)

_Kind = TypeVar("_Kind")


async def check_launchers(context: Context) -> Sequence[Finding]:
    """Check what the records of boxes and containers need, and name labels."""
    folders = search_path(context.paths.runtime, context.paths.config)
    records = list(load_records(folders).records.values())
    found = [
        *_missing(context, records),
        *_without_x11(context, records),
        *_without_gpu(records),
        *_without_renderer(context, records),
        *_without_groups(context, records),
        *await _refused_by_crun(context, records),
        *await _without_network(context, records),
        *_labels(records),
        *_abstract(records),
    ]
    return found or [ok("launchers", "records of boxes and containers can be started")]


def _missing(context: Context, records: Sequence[Record]) -> list[Finding]:
    kinds = {type(record.host.launch) for record in records}
    found = []
    if kinds & {Bwrap, Podman, Nspawn, Flatpak} and not can_ask_pid_namespaces():
        text = "this kernel cannot identify a container's pid namespace"
        found.append(warn("launchers", text, "boot Linux 6.11 or later"))
    for kind, program, package in (
        (Bwrap, "bwrap", "bubblewrap"),
        (Podman, "podman", "podman"),
        (Nspawn, "systemd-nspawn", "systemd-container"),
        (Nspawn, "newuidmap", "uidmap"),
        (Flatpak, "flatpak", "flatpak"),
    ):
        path = context.environ.get("PATH")
        if kind in kinds and shutil.which(program, path=path) is None:
            text = f"records need {program}, which is not installed"
            found.append(warn("launchers", text, f"sudo apt install {package}"))
    return found


def _without_x11(context: Context, records: Sequence[Record]) -> list[Finding]:
    """Records that show X11 programs where there is no Xwayland for them."""
    found = []
    wanting = [record for record in records if record.viewer.window.x11]
    path = context.environ.get("PATH")
    boxes = [kind for kind in (Bwrap, Flatpak, SharedBox) if _of_kind(wanting, kind)]
    if boxes and shutil.which("Xwayland", path=path) is None:
        text = "records of boxes show X11 programs, and Xwayland is not installed"
        found.append(warn("launchers", text, "sudo apt install xwayland"))
    for launch in _of_kind(wanting, MicroVM):
        if launch.root != "host" and x11_needs.lacks_x11(context.paths, launch.image):
            text = f"the image {launch.image} lacks Xwayland, which its records ask for"
            found.append(warn("launchers", text, x11_needs.addition(launch.image)))
    return found


def _without_gpu(records: Sequence[Record]) -> list[Finding]:
    """Records whose programs draw with a GPU, where this user has none."""
    names = [r.name for r in records if getattr(r.host.launch, "gpu", "") == "buffers"]
    nodes = render_nodes()
    if not names or any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
        return []
    text = f"{', '.join(sorted(names))}: gpu is set, and /dev/dri has no render node"
    hint = "their programs draw with the processor"
    if nodes:
        text = f"{', '.join(sorted(names))}: gpu is set, and {nodes[0]} is not yours"
        hint = joining(nodes[0])
    return [warn("launchers", text, hint)]


def _without_renderer(context: Context, records: Sequence[Record]) -> list[Finding]:
    """What micro VMs with a GPU lack here, without which they do not start."""
    wanting = [one for one in _of_kind(records, MicroVM) if one.gpu == "render"]
    found = []
    for look in (find_renderer, own_node) if wanting else ():
        try:
            look()
        except SetupError as error:
            found.append(warn("launchers", error.message, error.hint or ""))
    images = {image.name: image for image in list_images(context.paths)}
    for name in sorted({launch.image for launch in wanting} & {*images}):
        lacks = {*GPU_PACKAGES} - {*images[name].manifest.versions}
        if lacks or not has_gpu(images[name].initrd.read_bytes()):
            text = f"the image {name} has no driver for a GPU, or no Mesa"
            mend = f"brokerctl image build {name} --gpu"
            found.append(warn("launchers", text, mend))
    return found


def _of_kind(records: Sequence[Record], kind: type[_Kind]) -> list[_Kind]:
    """The launches of this kind."""
    launches = (record.host.launch for record in records)
    return [launch for launch in launches if isinstance(launch, kind)]


def _without_groups(context: Context, records: Sequence[Record]) -> list[Finding]:
    """Where systemd-nspawn would be refused for want of a control group."""
    launches = _of_kind(records, Nspawn)
    if not launches:
        return []
    try:
        choose_scope(context.environ, launches[0].memory_mib, launches[0].pids)
    except SetupError as error:
        return [warn("launchers", str(error), error.hint or "")]
    return []


_MIXED = Path("/sys/fs/cgroup/unified")
"""Where the unified hierarchy is, on a machine that has both versions."""


async def _refused_by_crun(
    context: Context, records: Sequence[Record]
) -> list[Finding]:
    """Whether Podman's runtime refuses this machine's control groups."""
    podman = shutil.which("podman", path=context.environ.get("PATH"))
    if podman is None or not _of_kind(records, Podman) or not _MIXED.exists():
        return []
    words = [podman, "info", "--format", "{{.Host.OCIRuntime.Name}}"]
    try:
        name = (await run_tool(words, env=context.environ)).decode().strip()
    except (UpstreamError, OSError) as error:
        return [warn("launchers", f"'podman info' fails: {error}", "podman info")]
    if name != "crun":
        return []
    text = (
        "crun does not start containers where both versions of control groups are mixed"
    )
    mend = 'sudo apt install runc; [engine] runtime = "runc" in containers.conf'
    return [warn("launchers", text, mend)]


async def _without_network(
    context: Context, records: Sequence[Record]
) -> list[Finding]:
    """What boxes and containers with a network lack."""
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
            "launchers", f"{text}{name} is not installed", f"sudo apt install {package}"
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


def _abstract(records: Sequence[Record]) -> list[Finding]:
    names = [
        record.name for record in records if record.values.get("launch.share_network")
    ]
    if not names:
        return []
    text = f"{', '.join(sorted(names))}: share_network lets these applications reach "
    text += "abstract sockets, such as that of an Xwayland"
    return [warn("launchers", text, "see docs/launchers/flatpak.md")]


def _labels(records: Sequence[Record]) -> list[Finding]:
    names = [r.name for r in records if not r.host.launch.kind.boundary]
    if not names:
        return []
    text = f"{', '.join(sorted(names))}: a label, not a boundary: programs in these "
    text += "boxes can reach your files and sockets"
    return [warn("launchers", text, "see docs/launchers/boxes.md")]
