"""Start the guest agent; as PID 1, switch the machine off at the end."""

from __future__ import annotations

import os
import sys
import traceback

from shims.guest.guest import Guest
from shims.guest.loop import log
from shims.guest.machine import Machine
from shims.guest.settings import Settings


def main() -> int:
    """Serve until power off, or until the broker or a signal ends us."""
    machine = Machine() if os.getpid() == 1 else None
    cmdline = ""
    if machine is not None:
        machine.set_up()
        with open("/proc/cmdline", encoding="ascii", errors="replace") as file:
            cmdline = file.read()
    settings = Settings(dict(os.environ), cmdline)
    if machine is not None:
        machine.identify()
        if settings.name:
            machine.name(settings.name)
    guest = Guest(settings, machine)
    guest.start()
    log("the guest agent is up")
    guest.loop.run()
    return 0


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
