"""Strict mode: no driver of this machine binds to a device before its verdict.

``authorized_default`` of each USB host controller is 0 meanwhile
(Documentation/usb/authorization.rst): a device is described, its strings and
descriptors can be read, and it has no interfaces.  A device that was plugged in before
stays authorized, or the machine's own keyboard would be gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from broker.core.stderr_log import log_stderr
from broker.root.sysfs import DEVICES, ports

BUS = DEVICES.parent


@contextlib.contextmanager
def unauthorized_by_default(*, enabled: bool, root: Path = DEVICES) -> Iterator[None]:
    """Hold the controllers strict; their old values are restored at the end."""
    before: dict[Path, str] = {}
    try:
        if enabled:
            for controller in sorted(root.glob("usb*")):
                file = controller / "authorized_default"
                with contextlib.suppress(OSError):
                    before[file] = file.read_text().strip()
                _set(file, "0")
        yield
    finally:
        for file, text in before.items():
            _set(file, text)


def follow(port: str, root: Path = DEVICES) -> None:
    """A controller that came later is strict from its first device on."""
    bus = port.partition("-")[0]
    file = root / f"usb{bus}" / "authorized_default"
    with contextlib.suppress(OSError):
        if file.read_text().strip() != "0":
            _set(file, "0")


@contextlib.contextmanager
def no_driver_binds(*, enabled: bool, bus: Path = BUS) -> Iterator[None]:
    """Keep this machine's drivers from a device that is authorized for another one.

    Authorizing creates the interfaces, and drivers bind to them at once; QEMU takes
    an interface from its driver only later.  A device that is plugged in meanwhile is
    probed at the end.  The switch is the whole bus's: one caller at a time.
    """
    if not enabled:
        yield
        return
    switch = bus / "drivers_autoprobe"
    _set(switch, "0")
    try:
        yield
    finally:
        _set(switch, "1")
        for port in ports(bus / "devices"):
            if not (bus / "devices" / port / "driver").exists():
                _set(bus / "drivers_probe", port)


def _set(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        log_stderr(f"vitrail-devices: {file} stays as it is: {error.strerror}")
