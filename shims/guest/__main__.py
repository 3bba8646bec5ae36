"""Start the guest agent; as PID 1, switch the machine off at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback

from shims.guest.guest import Guest
from shims.guest.loop import log
from shims.guest.parent import Parent
from shims.guest.pid1 import Machine
from shims.guest.settings import Settings
from shims.guest.storage import Storage


def main() -> int:
    """Serve until power off, or until the broker or a signal ends us."""
    machine = Machine() if os.getpid() == 1 else None
    cmdline = ""
    if machine is not None:
        machine.set_up()
        with open("/proc/cmdline", encoding="ascii", errors="replace") as file:
            cmdline = file.read()
    settings = Settings(dict(os.environ), cmdline)
    if machine is not None and settings.keep:
        keep(machine, settings)
    if machine is not None:
        machine.identify()
        if settings.name:
            machine.name(settings.name)
    guest = Guest(settings, machine)
    guest.start()
    if machine is not None and settings.parent:
        Parent(guest, settings.warm).begin()
    else:
        guest.begin_session()
    log("the guest agent is running")
    guest.loop.run()
    if machine is not None:
        machine.power_off()
    return 0


def keep(machine: Machine, settings: Settings) -> None:
    """Mount the disk of a persistent sandbox, or switch the machine off."""
    machine.storage = Storage()
    try:
        machine.storage.mount(settings.keep, settings.disk)
    except (OSError, subprocess.SubprocessError) as error:
        log(f"cannot use the sandbox's disk, powering off: {error}")
        machine.power_off()


def run() -> None:
    """Run ``main``; whatever happens, a PID 1 ends by switching off."""
    try:
        code = main()
    except Exception:
        log("fatal: " + traceback.format_exc())
        code = 1
    if os.getpid() == 1:
        Machine().power_off()
    sys.exit(code)


if __name__ == "__main__":
    run()
