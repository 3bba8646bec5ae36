"""Lockdown: at the user's word, sandboxes have their windows, and hardly more.

Microphones, cameras, whatever is copied or opened, and new starts end at once, networks
where the user says so; and stay so until the user lifts it, over a restart of the broker
too.  A list of what is left, not of what is taken: a service that is new is denied.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import msgspec
import trio

from broker.authority.audit.event_log import EventLog
from broker.authority.permit import Request
from broker.core.errors import RefusedError
from broker.core.files.replace_file import replace_file
from broker.core.paths import Paths
from broker.ipc.audit import schema
from broker.ipc.control import api, methods
from broker.ipc.control.methods import Exchange, Method, serves

WHERE = "lockdown"
HINT = "'brokerctl lockdown --lift' ends the lockdown"
NETWORK = "vitrail.Network"
_LEFT = frozenset(
    {
        "vitrail.Agent",
        "vitrail.Audio",
        "vitrail.AudioOutput",
        "vitrail.Device",
        "vitrail.Display",
        "vitrail.Notification",
        "vitrail.SecurityKey",
        NETWORK,
    }
)
_HEARS_OR_SEES = frozenset({0x01, 0x0E, 0x10})
"""Audio, video and audio/video of the USB classes (usb.org, Defined Class Codes)."""


class LockdownState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file says."""

    since: float
    """Seconds since 1970."""
    networks: bool


def lockdown_file(paths: Paths) -> Path:
    """Return where it is kept."""
    return paths.state / "lockdown.json"


def keep_lockdown(path: Path, state: LockdownState) -> None:
    """Have it hold from the next start on.  Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(path, msgspec.json.encode(state))


def kept_lockdown(path: Path) -> LockdownState | None:
    """Return the kept lockdown, None without one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=LockdownState)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        # guard: a lockdown that cannot be read holds
        return LockdownState(0.0, networks=True)


class Lockdown:
    """The lockdown of one broker."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.now = kept_lockdown(path)
        self.unkept = ""
        """Why the next start of the broker would not know of it."""

    def denies(self, request: Request) -> str:
        """Return why a request is denied; empty: it is not."""
        if self.now is None:
            return ""
        denied = request.service not in _LEFT
        # Sound without a filter may record.
        # guard: a lockdown ends unfiltered sound
        denied = denied or request.raw
        # guard: a lockdown ends networks where the user says so
        denied = denied or (request.service == NETWORK and self.now.networks)
        seen = request.device.interfaces if request.device is not None else ()
        # guard: a lockdown ends cameras
        denied = denied or any(one.cls in _HEARS_OR_SEES for one in seen)
        return "a lockdown is in force" if denied else ""

    def refuse(self, row: Method[Any, Any]) -> None:
        """Raise RefusedError for a method that starts something."""
        # guard: nothing starts in a lockdown
        if self.now is not None and row.starts:
            raise RefusedError("a lockdown is in force: nothing starts", hint=HINT)

    def warnings(self) -> list[str]:
        """Return the line of ``brokerctl status``."""
        if self.now is None:
            return []
        what = "networks, too; " if self.now.networks else ""
        kept = f"; it ends with the broker: {self.unkept}" if self.unkept else ""
        return [f"LOCKDOWN is in force ({what}{HINT}){kept}"]

    def keep(self) -> None:
        """Have the next start of the broker know of it, if that can be written down."""
        self.unkept = ""
        try:
            if self.now is not None:
                keep_lockdown(self._path, self.now)
        except OSError as error:
            self.unkept = error.strerror or "it could not be written down"

    def lift(self) -> None:
        """End it.  Raises OSError where the next start would begin with it."""
        # guard: a lockdown is lifted for good or not at all
        self._path.unlink(missing_ok=True)
        self.now, self.unkept = None, ""


class LockedAuthority(Protocol):
    """What begins to deny, and ends what it denies."""

    @property
    def lockdown(self) -> Lockdown:
        """The lockdown."""

    def tighten(self) -> None:
        """Cut what is denied now; then record it, and look at everything again."""

    def open_networks(self) -> list[str]:
        """Running sandboxes whose network no rule decides about."""


class LockdownControl:
    """The method of the control socket."""

    def __init__(self, authority: LockedAuthority, log: EventLog) -> None:
        self._authority = authority
        self._log = log
        self._changing = trio.Lock()

    @serves(methods.LOCKDOWN)
    async def lockdown(
        self, exchange: Exchange[api.LockdownAnswer], request: api.LockdownRequest
    ) -> api.LockdownAnswer:
        """Begin, widen or lift it, or only show it."""
        del exchange
        async with self._changing:
            match request.change:
                case "begin":
                    await self._begin(networks=bool(request.networks))
                case "lift":
                    await self._lift()
                case None:
                    pass
                case _:
                    raise RefusedError("a lockdown is begun or lifted")
        return self._answer()

    async def _begin(self, *, networks: bool) -> None:
        lockdown = self._authority.lockdown
        before = lockdown.now
        wide = networks or (before is not None and before.networks)
        since = time.time() if before is None else before.since
        lockdown.now = LockdownState(since, networks=wide)
        # Taking away comes first; a full disk must not keep a microphone open.
        # guard: a lockdown cuts before it is recorded
        self._authority.tighten()
        await trio.to_thread.run_sync(lockdown.keep)
        await self._log.note(schema.LockdownChanged(locked=True, networks=wide))

    async def _lift(self) -> None:
        if self._authority.lockdown.now is None:
            return
        # guard: a lockdown is recorded before it is lifted
        await self._log.require(schema.LockdownChanged(locked=False, networks=False))
        try:
            self._authority.lockdown.lift()
        except OSError as error:
            raise RefusedError(
                f"the lockdown cannot be lifted: {error.strerror}",
                hint="the broker must be able to remove 'lockdown.json' in its state",
            ) from error

    def _answer(self) -> api.LockdownAnswer:
        lockdown, now = self._authority.lockdown, self._authority.lockdown.now
        return api.LockdownAnswer(
            locked=now is not None,
            networks=now is not None and now.networks,
            since=0.0 if now is None else now.since,
            unkept=lockdown.unkept,
            open_networks=self._authority.open_networks(),
        )
