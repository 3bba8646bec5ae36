"""The agent's session bus without its machine: ``bus_guest.py DIRECTORY PATH``."""

from __future__ import annotations

import signal
import sys
from types import SimpleNamespace

from shims.guest.account import Account
from shims.guest.loop import Loop
from shims.guest.session_bus import SessionBus


def main(directory, path):
    guest = SimpleNamespace(
        machine=object(),
        leaving=False,
        session_dir=directory,
        account=Account(),
        loop=Loop(),
        base_environment=lambda: {
            "PATH": path,
            "HOME": directory,
            "XDG_RUNTIME_DIR": directory,
        },
    )
    bus = SessionBus(guest)

    def leave(*_):
        guest.leaving = True
        bus.stop()
        guest.loop.later(0, guest.loop.stop)

    signal.signal(signal.SIGTERM, leave)
    bus.start()
    print(bus.environment().get("DBUS_SESSION_BUS_ADDRESS", "none"), flush=True)
    guest.loop.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
