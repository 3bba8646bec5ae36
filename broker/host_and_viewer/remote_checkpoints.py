"""The log's checkpoints, for the process that has the link to another broker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from broker.authority.audit.proof.note import Note, parse_note
from broker.authority.audit.proof.offer import WitnessAnswer, WitnessFate, WitnessOffer
from broker.host_and_viewer.log_client import LogClient
from broker.ipc.audit import log_messages as m


class RemoteCheckpoints:
    """Implements ``checkpoints.CheckpointBook`` by messages to the authority."""

    def __init__(self, client: LogClient) -> None:
        self._ask = client.ask
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
        return (await self._ask(m.NewestCheckpoint, m.AskCheckpoint)).note

    async def evidence(
        self, since: int, size: int, known: int
    ) -> tuple[list[bytes], list[str]]:
        """Ask the authority for a proof and keys; see ``CheckpointBook.evidence``."""
        message = partial(m.AskEvidence, since=since, size=size, known=known)
        found = await self._ask(m.Evidence, message)
        return found.proof, found.keys

    async def witnessed(self, peer: str, note: str) -> None:
        """See ``CheckpointBook.witnessed``."""
        await self._ask(
            m.AuthorityDone, partial(m.CheckpointWitnessed, peer=peer, note=note)
        )

    async def problem(self, held: Note) -> str:
        """See ``CheckpointBook.problem``."""
        message = partial(m.CompareCheckpoint, note=held.whole)
        return (await self._ask(m.Compared, message)).problem

    async def hold(self, peer: str, offer: WitnessOffer) -> WitnessAnswer:
        """Have the authority hold a checkpoint; see ``CheckpointBook.hold``."""
        message = partial(
            m.HoldCheckpoint,
            peer=peer,
            note=offer.note.whole,
            since=offer.since,
            proof=list(offer.proof),
            keys=[key.whole for key in offer.keys],
        )
        found = await self._ask(m.CheckpointHeld, message)
        before = parse_note(found.before) if found.before else None
        fate = WitnessFate(found.fate)
        return WitnessAnswer(fate, before, found.key, found.restarted)
