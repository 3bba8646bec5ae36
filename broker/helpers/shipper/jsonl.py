"""To a file, one JSON object a line: for whatever reads files already.

The line is the event as it was recorded with ``log`` and ``machine`` in
front, so everything after them is what the event's hash is over.

The shipper in its jail runs it, or ``brokerctl audit ship``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
from typing_extensions import override

from broker.core.decoding import UNREADABLE
from broker.core.errors import SetupError, UpstreamError
from broker.core.limits import audit as audit_limits
from broker.helpers.shipper.terms import Batch, ShippedItem, Target
from broker.ipc.audit.ingest import SignedNote

_FRONT = b'{"log":"'
"""How every line begins."""


class _Line(msgspec.Struct):
    log: str
    sequence: int = 0
    """0: it is a checkpoint."""


def line(batch: Batch, item: ShippedItem) -> bytes:
    """An event as a line."""
    front = msgspec.json.encode({"log": batch.log.hex(), "machine": batch.machine})
    return b"%b,%b\n" % (front[:-1], item.body.encode()[1:])


def note_line(batch: Batch, sealed: SignedNote) -> bytes:
    """Return a checkpoint of the batch's log as a line of JSON."""
    fields = {"size": sealed.size, "kind": sealed.kind, "note": sealed.note}
    whose = {"log": batch.log.hex(), "machine": batch.machine}
    return msgspec.json.encode({**whose, "checkpoint": fields}) + b"\n"


class Jsonl(Target):
    """A file that only grows; moved away by logrotate, a new one is begun."""

    def __init__(self, path: Path, open_file: Callable[[], int]) -> None:
        self._path = path
        self._open = open_file

    @override
    def position(self, log: bytes) -> tuple[int, str] | None:
        """Return the position of its last event; removes a partial line of a crash."""
        try:
            return self._tail(log)
        except OSError as error:
            raise self._refused(error) from error

    def _tail(self, log: bytes) -> tuple[int, str] | None:
        """Return number and hash of the last event in the file.

        Cut a partial line off.
        """
        with os.fdopen(self._open(), "r+b") as file:
            end = file.seek(0, os.SEEK_END)
            # Two of the longest lines: one whole one is surely among them.
            begin = max(0, end - 2 * (audit_limits.AUDIT_EVENT_BYTES + 1024))
            file.seek(begin)
            data = file.read()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                part = data[whole : whole + len(_FRONT)]
                if (begin and not whole) or not _FRONT.startswith(part):
                    # Only what we began is ours to take back.
                    raise SetupError(
                        f"{self._path} ends with an incomplete line that is not an event",
                        hint="check the path, and use a separate file",
                    )
                file.truncate(begin + whole)
                os.fsync(file.fileno())
            lines = data[:whole].splitlines()
        for text in reversed(lines):
            try:
                last = msgspec.json.decode(text, type=_Line)
            except UNREADABLE:
                return None  # another program writes there too; the cursor decides
            if last.log != log.hex():
                return None
            if last.sequence:
                return last.sequence, ""
        return None

    @override
    def send(self, batch: Batch) -> None:
        """Append a batch's events and checkpoints to the file.

        Raises UpstreamError.
        """
        try:
            fd = self._open()
            try:
                # A full disk can leave a partial line; ``position`` removes it.
                lines = [line(batch, item) for item in batch.items]
                lines += [note_line(batch, sealed) for sealed in batch.notes]
                rest = memoryview(b"".join(lines))
                while rest:
                    rest = rest[os.write(fd, rest) :]
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> UpstreamError:
        return UpstreamError(
            f"cannot write {self._path}: {error.strerror}",
            hint="check that its directory exists and the disk has free space",
        )

    @override
    def close(self) -> None:
        """Nothing stays open."""

    @override
    def interrupt(self) -> None:
        """A disk answers or fails."""
