"""Checkpoints of this log for a witness, and those of other logs that are kept in it.

A client that was taken over can have a checkpoint kept under any name of a peer; what
is kept of one was signed and proved (``proof.witness``), and there are few names.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.authority.audit.proof.note import Note, parse_note
from broker.authority.audit.proof.offer import WitnessAnswer, WitnessOffer
from broker.authority.audit.sealing import Sealing
from broker.authority.audit.store import Store
from broker.core.errors import IntegrityError, PeerError, RefusedError
from broker.core.escape import printable
from broker.core.limits import audit as audit_limits
from broker.core.limits import authority as authority_limits
from broker.ipc.audit import log_rows as m
from broker.wire.exchange import ServedCall
from broker.wire.row import Empty, serves


# A broker refuses a log that does not match its signatures. Two readings were possible:
# begin a new log automatically and report it, or refuse. A new log would let an
# attacker with access to the file end the evidence by damaging it, and sealing over a
# changed log would make the change ours. So it refuses, in both modes, and explains how
# to start a new log by hand.
class LogCheckpoints:
    """Implements ``checkpoints.CheckpointBook`` in the process that has the log."""

    def __init__(self, store: Store, sealing: Sealing) -> None:
        self._store = store
        self._sealing = sealing
        self.published: Callable[[], None] = _nobody
        """Called with each new checkpoint of this log."""
        sealing.listeners.append(self._published)

    async def _published(self, note: str) -> None:
        del note
        self.published()

    async def newest(self) -> str:
        """See ``CheckpointBook.newest``."""
        if not self._sealing.newest:
            await self._sealing.publish()
        return self._sealing.newest

    async def evidence(
        self, since: int, size: int, known: int
    ) -> tuple[list[bytes], list[str]]:
        """Return proofs about this log for a witness.

        See ``CheckpointBook.evidence``.
        """
        proof: list[bytes] = []
        if 0 < since < size:
            try:
                proof = await self._store.consistency(since, size)
            except (RefusedError, IntegrityError):
                proof = []  # removed by retention, or not whole: ``problem`` says which
        most = audit_limits.AUDIT_WITNESS_KEYS
        return proof, await self._store.certificates(known, most)

    async def witnessed(self, peer: str, note: str) -> None:
        """See ``CheckpointBook.witnessed``."""
        await self._store.witnessed(peer, note)

    async def problem(self, held: Note) -> str:
        """Return why a held checkpoint contradicts the log.

        See ``CheckpointBook.problem``.
        """
        seen = held.checkpoint
        if seen.origin != self._store.origin:
            return "it belongs to another log"
        if seen.size > self._store.size:
            return f"it covers {seen.size} events, but the log has {self._store.size}: the log was rolled back or truncated"
        try:
            if await self._store.root_at(seen.size) != seen.root:
                return f"one of the first {seen.size} events was changed"
        except RefusedError:
            return ""  # its events are too old to be checked
        except IntegrityError as error:
            return str(error)
        return ""

    async def hold(self, peer: str, offer: WitnessOffer) -> WitnessAnswer:
        """See ``CheckpointBook.hold``."""
        return await self._store.hold(peer, offer)


class CheckpointRequests:
    """Serves one channel; ``book`` is None if the role has no link."""

    def __init__(self, book: LogCheckpoints | None, tell: Callable[[], None]) -> None:
        """Set up; ``tell`` announces a new checkpoint to the client."""
        self._kept = book
        self._peers: set[str] = set()
        if book is not None:
            book.published = tell

    @property
    def _book(self) -> LogCheckpoints:
        # guard: a broker without a link keeps no checkpoints
        if self._kept is None:
            raise PeerError("it requests a checkpoint, but has no link")
        return self._kept

    @serves(m.NEWEST_CHECKPOINT)
    async def newest(
        self, _: ServedCall[m.NewestCheckpoint], __: Empty
    ) -> m.NewestCheckpoint:
        """Return the newest checkpoint of the log."""
        return m.NewestCheckpoint(await self._book.newest())

    @serves(m.EVIDENCE)
    async def evidence(
        self, _: ServedCall[m.Evidence], request: m.EvidenceRequest
    ) -> m.Evidence:
        """Return proofs about the log for a witness."""
        book = self._book
        return m.Evidence(
            *await book.evidence(request.since, request.size, request.known)
        )

    @serves(m.CHECKPOINT_WITNESSED)
    async def witnessed(
        self, _: ServedCall[Empty], confirmed: m.CheckpointWitnessed
    ) -> None:
        """Remember the checkpoint that a witness keeps."""
        book = self._book
        await book.witnessed(
            self._peer(confirmed.peer), parse_note(confirmed.note).whole
        )

    @serves(m.COMPARE_CHECKPOINT)
    async def compare(
        self, _: ServedCall[m.Compared], request: m.CompareCheckpoint
    ) -> m.Compared:
        """Compare a checkpoint that a witness keeps with the log."""
        book = self._book
        return m.Compared(await book.problem(parse_note(request.note)))

    @serves(m.HOLD_CHECKPOINT)
    async def hold(
        self, _: ServedCall[m.StoredCheckpoint], sent: m.HoldCheckpoint
    ) -> m.StoredCheckpoint:
        """Store a peer's checkpoint as a witness and return the answer."""
        book = self._book
        offer = WitnessOffer(
            parse_note(sent.note),
            sent.since,
            sent.proof,
            [parse_note(key) for key in sent.keys],
        )
        found = await book.hold(self._peer(sent.peer), offer)
        before = "" if found.before is None else found.before.whole
        return m.StoredCheckpoint(found.fate.value, before, found.key, found.restarted)

    def _peer(self, untrusted_peer: str) -> str:
        """Validate a peer's name and return it.  Raises PeerError."""
        self._peers.add(untrusted_peer)
        # guard: a client names few peers
        if len(self._peers) > authority_limits.AUTHORITY_PEERS:
            raise PeerError("it names too many peers")
        # guard: the name of a peer is text
        if printable(untrusted_peer, 255) != untrusted_peer:
            raise PeerError("it names an invalid peer")
        return untrusted_peer


def _nobody() -> None:
    """No witness follows this log."""
