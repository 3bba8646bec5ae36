"""Checkpoints of the audit log that the other broker keeps, and those of its log.

The end of the link that has the log sends them, and the other end keeps them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from broker.authority.audit.event_log import EventLog
from broker.authority.audit.proof.note import Note, parse_note
from broker.authority.audit.proof.offer import WitnessAnswer, WitnessFate, WitnessOffer
from broker.core.errors import UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.stderr_log import log_stderr
from broker.ipc.audit import schema
from broker.net.link.link_rows import WITNESS, Witnessed, WitnessNote
from broker.net.link_service.epoch import Epoch

_TOLD = 8
"""Conflicts that are kept for a status; a peer could invent more."""


_REASONS = {
    WitnessFate.CHANGED: "the log was changed before event {size}",
    WitnessFate.BACK: "the log previously had {size} events",
    WitnessFate.FORKED: "another checkpoint has the same size",
}


@dataclass(frozen=True)
class _Far:
    """The part of our log that the other end has confirmed."""

    held: int = 0
    """Events at the newest checkpoint."""
    known: int = 0
    """Keys, the first one included."""


class CheckpointBook(Protocol):
    """The checkpoints of this broker's log, and those of others that it keeps.

    Each method raises UpstreamError when the log cannot be read or written.
    """

    published: Callable[[], None]
    """Called with each new checkpoint of this log."""

    async def newest(self) -> str:
        """Return the newest checkpoint of this log, a signed note."""
        ...

    async def evidence(
        self, since: int, size: int, known: int
    ) -> tuple[list[bytes], list[str]]:
        """Return what a witness asks for: a proof, and notes that certify keys.

        The proof shows that the log at ``size`` continues that at ``since``; empty
        if there is none.  The notes certify the log's keys from key ``known`` on.
        """
        ...

    async def witnessed(self, peer: str, note: str) -> None:
        """Remember the checkpoint that a witness holds, so that it stays provable."""
        ...

    async def problem(self, held: Note) -> str:
        """Return why a checkpoint that a witness holds does not fit this log; or ""."""
        ...

    async def hold(self, peer: str, offer: WitnessOffer) -> WitnessAnswer:
        """Keep a checkpoint of a peer's log, if it is signed and proved.

        Raises RefusedError as ``witness.hold_note``.
        """
        ...


class CheckpointWitness:
    """The other broker keeps our checkpoints, and we keep its."""

    def __init__(self, book: CheckpointBook, log: EventLog) -> None:
        self._book = book
        self._log = log
        self._news = trio.Event()
        self._told: list[str] = []
        self._asked: dict[str, tuple[Epoch, int, int]] = {}
        """The next proof asked of each peer: from which size, after which key."""
        self._holding = trio.Lock()
        book.published = self._wake

    def warnings(self) -> list[str]:
        """Warnings for a user: a log was changed or rolled back."""
        return [f"{said}: run 'brokerctl audit verify'" for said in self._told]

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def attend(self, epoch: Epoch) -> None:
        """Send every checkpoint to the other end, for as long as the epoch lives.

        The newest one at once: what the other end answers is the newest that
        it held, and shows whether our own log was rolled back meanwhile.
        """
        sent, far = "", _Far()
        while True:
            news = self._news
            try:
                note = await self._book.newest()
                if note != sent:
                    far = await self._offer(epoch, note, far)
                    sent = note
            except VitrailError as error:
                if not epoch.live:
                    return
                log_stderr(
                    f"vitrail: {epoch.name} did not store our checkpoint: {error}"
                )
            await news.wait()

    async def _offer(self, epoch: Epoch, note: str, far: _Far) -> _Far:
        """Send a checkpoint until the other end keeps it; return that end's state.

        It reports the checkpoint that it holds and its known keys; each round sends
        the proofs that it asked for.  Raises UpstreamError when it keeps refusing.
        """
        asked = False
        while True:
            reply, keys = await self._send(epoch, note, far)
            if reply.kept:
                await self._book.witnessed(epoch.name, note)
                return _Far(parse_note(note).checkpoint.size, reply.known)
            held = 0
            if reply.note:
                found = parse_note("\n".join(reply.note))
                held = found.checkpoint.size
                await self._check(epoch.name, found)
            now = _Far(held, reply.known)
            # Its first answer names its newest checkpoint; then it takes the later ones.
            taken = now.held == far.held and far.known < now.known <= far.known + keys
            # guard: a witness asks for no proof without end
            if now == far or (asked and not taken):
                raise UpstreamError("it rejects the checkpoint and its proofs")
            asked, far = True, now

    async def _send(self, epoch: Epoch, note: str, far: _Far) -> tuple[Witnessed, int]:
        """Send a checkpoint once; returns the answer, and how many keys were sent with it."""
        size = parse_note(note).checkpoint.size
        hashes, keys = await self._book.evidence(far.held, size, far.known)
        proof = [base64.b64encode(hash_).decode() for hash_ in hashes]
        request = WitnessNote(
            note.split("\n"),
            far.held if proof else 0,
            proof,
            [key.split("\n") for key in keys],
        )
        return await epoch.call(WITNESS, request), len(keys)

    async def _check(self, peer: str, held: Note) -> None:
        """Compare the checkpoint that the witness holds with our log."""
        problem = await self._book.problem(held)
        if problem:
            await self._conflict(peer, held, f"of this log, {problem}")

    async def take(self, epoch: Epoch, request: WitnessNote) -> Witnessed:
        """Keep a checkpoint of the other end's log, if its proofs are valid.

        Raises RefusedError for a text that is not a checkpoint.
        """
        note = parse_note("\n".join(request.note))
        offer = WitnessOffer(
            note,
            request.since,
            [base64.b64decode(hash_) for hash_ in request.proof],
            [parse_note("\n".join(key)) for key in request.keys],
        )
        # Commits wait for the store's thread, too: not for all that a peer sends.
        # guard: one checkpoint of a peer's is looked at
        async with self._holding:
            answer = await self._book.hold(epoch.name, offer)
        kept = answer.fate is WitnessFate.KEPT
        reason = _REASONS.get(answer.fate, "")
        if kept and answer.restarted:
            reason = f"the log was {answer.restarted} and restarted"
        elif answer.fate in {WitnessFate.UNSIGNED, WitnessFate.UNPROVED}:
            # guard: a checkpoint that is never proved is a conflict
            reason = self._late(epoch, answer)
        if kept:
            self._asked.pop(epoch.name, None)
        if reason:
            before = answer.before
            size = 0 if before is None else before.checkpoint.size
            words = reason.format(size=size)
            await self._conflict(epoch.name, note, f"of its log: {words}")
        held = [] if answer.before is None else answer.before.whole.split("\n")
        return Witnessed(held, kept, answer.key + 1)

    def _late(self, epoch: Epoch, answer: WitnessAnswer) -> str:
        """Return why an unproved checkpoint is a conflict; "": a proof may come.

        A sender does not know at first which one is held here, and sends its keys in
        pieces; a peer that gets the same answer twice has no proof.
        """
        size = 0 if answer.before is None else answer.before.checkpoint.size
        asked = epoch, size, answer.key
        if self._asked.get(epoch.name) != asked:
            self._asked[epoch.name] = asked
            return ""
        if answer.fate is WitnessFate.UNSIGNED:
            return "the keys that follow its first {size} events did not sign it"
        return "it contains no proof that it continues the log of {size} events"

    async def _conflict(self, peer: str, note: Note, reason: str) -> None:
        """Record once in the audit log that a peer's checkpoint conflicts."""
        said = f"a checkpoint from {peer} conflicts with a log, {reason}"
        if said in self._told:
            return
        self._told.append(said)
        del self._told[:-_TOLD]
        # As refusals are, because a broker that was taken over could think up a
        # conflict with every request.
        await self._log.refused(
            schema.LogConflict(
                peer=printable(peer),
                size=note.checkpoint.size,
                note=note.whole,
                reason=printable(said, 400),
            )
        )
