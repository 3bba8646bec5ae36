"""``brokerctl run`` of a record with ``launch.kind = "vmspawn"``.

systemd-vmspawn starts what it takes for QEMU; that waits until the machine has its
lease (``launch.vmspawn.arguments``).  vmspawn is a child of this command, which stays:
when it dies in whatever way, the kernel ends vmspawn, and QEMU with it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import trio

from broker.cli.doctor.finding import Context, Finding, warn
from broker.cli.launchers.interface import Launcher
from broker.cli.launchers.libvirt_domain import (
    MESSAGE_CHARS,
    QEMU,
    VHOST_VSOCK,
    Made,
    describe_boot,
    is_leased,
    report_step,
    require_program,
    run_directory,
)
from broker.cli.run.progress import Steps
from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.core.paths import Paths
from broker.helpers.process.spawn import Child, has_ended, send_signal
from broker.host.launchers.piped_stderr import stderr_so_far
from broker.host.launchers.vmspawn.arguments import Spawned
from broker.host.launchers.vmspawn.process import (
    START_SECONDS,
    fifo_of,
    start_vmspawn,
    wait_held,
    write_gates,
)
from broker.host.vmm.hosttools import kernel_vsock_usable
from broker.host.vmm.vsock_backend import draw_cid
from policy.records.model import Record, ThrowawayVm

_LAUNCHER = "vmspawn"
_END_SECONDS = 20.0


@asynccontextmanager
async def vmspawn_machine(
    paths: Paths, record: Record, steps: Steps
) -> AsyncGenerator[None]:
    """Have the machine of a record run while the block runs; it is leased and boots.

    A machine that runs already is left to the command that made it.  Raises SetupError
    without vmspawn, QEMU or the image, UpstreamError when vmspawn does not start the
    machine, RefusedError as the broker does.
    """
    if await is_leased(paths, record.name):
        yield
        return
    _require_user_manager()
    with run_directory(paths) as directory:
        spec = await _described(paths, record, directory)
        machine_files = Made(
            spec.machine, spec.boot.uuid, spec.vhost_user, fifo_of(directory)
        )
        with ExitStack() as ours:
            # Open for reading, too: written bytes wait there for the shell.
            os.mkfifo(machine_files.file, 0o600)
            gate = os.open(machine_files.file, os.O_RDWR | os.O_CLOEXEC)
            ours.callback(os.close, gate)
            await report_step(paths, "prepare", machine_files, launcher=_LAUNCHER)
            child: Child | None = None
            try:
                child = start_vmspawn(spec, directory)
                async with steps.step(f"start the machine {machine_files.domain}"):
                    pid = await _wait_held(child, machine_files, directory)
                    await report_step(
                        *(paths, "started", machine_files, pid, spec.cid),
                        launcher=_LAUNCHER,
                    )
                    os.write(gate, b"go\n")
            except BaseException:
                await _end(machine_files, child)
                with trio.CancelScope(shield=True), suppress(VitrailError):
                    # Its vsock helper waits for a QEMU that never comes.
                    await report_step(
                        paths, "release", machine_files, launcher=_LAUNCHER
                    )
                raise
            # QEMU has the gate and its files to read yet.
            try:
                yield
            finally:
                await _end(machine_files, child)


def _require_user_manager() -> None:
    """Raise SetupError unless the service manager of this user is running."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not _has_systemd(runtime):
        why = (
            "is not running"
            if runtime
            else "cannot be found: XDG_RUNTIME_DIR is not set"
        )
        raise SetupError(
            f"systemd-vmspawn needs the service manager of this user, which {why}",
            hint="run the command in a login session, or run 'loginctl "
            "enable-linger' first",
        )


def _has_systemd(runtime: str) -> bool:
    return Path(runtime, "systemd/private").is_socket()


async def _described(paths: Paths, record: Record, directory: Path) -> Spawned:
    """Write the machine's files; return how vmspawn starts it."""
    require_program("systemd-vmspawn", "systemd-container")
    qemu, boot = await describe_boot(paths, record, directory)
    kernel_vsock = kernel_vsock_usable(VHOST_VSOCK)
    vhost_user = paths.runtime / "libvirt" / record.name / "vsock/vhost.sock"
    write_gates(directory, qemu)
    return Spawned(
        machine=ThrowawayVm.domain(record.name),
        boot=boot,
        cid=draw_cid() if kernel_vsock else None,
        vhost_user=None if kernel_vsock else vhost_user,
    )


async def _wait_held(child: Child, made: Made, directory: Path) -> int:
    """Wait for the process that will be QEMU; its pidfd is kept in ``made``."""
    found = await wait_held(child, made.uuid, directory)
    if found is None:
        why = f"it did not start QEMU within {START_SECONDS:g} s"
        if has_ended(child.pidfd):
            why = f"it exited: {stderr_so_far(child, MESSAGE_CHARS) or 'no output'}"
        raise UpstreamError(
            f"systemd-vmspawn did not start the machine {made.domain}: {why}",
            hint="check that 'systemd-vmspawn --version' prints 262 or later",
        )
    pid, made.pidfd = found
    return pid


async def _end(made: Made, child: Child | None) -> None:
    """End the machine and vmspawn, which removes its files."""
    if child is None:
        return
    with trio.CancelScope(shield=True):
        if made.pidfd >= 0:
            send_signal(made.pidfd)
            with trio.move_on_after(_END_SECONDS):
                await child.wait()
            os.close(made.pidfd)
            made.pidfd = -1
        await child.stop()
    if child.popen.stderr is not None:
        child.popen.stderr.close()


async def _check(context: Context, records: Sequence[Record]) -> list[Finding]:
    del records
    if _has_systemd(context.environ.get("XDG_RUNTIME_DIR", "")):
        return []
    text = 'records of kind "vmspawn" need the service manager of this user, which is not available'
    return [warn("launchers", text, "loginctl enable-linger")]


LAUNCHER = Launcher(
    make=vmspawn_machine,
    programs=(("systemd-vmspawn", "systemd-container"), QEMU),
    check=_check,
)
