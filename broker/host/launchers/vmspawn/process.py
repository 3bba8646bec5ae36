"""systemd-vmspawn, and the process of it that waits to become QEMU.

Only brokerctl runs this, with the user's rights: it starts systemd-vmspawn, writes the
scripts that wait in QEMU's place, and reads ``/proc``.
"""

from __future__ import annotations

import os
from pathlib import Path

import trio

from broker.core.process_status import descendants
from broker.helpers.process.identity import open_pidfd
from broker.helpers.process.polled import lives
from broker.helpers.process.spawn import DEVNULL, PIPE, Child, has_ended, spawn
from broker.host.launchers.vmspawn.arguments import (
    GATES,
    Spawned,
    gate_script,
    qemu_extra,
    vmspawn_args,
)

START_SECONDS, _LOOK_SECONDS = 60.0, 0.02
_KEPT = (
    *("PATH", "HOME", "USER", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"),
    "DBUS_SESSION_BUS_ADDRESS",
)


def fifo_of(directory: Path) -> Path:
    """Return the FIFO that opens the gate of a machine."""
    return directory / "gate"


def write_gates(directory: Path, qemu: Path) -> None:
    """Write the gate scripts that vmspawn starts in place of QEMU."""
    for name in GATES:
        program = directory / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(gate_script(fifo_of(directory), qemu))
        program.chmod(0o700)


def start_vmspawn(spec: Spawned, directory: Path) -> Child:
    """Start systemd-vmspawn as a child that is killed when this process ends."""
    env = {name: os.environ[name] for name in _KEPT if name in os.environ}
    env["PATH"] = f"{directory / 'bin'}:{env.get('PATH', os.defpath)}"
    env["SYSTEMD_VMSPAWN_QEMU_EXTRA"] = qemu_extra(spec)
    return spawn(
        vmspawn_args(spec),
        name="systemd-vmspawn",
        env=env,
        cwd="/",
        stdout=DEVNULL,
        stderr=PIPE,
    )


async def wait_held(
    child: Child, machine: str, directory: Path
) -> tuple[int, int] | None:
    """Wait until the process that will become QEMU waits at the gate.

    Returns its pid and a pidfd; None when vmspawn has ended, or takes too long.
    """
    with trio.move_on_after(START_SECONDS):
        while not has_ended(child.pidfd):
            for pid in descendants(child.pid):
                pidfd = _held(pid, machine, directory)
                if pidfd is not None:
                    return pid, pidfd
            await trio.sleep(_LOOK_SECONDS)
    return None


def _held(pid: int, machine: str, directory: Path) -> int | None:
    """Return a pidfd of a process if it waits at the gate; None otherwise."""
    try:
        pidfd = open_pidfd(pid)
    except OSError:
        return None
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        words = []
    gates = {str(directory / "bin" / name).encode() for name in GATES}
    # Read while the pidfd is open, and it still lives: the pid was not reused.
    if machine.encode() in words and gates & set(words[:2]) and lives(pidfd):
        return pidfd
    os.close(pidfd)
    return None
