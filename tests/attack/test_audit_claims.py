"""Attack: claims that are recorded or proved, and what reads them.

A worker that was taken over reports numbers that no reader can add.

Bytes of a stream that a worker carries are its claim.  SQLite's sum() fails for
integers beyond 64 bits, so two such claims would end ``brokerctl audit stats`` for
as long as the log has their events, with "the audit log cannot be read".

A proof that is none has words for the terminal of the person who checks it.
"""

from __future__ import annotations

import json

import pytest
import trio

from broker.authority.audit.store import open_store
from broker.core.lease import Opening
from broker.core.limits import audit as audit_limits
from broker.core.services import DISPLAY
from broker.host_and_viewer.stream_events import StreamEvents
from broker.ipc.audit import schema
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from shims import vitrail_audit_check
from tests.kit.link.roles import LEASE

_MOST = (1 << 63) - 1
"""The largest count that a worker's message can carry (``ipc.worker``)."""


def closed(count: int) -> schema.StreamClosed:
    return schema.StreamClosed(
        sandbox="work",
        service=DISPLAY,
        outcome="closed",
        bytes_from_sandbox=count,
        bytes_to_sandbox=count,
        seconds=1.5,
    )


@pytest.mark.parametrize("filters", [Filters(), Filters(sandboxes=("work",))])
async def test_numbers_of_a_log_can_be_read_whatever_was_claimed(tmp_path, filters):
    path = tmp_path / "audit.sqlite"
    async with open_store(path) as store:
        for count in (_MOST, _MOST, 7):
            await store.record(closed(count))
        for _ in range(2):
            await store.record(
                schema.StreamRefused(sandbox="work", reason="x", count=_MOST)
            )
    with open_log(path) as log:
        counts = log.counts(filters, 5)
    (traffic,) = counts.traffic
    assert (traffic.sandbox, traffic.streams, traffic.seconds) == ("work", 3, 4.5)
    assert traffic.sent >= 2 * _MOST
    assert counts.refusals >= 2 * _MOST


async def test_small_numbers_are_added_exactly(tmp_path):
    path = tmp_path / "audit.sqlite"
    async with open_store(path) as store:
        for count in (1, (1 << 40) + 1):
            await store.record(closed(count))
    with open_log(path) as log:
        (traffic,) = log.counts(Filters(), 5).traffic
    assert (traffic.sent, traffic.got) == ((1 << 40) + 2, (1 << 40) + 2)


async def test_claim_is_recorded_up_to_what_every_reader_holds():
    class Log:
        def __init__(self):
            self.events = []

        async def require(self, event):
            self.events.append(event)

        note = require

    log = Log()
    opening = Opening(LEASE, DISPLAY, 1, "a test")
    began = trio.current_time()
    async with StreamEvents(log).carry(opening, "worker", accepted=began) as outcome:
        outcome.counts = _MOST, 5
    _, event = log.events
    assert event.bytes_from_sandbox == audit_limits.AUDIT_COUNT
    assert event.bytes_to_sandbox == 5


_LIE = "\x1b[1A\x1b[2K\rproved: event 7 of the 9 in vitrail.invalid/audit/\u202e"


@pytest.mark.parametrize(
    "proof",
    [
        {"event": "{}", "proof": "c2sp.org/tlog-proof@v1\nindex 0\n\n%s", "keys": []},
        {"event": "{}", "proof": f"c2sp.org/tlog-proof@v1\nindex {_LIE}", "keys": []},
    ],
)
def test_proof_that_is_none_writes_nothing_to_the_terminal(tmp_path, capsys, proof):
    """It could take back "NOT proved" and write something better in its place."""
    note = f"{_LIE}\n9\neA==\n\n\u2014 x eA==\n"
    proof["proof"] = proof["proof"].replace("%s", note)
    path = tmp_path / "proof.json"
    path.write_text(json.dumps(proof))
    assert vitrail_audit_check.main([str(path), "--origin", "another"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("NOT proved: ")
    assert said.removesuffix("\n").isprintable()


def test_proof_that_is_nested_without_an_end_is_none(tmp_path, capsys):
    path = tmp_path / "proof.json"
    path.write_text("[" * 200_000)
    assert vitrail_audit_check.main([str(path)]) == 1
    assert capsys.readouterr().err.startswith("NOT proved: ")
