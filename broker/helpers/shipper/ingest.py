"""To a fleet's ingest service: batches that the log itself has signed.

The shipper in its jail runs it, or ``brokerctl audit ship``.
"""

from __future__ import annotations

import gzip
import secrets

import msgspec
from typing_extensions import override

from broker.core.decoding import UNREADABLE
from broker.core.errors import IntegrityError, SetupError, UpstreamError
from broker.core.escape import printable
from broker.helpers.shipper.config import IngestTarget
from broker.helpers.shipper.http_post import HttpEnd
from broker.helpers.shipper.terms import Batch, Target
from broker.ipc.audit.ingest import Position, Refusal, SignedBatch


class Ingest(Target):
    """A target: the ingest service of a fleet (``vitrail-ingest``), over HTTP."""

    proves = True
    waits = True
    beats = True

    def __init__(self, config: IngestTarget, machine: str) -> None:
        self._http = HttpEnd(
            config, "the ingest service", "https://ingest.example:4319", 4319
        )
        # Of a machine that is known by its log: the service learns that it is this one's.
        self._token = config.token or secrets.token_hex(32)
        self._machine = machine

    @override
    def position(self, log: bytes) -> tuple[int, str] | None:
        found = self._ask("GET", f"/v1/position/{log.hex()}", b"")
        return (found.last, found.leaf) if found.last else None

    @override
    def send(self, batch: Batch) -> None:
        """Post a batch, with the log's signed proof of it, to ``vitrail-ingest``."""
        proof = batch.proof
        message = SignedBatch(
            batch.log.hex(),
            batch.machine,
            batch.first if batch.items else 0,
            [item.body for item in batch.items],
            batch.before.hex(),
            [*batch.notes],
            proof.note if proof else "",
            [one.hex() for one in proof.hashes] if proof else [],
            list(proof.keys) if proof else [],
        )
        self._ask("POST", "/v1/batch", gzip.compress(msgspec.json.encode(message), 1))

    def _ask(self, method: str, path: str, body: bytes) -> Position:
        """Send a request to the service; return the log's position there."""
        headers = {
            "Content-Type": "application/json",
            "Vitrail-Machine": self._machine.encode("ascii", "replace").decode(),
            "Authorization": f"Bearer {self._token}",
        }
        if body:
            headers["Content-Encoding"] = "gzip"
        status, answer = self._http.ask(method, path, body, headers)
        try:
            if status == 200:
                return msgspec.json.decode(answer, type=Position)
            refused = msgspec.json.decode(answer, type=Refusal)
        except UNREADABLE as error:
            raise UpstreamError(f"the ingest service answered {status}") from error
        said = printable(refused.error, 300)
        if status == 403:
            raise SetupError(f"the ingest service refused: {said}", hint=printable(refused.hint, 300))  # fmt: skip
        if status == 409:
            raise IntegrityError(said, hint=printable(refused.hint, 300))
        raise UpstreamError(f"the ingest service failed: {said}")

    @override
    def close(self) -> None:
        self._http.close()

    @override
    def interrupt(self) -> None:
        self._http.interrupt()
