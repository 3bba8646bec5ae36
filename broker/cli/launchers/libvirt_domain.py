"""``brokerctl run`` of a record with ``launch.kind = "libvirt-qemu"``.

The domain is made paused, leased, and then resumed, so no connection of its guest
comes before its lease.  One ``virsh`` makes it with ``--autodestroy`` and stays: when
this command dies in whatever way, libvirt ends the domain.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import trio

from broker.cli import render
from broker.cli.launchers.interface import Launcher
from broker.cli.run.connect import open_client
from broker.cli.run.progress import Steps
from broker.core.distribution import install_command
from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.core.paths import Paths
from broker.helpers.process.identity import open_pidfd
from broker.helpers.process.spawn import (
    DEVNULL,
    PIPE,
    Child,
    has_ended,
    run_tool,
    spawn,
    wait_ended,
)
from broker.host.images.store import find_image
from broker.host.launchers.libvirt.domain import VsockWay, with_vsock
from broker.host.launchers.libvirt.throwaway import Throwaway, throwaway_xml
from broker.host.launchers.piped_stderr import stderr_so_far
from broker.host.vmm.accel import choose_accel
from broker.host.vmm.hosttools import kernel_vsock_usable
from broker.host.vmm.image_boot import ImageBoot
from broker.ipc.control.api import MachineEventRequest, Nothing
from broker.ipc.control.methods import LEASE_LIST, MACHINE_EVENT
from policy.records.model import Record, ThrowawayVm

_URI = "qemu:///session"
QEMU = ("qemu-system-x86_64", "qemu-system-x86")
"""The program, and its package."""
VHOST_VSOCK = Path("/dev/vhost-vsock")
# libvirt's first contact asks QEMU for its features, for 10 s and more.
_START_SECONDS = 120.0
_END_SECONDS = 20.0
_LOOK_SECONDS = 0.1
MESSAGE_CHARS = 2000
_KEPT = ("PATH", "HOME", "USER", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


@asynccontextmanager
async def throwaway_domain(
    paths: Paths, record: Record, steps: Steps
) -> AsyncGenerator[None]:
    """Have the domain of a record run while the block runs; it is leased and boots.

    A domain that runs already is left to the command that made it.  Raises
    SetupError without libvirt, QEMU or the image, UpstreamError when libvirt does
    not start the domain, RefusedError as the broker does.
    """
    if await is_leased(paths, record.name):
        yield
        return
    made, virsh = await _made(paths, record, steps)
    try:
        yield
    finally:
        await _end(made, virsh)


async def _made(paths: Paths, record: Record, steps: Steps) -> tuple[Made, Child]:
    """Make the domain, lease it and let it run; nothing is left of a failed start."""
    with run_directory(paths) as directory:
        made = await _described(paths, record, directory)
        await report_step(paths, "prepare", made)
        virsh = _make(made)
        try:
            async with steps.step(f"start the domain {made.domain}"):
                await _start(paths, made, virsh)
        except BaseException:
            await _end(made, virsh)
            with trio.CancelScope(shield=True), suppress(VitrailError):
                # Its vsock helper waits for a QEMU that never comes.
                await report_step(paths, "release", made)
            raise
    # QEMU has read its files: the directory is not needed any more.
    return made, virsh


@dataclass
class Made:
    """A domain or machine of this run."""

    domain: str
    uuid: str
    vhost_user: Path | None
    file: Path
    """Its XML, or its gate."""
    pidfd: int = -1
    """QEMU's; -1: it is not known."""


@contextmanager
def run_directory(paths: Paths) -> Iterator[Path]:
    """Yield a directory of this run, for the initramfs and the XML; remove it."""
    paths.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="domain-", dir=paths.runtime))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


async def is_leased(paths: Paths, name: str) -> bool:
    """Return whether a sandbox of this name runs.

    Asks the broker.
    """
    async with open_client(paths) as client:
        leases = (await client.call(LEASE_LIST, Nothing())).leases
    return any(lease.sandbox == name for lease in leases)


async def _described(paths: Paths, record: Record, directory: Path) -> Made:
    """Write the XML of a record's libvirt domain; return its file and names."""
    require_program("virsh", "libvirt-clients")
    qemu, boot = await describe_boot(paths, record, directory)
    spec = Throwaway(ThrowawayVm.domain(record.name), qemu, boot)
    vhost_user = None
    if not kernel_vsock_usable(VHOST_VSOCK):
        vhost_user = paths.runtime / "libvirt" / record.name / "vsock/vhost.sock"
    xml = with_vsock(throwaway_xml(spec), VsockWay(vhost_user))
    assert xml is not None
    made = Made(spec.domain, boot.uuid, vhost_user, directory / "domain.xml")
    made.file.write_text(xml)
    return made


async def describe_boot(
    paths: Paths, record: Record, directory: Path
) -> tuple[Path, ImageBoot]:
    """Return QEMU's path and the boot of a record's image; write its initramfs.

    The first one after a boot of the machine also tries KVM, by a guest
    (``choose_accel``).
    """
    launch = record.host.launch
    assert isinstance(launch, ThrowawayVm)
    qemu = require_program(*QEMU)
    image = find_image(paths, launch.image)
    choice = await choose_accel(qemu, image.kernel, image.initrd, cache=paths.cache)
    boot = ImageBoot(
        uuid=str(uuid.uuid4()),
        sandbox=record.name,
        accel=choice.accel,
        kernel=image.kernel,
        initrd=image.write_initrd(directory),
        root=image.root,
        memory_mib=launch.memory_mib,
        cpus=launch.cpus,
    )
    return qemu, boot


def require_program(name: str, package: str) -> Path:
    """Return where a program is.  Raises SetupError."""
    found = shutil.which(name)
    if found is None:
        raise SetupError(f"{name} is not installed", hint=install_command(package))
    return Path(found)


async def report_step(
    paths: Paths,
    event: str,
    made: Made,
    leader: int | None = None,
    cid: int | None = None,
    *,
    launcher: str = "libvirt",
) -> None:
    """Report a step to the broker, as libvirt's hook does where it is installed."""
    request = MachineEventRequest(
        launcher=launcher,
        event=event,
        name=made.domain,
        uuid=made.uuid,
        vhost_user=None if made.vhost_user is None else str(made.vhost_user),
        leader=leader,
        cid=cid,
    )
    async with open_client(paths) as client:
        await client.call(MACHINE_EVENT, request)


def _make(made: Made) -> Child:
    """Start the virsh that makes the domain and keeps it."""
    words = (
        f"create --paused --autodestroy {made.file.name}; "
        f"event --domain {made.domain} --event lifecycle --loop"
    )
    return spawn(
        ["virsh", "--quiet", "--connect", _URI, words],
        name="virsh",
        env=_environment(),
        cwd=made.file.parent,
        stdout=DEVNULL,
        stderr=PIPE,
    )


async def _start(paths: Paths, made: Made, virsh: Child) -> None:
    """Wait until the domain is there, have it leased, and resume it."""
    with trio.move_on_after(_START_SECONDS) as waited:
        while not await _is_paused(made):
            if has_ended(virsh.pidfd):
                raise UpstreamError(
                    f"virsh exited before the domain {made.domain} was started: "
                    f"{stderr_so_far(virsh, MESSAGE_CHARS) or 'no output'}",
                    hint="to see QEMU's output, read "
                    f"~/.cache/libvirt/qemu/log/{made.domain}.log",
                )
            await trio.sleep(_LOOK_SECONDS)
    if waited.cancelled_caught:
        raise UpstreamError(
            f"libvirt did not start the domain {made.domain} within "
            f"{_START_SECONDS:.0f} s",
            hint="to see QEMU's output, read "
            f"~/.cache/libvirt/qemu/log/{made.domain}.log",
        )
    pid = _pid(made)
    made.pidfd = open_pidfd(pid)
    await report_step(paths, "started", made, leader=pid, cid=await _cid(made))
    await _virsh("resume", "--domain", made.domain)


async def _is_paused(made: Made) -> bool:
    """Return whether libvirt has the domain, paused; runs virsh(1)."""
    try:
        state = await _virsh("domstate", "--domain", made.domain)
    except UpstreamError:
        return False  # there is no such domain yet
    return state.strip() == "paused"


def _pid(made: Made) -> int:
    """Return QEMU's pid, from the file that libvirt has written."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    path = Path(runtime, "libvirt/qemu/run", f"{made.domain}.pid")
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError) as error:
        raise UpstreamError(
            f"cannot read QEMU's pid in {path}: {render.cause(error)}"
        ) from error


async def _cid(made: Made) -> int | None:
    """Return the CID that libvirt chose; None for a socket of the broker's.

    Runs virsh(1).
    """
    if made.vhost_user is not None:
        return None
    root = ET.fromstring(await _virsh("dumpxml", "--domain", made.domain))  # noqa: S314 -- the user's own libvirtd wrote it
    found = root.find("devices/vsock/cid")
    text = "" if found is None else found.get("address", "")
    if not text.isdecimal():
        raise UpstreamError(f"libvirt did not assign a CID to the domain {made.domain}")
    return int(text)


async def _end(made: Made, virsh: Child) -> None:
    """End the domain, which removes it from libvirt."""
    with trio.CancelScope(shield=True), trio.move_on_after(_END_SECONDS):
        with suppress(VitrailError):  # it has ended, or never began
            await _virsh("destroy", "--domain", made.domain)
        await virsh.stop()
        if made.pidfd >= 0:
            await wait_ended(made.pidfd)
    if virsh.popen.stderr is not None:
        virsh.popen.stderr.close()
    if made.pidfd >= 0:
        os.close(made.pidfd)


async def _virsh(*words: str) -> str:
    argv = ["virsh", "--quiet", "--connect", _URI, *words]
    data = await run_tool(argv, env=_environment(), deadline=60, output_limit=1 << 20)
    return data.decode("utf-8", "replace")


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "LC_ALL": "C"}


LAUNCHER = Launcher(
    make=throwaway_domain,
    programs=(
        ("virsh", "libvirt-clients"),
        ("libvirtd", "libvirt-daemon libvirt-daemon-driver-qemu"),
        QEMU,
    ),
)
