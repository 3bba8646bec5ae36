"""usbip over our socket: the kernel's usbip-host speaks to the guest.

For every VMM that emulates no USB.  The kernel takes a connected stream socket
(AF_VSOCK or AF_UNIX) and speaks URBs over it with the guest's vhci-hcd; this
process reads no byte of it (Documentation/usb/usbip_protocol.rst; drivers/usb/usbip/stub_dev.c).

Order: the device is unauthorized before it is taken from the driver ``usb``
and authorized when it is bound to ``usbip-host``, so no driver of this machine
ever speaks with its interfaces.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.limits import devices as limits
from broker.ipc.devices.description import Device
from broker.ipc.in_thread import in_thread
from broker.root.sysfs import DeviceGoneError, SysfsDevice

DRIVERS = Path("/sys/bus/usb/drivers")
PROBE = Path("/sys/bus/usb/drivers_probe")
_AVAILABLE, _USED = b"1", b"2"
_GOING_SECONDS = 0.5
_SPEEDS = {
    "1.5": 1,
    "12": 2,
    "480": 3,
    "53.3-480": 4,
    "5000": 5,
    "10000": 6,
    "20000": 6,
}
"""sysfs ``speed`` to enum usb_device_speed (include/uapi/linux/usb/ch9.h)."""


class VhciValues(NamedTuple):
    """The values that the guest must write to its vhci-hcd."""

    devid: int
    speed: int


def available() -> str:
    """Return why usbip cannot be used on this machine; empty: it can."""
    if not (DRIVERS / "usbip-host").is_dir():
        return "the kernel module usbip-host is not loaded ('modprobe usbip-host')"
    return ""


def export(held: SysfsDevice, decided: Device, conn: socket.socket) -> VhciValues:
    """Hand a device to the far end of a socket; the socket stays the caller's.

    ``held`` is the device that was decided about, ``decided`` its description
    at that time.  Raises RefusedError when it is another one by now,
    UpstreamError or SetupError when the kernel refuses.
    """
    why_not = available()
    if why_not:
        raise SetupError(why_not)
    speed = _SPEEDS.get(decided.speed)
    if speed is None:
        raise RefusedError(f"usbip does not support the speed '{decided.speed}' Mbit/s")
    with _taken_back_on_error(held):
        _bind(held)
        same(held, decided)
        held.write("authorized", "1")
        held.write("usbip_sockfd", str(conn.fileno()))
    return VhciValues(decided.bus << 16 | decided.number, speed)


def same(held: SysfsDevice, decided: Device) -> None:
    """Raise RefusedError unless a device is still the same as in the decision."""
    if held.describe().fingerprint != decided.fingerprint:
        raise RefusedError(
            f"the device in port {decided.port} has changed since the decision"
        )


@contextlib.contextmanager
def _taken_back_on_error(held: SysfsDevice) -> Iterator[None]:
    try:
        yield
    except BaseException:
        give_back(held, authorize=False)
        raise


def _bind(held: SysfsDevice) -> None:
    """Bind a device to the driver usbip-host, from its own driver."""
    if held.driver() == "usbip-host":
        return
    held.write("authorized", "0")
    _put(DRIVERS / "usbip-host/match_busid", f"add {held.port}")
    if held.driver():
        _put(DRIVERS / held.driver() / "unbind", held.port)
    _put(DRIVERS / "usbip-host/bind", held.port)


def in_use(held: SysfsDevice) -> bool:
    """Return whether the kernel still speaks with a guest about a device."""
    try:
        return held.read("usbip_status").strip() == _USED
    except DeviceGoneError:
        return False
    except UpstreamError:  # the kernel does not tell, for want of descriptors
        return True


def hang_up(held: SysfsDevice) -> None:
    """End the conversation; the guest loses the device at once."""
    with contextlib.suppress(UpstreamError):  # it has ended already, or is gone
        held.write("usbip_sockfd", "-1")


async def wait_ended(held: SysfsDevice) -> str:
    """Return why it has ended: the guest closed the connection, or it was unplugged.

    The kernel gives no event for it (no uevent, and ``usbip_status`` cannot be
    polled), so it is looked at twice a second.
    """
    while in_use(held):  # noqa: ASYNC110 -- see above
        await trio.sleep(0.5)
    # A device that is unplugged has hung up a moment before it is gone.
    with trio.move_on_after(_GOING_SECONDS):
        while held.there():  # noqa: ASYNC110 -- see above
            await trio.sleep(0.05)
    return "the guest closed the connection" if held.there() else "unplugged"


async def release(held: SysfsDevice, *, authorize: bool) -> bool:
    """Take a device back from usbip-host, whatever state it is in; idempotent.

    Return whether no guest has it any more: it is at a driver of this machine, or gone.
    ``authorize``: whether this machine's drivers may have it afterwards.
    """
    await in_thread(hang_up, held)
    with trio.move_on_after(limits.DEVICE_DETACH_SECONDS):
        while in_use(held):  # noqa: ASYNC110 -- see wait_ended
            await trio.sleep(0.02)
    # In a thread: an authorized device is configured, and may take as
    # long as it likes to answer that.
    await in_thread(partial(give_back, held, authorize=authorize))
    # guard: nothing is taken back without a look
    return await in_thread(_is_back, held)


def _is_back(held: SysfsDevice) -> bool:
    return not held.there() or not (held.driver() == "usbip-host" or in_use(held))


def give_back(held: SysfsDevice, *, authorize: bool) -> None:
    """Bind a device to the driver ``usb`` again, so that it is never left to none."""
    with contextlib.suppress(UpstreamError):  # unplugged: there is nothing to give
        # First: a driver of this machine would bind while it changes hands.
        held.write("authorized", "0")
    try:
        _release_port(held)
    except UpstreamError:  # the port is empty
        _forget_match(held.port)
    with contextlib.suppress(UpstreamError):
        if authorize:
            held.write("authorized", "1")


def _release_port(held: SysfsDevice) -> None:
    """Free a port of usbip-host, also of a device that came into it meanwhile.

    ``bind`` takes a port's name, so a device that is swapped between two writes is
    bound in the place of the permitted device; it would stay so.
    """
    # guard: a swapped device is not left bound
    now = SysfsDevice(held.port, held.root)
    try:
        if now.driver() == "usbip-host":
            _put(DRIVERS / "usbip-host/unbind", held.port)
        _forget_match(held.port)
        if not now.driver():
            _put(PROBE, held.port)
    finally:
        now.close()


def _forget_match(port: str) -> None:
    with contextlib.suppress(UpstreamError):  # it is not listed
        _put(DRIVERS / "usbip-host/match_busid", f"del {port}")


def _put(path: Path, text: str) -> None:
    """Write a driver's file in sysfs.

    Raises UpstreamError with the kernel's reason.
    """
    try:
        with path.open("wb", buffering=0) as file:
            file.write(text.encode("ascii"))
    except OSError as error:
        raise UpstreamError(
            f"the kernel rejected '{text}' in {path}: {error.strerror}"
        ) from error
