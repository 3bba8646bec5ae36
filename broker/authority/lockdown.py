"""Lockdown: at the user's word, sandboxes have their windows, and hardly more.

Microphones, cameras, whatever is copied or opened, and new starts end at once, networks
where the user says so; and stay so until the user lifts it, over a restart of the broker
too.  The list names the services that stay: a service that is new is denied.

The authority acts on it and writes its file; ``brokerctl lockdown`` writes the file if
no broker runs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import trio

from broker.authority.audit.event_log import EventLog
from broker.authority.permit import Request
from broker.core.errors import RefusedError, UpstreamError
from broker.core.files.replace_file import replace_file
from broker.core.paths import Paths
from broker.core.services import DEVICE
from broker.ipc.audit import schema
from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves
from policy.destinations import NETWORK

HINT = "to end the lockdown, run 'brokerctl lockdown --lift'"
_NARROW, _WIDE = b"without networks\n", b"with networks\n"
_LEFT = frozenset(
    "vitrail.Agent vitrail.Audio vitrail.AudioOutput vitrail.Device vitrail.Display "
    f"vitrail.Notification vitrail.SecurityKey vitrail.Settings {NETWORK}".split()
)
STARTS = frozenset(
    [
        "DeviceAttach",
        "FolderShare",
        "Forward",
        "LaunchBind",
        "LaunchBox",
        "LaunchPrepare",
        "LeaseAcquire",
        "Open",
        "Run",
    ]
)
"""Methods that start a sandbox or a program, or bring something into one."""
_NEITHER_HEARS_NOR_SEES = frozenset({0x03, 0x07, 0x08, 0x0B})
"""Of the USB classes (usb.org, Defined Class Codes): HID, printer, mass storage, smart
card.  A phone, a still camera or a vendor's class may have a lens or a microphone."""


def lockdown_file(paths: Paths) -> Path:
    """Return the path of the stored lockdown."""
    return paths.state / "lockdown"


def keep_lockdown(path: Path, *, networks: bool) -> None:
    """Store the lockdown for the next start.  Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(path, _WIDE if networks else _NARROW)


def kept_lockdown(path: Path) -> bool | None:
    """Return whether networks are denied, too; None if there is no lockdown."""
    try:
        return path.read_bytes() != _NARROW
    except FileNotFoundError:
        return None
    except OSError:
        # guard: a lockdown that cannot be read holds
        return True


class NetworkCutter(Protocol):
    """Has the host cut or restore networks (``control.host_networks``)."""

    async def __call__(self, *, cut: bool) -> list[str]:
        """Return the sandboxes that still have a network."""
        ...


async def _no_host(*, cut: bool) -> list[str]:
    """Cut nothing: this broker has no host."""
    del cut
    await trio.lowlevel.checkpoint()
    return []


class Lockdown:
    """The lockdown of one broker."""

    cut_networks: NetworkCutter = staticmethod(_no_host)

    def __init__(self, path: Path, log: EventLog, cut: Callable[[], None]) -> None:
        """Set up the lockdown; ``cut`` ends the operations that it denies."""
        self._path, self._log, self._cut = path, log, cut
        self._changing = trio.Lock()
        self.networks = kept_lockdown(path)
        """Whether networks are denied, too; None: there is no lockdown."""
        self._open_networks: list[str] = []
        self.unkept = ""
        """Why the next start of the broker would not know of it."""

    def denies(self, request: Request, *, begins: bool = False) -> str:
        """Return why the lockdown denies a request; empty if it does not.

        ``begins``: the request is new, not permitted already.
        """
        if self.networks is None:
            return ""
        denied = request.service not in _LEFT
        # Sound without a filter may record.
        # guard: a lockdown ends unfiltered sound
        denied = denied or request.raw
        # guard: a lockdown ends networks where the user says so
        denied = denied or (request.service == NETWORK and self.networks)
        # guard: no device is attached in a lockdown
        denied = denied or (begins and request.service == DEVICE)
        seen = request.device.interfaces if request.device is not None else ()
        # guard: a lockdown ends cameras
        denied = denied or any(one.cls not in _NEITHER_HEARS_NOR_SEES for one in seen)
        return "a lockdown is in force" if denied else ""

    def refuse(self, method: str) -> None:
        """Raise RefusedError for a method that starts something."""
        # guard: nothing starts in a lockdown
        if self.networks is not None and method in STARTS:
            raise RefusedError("a lockdown is in force: starting is denied", hint=HINT)

    def warnings(self) -> list[str]:
        """Return the line of ``brokerctl status``."""
        if self.networks is None:
            return []
        return [f"LOCKDOWN is in force; {HINT} {self.unkept}".rstrip()]

    @serves(methods.LOCKDOWN)
    async def change(
        self, _exchange: Exchange[api.LockdownAnswer], request: api.LockdownRequest
    ) -> api.LockdownAnswer:
        """Begin, widen, lift or only show the lockdown, for brokerctl.

        A change is recorded in the audit log and kept in a file, for the next broker.
        """
        async with self._changing:
            if request.begin:
                await self._begin(networks=bool(request.networks))
            elif request.begin is False and self.networks is not None:
                await self._lift()
            elif self.networks:  # its effect now: sandboxes have come and gone
                self._open_networks = await self.cut_networks(cut=True)
        locked, wide = self.networks is not None, bool(self.networks)
        open_networks = self._open_networks if wide else []
        return api.LockdownAnswer(locked, wide, self.unkept, open_networks)

    async def take_kept(self) -> None:
        """Begin a lockdown that was stored before the control socket answered.

        Cut the networks of sandboxes that have outlived an earlier broker.
        """
        kept = kept_lockdown(self._path)
        # guard: a lockdown holds in a broker that is being started
        if kept is not None and self.networks is None:
            await self._begin(networks=kept)
        async with self._changing:
            # An earlier broker may have cut them, and a later command lifted that.
            with suppress(UpstreamError):  # it is in the broker's log
                await self.cut_networks(cut=bool(self.networks))

    async def _begin(self, *, networks: bool) -> None:
        """Begin a lockdown: cut denied operations, store it, and record it."""
        self.networks = wide = networks or bool(self.networks)
        # Taking away comes first; a full disk must not keep a microphone open.
        # guard: a lockdown cuts before it is recorded
        self._cut()
        if wide:
            # guard: a lockdown cuts networks that no rule decides about
            self._open_networks = await self.cut_networks(cut=True)
        self.unkept = ""
        try:
            keep_lockdown(self._path, networks=wide)
        except OSError as error:
            self.unkept = f"(not stored, so it ends with the broker: {error.strerror})"
        await self._log.note(schema.LockdownChanged(locked=True, networks=wide))

    async def _lift(self) -> None:
        """Record the end of the lockdown, then remove its file."""
        # guard: a lockdown is recorded before it is lifted
        await self._log.require(schema.LockdownChanged(locked=False, networks=False))
        try:
            # guard: a lockdown is lifted for good or not at all
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise RefusedError(
                f"the lockdown stays in force: cannot remove {self._path}: {error.strerror}"
            ) from error
        self.networks, self.unkept = None, ""
        await self.cut_networks(cut=False)
