"""The log's checkpoints, for the process that has the link to another broker."""

from __future__ import annotations

from collections.abc import Callable

from broker.authority.audit.proof.note import Note, parse_note
from broker.authority.audit.proof.offer import WitnessAnswer, WitnessFate, WitnessOffer
from broker.host_and_viewer.log_client import LogClient
from broker.ipc.audit import log_rows as m
from broker.wire.row import Empty


class RemoteCheckpoints:
    """Implements ``checkpoints.CheckpointBook`` by messages to the authority."""

    def __init__(self, client: LogClient) -> None:
        self._call = client.call
        self._client = client

    @property
    def published(self) -> Callable[[], None]:
        """See ``CheckpointBook``."""
        return self._client.checkpoint_made

    @published.setter
    def published(self, call: Callable[[], None]) -> None:
        self._client.checkpoint_made = call

    async def newest(self) -> str:
        """See ``CheckpointBook.newest``."""
        return (await self._call(m.NEWEST_CHECKPOINT, Empty())).note

    async def evidence(
        self, since: int, size: int, known: int
    ) -> tuple[list[bytes], list[str]]:
        """Ask the authority for a proof and keys; see ``CheckpointBook.evidence``."""
        request = m.EvidenceRequest(since, size, known)
        found = await self._call(m.EVIDENCE, request)
        return found.proof, found.keys

    async def witnessed(self, peer: str, note: str) -> None:
        """See ``CheckpointBook.witnessed``."""
        request = m.CheckpointWitnessed(peer, note)
        await self._call(m.CHECKPOINT_WITNESSED, request)

    async def problem(self, held: Note) -> str:
        """See ``CheckpointBook.problem``."""
        request = m.CompareCheckpoint(held.whole)
        return (await self._call(m.COMPARE_CHECKPOINT, request)).problem

    async def hold(self, peer: str, offer: WitnessOffer) -> WitnessAnswer:
        """Have the authority hold a checkpoint; see ``CheckpointBook.hold``."""
        request = m.HoldCheckpoint(
            peer=peer,
            note=offer.note.whole,
            since=offer.since,
            proof=list(offer.proof),
            keys=[key.whole for key in offer.keys],
        )
        found = await self._call(m.HOLD_CHECKPOINT, request)
        before = parse_note(found.before) if found.before else None
        fate = WitnessFate(found.fate)
        return WitnessAnswer(fate, before, found.key, found.restarted)
