"""The times at which the audit log is sealed, and publication of checkpoints."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from broker.authority.audit.proof.note import parse_note
from broker.authority.audit.settings import AuditSettings
from broker.authority.audit.store import Store
from broker.core.errors import (
    UpstreamError,
)
from broker.core.stderr_log import log_stderr

_AT_MOST_EVERY = 1.0
"""Seconds between two published checkpoints, whatever the load."""
_EVOLVE_EVENTS = 1 << 16
"""Events after which the key evolves before its time."""
JOURNAL = "/run/systemd/journal/socket"


# A signed head in every commit, not only every N events. The requirement was signed
# checkpoints every N events or seconds. A signature costs some 60 microseconds, a flush
# several hundred, so each commit signs the root of all events inside its transaction.
# The end of the log is then never unsigned: an attacker without the key cannot change
# anything undetected, and a broker compares its start with its last signature.
# Checkpoints that are given away are heads that were kept.
class Sealing:
    """Publishes checkpoints and lets the key evolve, while a broker runs.

    The log's end is signed in every commit (``audit.seal``); here are the
    checkpoints that leave the machine, or at least the file.
    """

    def __init__(self, store: Store, settings: AuditSettings) -> None:
        self._store = store
        self._settings = settings
        self._published = store.size
        self._evolved = store.size
        self._complained = False
        self.listeners: list[Callable[[str], Awaitable[None]]] = []
        """Each gets every published note; none may block."""
        self.newest = ""
        """The note that was published last."""

    async def run(self) -> None:
        """Publish and evolve until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._publish_all)
            nursery.start_soon(self._evolve_all)

    async def last(self) -> None:
        """At the end: publish a last checkpoint, and give up the key."""
        if self._store.size > self._evolved:
            await self._tried(self.publish)
            await self._tried(self._evolve)

    async def publish(self) -> None:
        """Create a checkpoint that stays, and notify the listeners.

        Raises UpstreamError when the disk refuses.
        """
        note = await self._store.checkpoint()
        self.newest = note
        self._published = parse_note(note).checkpoint.size
        for listener in self.listeners:
            await listener(note)

    async def _publish_all(self) -> None:
        """Publish a checkpoint after so many events or so long, until cancelled."""
        settings = self._settings
        while True:
            await self._store.wait_beyond(self._published)
            with trio.move_on_after(settings.checkpoint_seconds):
                enough = self._published + settings.checkpoint_events
                await self._store.wait_beyond(enough - 1)
            await self._tried(self.publish)
            await trio.sleep(_AT_MOST_EVERY)

    async def _evolve_all(self) -> None:
        """Change the signing key after so many events and so long, until cancelled."""
        while True:
            await self._store.wait_beyond(self._evolved)
            with trio.move_on_after(self._settings.evolve_seconds):
                await self._store.wait_beyond(self._evolved + _EVOLVE_EVENTS)
            await self._tried(self._evolve)
            await trio.sleep(_AT_MOST_EVERY)

    async def _evolve(self) -> None:
        """Change the log's signing key: its file is replaced, the old key erased."""
        note = await self._store.evolve()
        self._evolved = parse_note(note).checkpoint.size

    async def _tried(self, step: Callable[[], Awaitable[None]]) -> None:
        """Run a step; a full disk is reported once, and the step is repeated later."""
        try:
            await step()
            self._complained = False
        except UpstreamError as error:
            if not self._complained:
                log_stderr(f"vitrail: cannot seal the audit log: {error}")
            self._complained = True


class JournalTeller:
    """Hands checkpoints to systemd's journal, if there is one."""

    def __init__(self, log: Path, path: str = JOURNAL) -> None:
        self._log = log
        self._path = path

    async def tell(self, note: str) -> None:
        """Send a checkpoint to the journal; a missing or full journal misses it.

        The next one says the same and more, so nothing is kept for it.
        """
        checkpoint = parse_note(note).checkpoint
        # Late: few logs go to the journal, and a host loads only the code that it runs.
        from broker.helpers.shipper import journal_entry

        entry = journal_entry.encode(
            [
                ("MESSAGE", f"audit log {checkpoint.origin}: {checkpoint.size} events"),
                ("MESSAGE_ID", journal_entry.message_id("audit.checkpoint")),
                ("PRIORITY", "5"),
                ("SYSLOG_IDENTIFIER", "vitrail"),
                ("VITRAIL_KIND", "audit.checkpoint"),
                ("VITRAIL_LOG_FILE", str(self._log)),
                ("VITRAIL_ORIGIN", checkpoint.origin),
                ("VITRAIL_SIZE", str(checkpoint.size)),
                ("VITRAIL_CHECKPOINT", note),
            ]
        )
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        ):
            sock.settimeout(0)
            sock.sendto(entry, self._path)
