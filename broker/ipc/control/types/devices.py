"""Devices and which sandbox has them."""

from __future__ import annotations

import msgspec

from broker.ipc.control.types.base import ApiAnswer


class DeviceStatus(ApiAnswer, frozen=True, kw_only=True):
    """A device that is plugged in; its texts come from the device, escaped."""

    port: str
    title: str
    id: str
    """``VVVV:PPPP``."""
    serial: str
    hash: str
    """SHA-256 of its descriptors, for ``hash=`` in a rule."""
    interfaces: list[str]
    state: str
    """``plugged``, ``attaching``, ``attached``, ``detaching`` or ``held``."""
    driver: str
    """Drivers of this machine that are bound to it."""
    removable: str
    sandboxes: list[str]
    """Where this machine's ``devices.toml`` lets it go; ``*``: anywhere."""
    sandbox: str = ""
    """The sandbox that has the device; empty: none."""
    attachment: str = ""
    backend: str = ""
    since: float | None = None
    """Seconds since 1970."""


class DevicesAnswer(ApiAnswer, frozen=True, kw_only=True):
    """The plugged-in devices."""

    devices: list[DeviceStatus]
    strict: bool
    """Whether nothing binds to a new device before a verdict."""
    problems: list[str]


class DeviceAttachRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Attach the device in a port."""

    port: str
    sandbox: str


class DeviceDetachRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Detach a device; ``port`` or the attachment's name."""

    port: str


class DeviceAnswer(ApiAnswer, frozen=True, kw_only=True):
    """An attachment that has begun or ended."""

    port: str
    sandbox: str
    attachment: str
    backend: str
    reason: str = ""
