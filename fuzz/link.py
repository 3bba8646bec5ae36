"""Fuzz target: the link between host and viewer.

Invariant: whatever bytes arrive, in whatever pieces, an end of the link
either goes on, or raises LinkRefusedError once and takes nothing more; no
other exception, no wait for bytes that cannot help; and neither end ever has
a session, a stream, a message or a pinned key that the other end did not give
it.  Peers files and private keys either are read or raise SetupError.

The first byte of an input picks the door, the rest is a little program for a
hostile wire between two honest ends (``_Script``), or the bytes themselves.

    python fuzz/link.py [--seconds N] [--seed N] [CORPUS_DIR]
    python fuzz/link.py --atheris CORPUS_DIR [libFuzzer options]

Without atheris a plain mutator works from the seeds below, keeping inputs
that reach a new outcome, and prints executions and branch coverage (with
'coverage' installed).  An input counts as *deep* when it passed the framing,
so that a fuzz run cannot look good on bad magic alone.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.runner import Admission, Meter

_COVERED = [
    f"broker/net/link/{name}.py"
    for name in (
        "wire_types", "keys", "epoch", "handshake", "preamble", "preamble_gate",
        "link_rows", "sealed_records", "pairing",
    )
]  # fmt: skip
_METER = Meter(__name__, *_COVERED)

with _METER.imports("broker.net.link", "broker.core"):
    from broker.cli.link.pairing import protocol as pairing
    from broker.net.link import keys, preamble, preamble_gate, sealed_records

from broker.core.errors import PeerError, SetupError  # noqa: E402
from broker.core.names import LeaseId  # noqa: E402
from broker.core.services import PORTS  # noqa: E402
from broker.ipc.host_rows import (  # noqa: E402
    LeaseBegun,
    LeaseEnded,
    SandboxStarted,
    StartProgress,
    StartSandbox,
    StopSandbox,
)
from broker.net.link.link_rows import (  # noqa: E402
    LINK_ROWS,
    STATUS,
    Bye,
    Cut,
    StatusReply,
)
from broker.net.link.wire_types import LinkRefusedError, Role  # noqa: E402
from broker.net.link_service.lease_ledger import LeaseLedger  # noqa: E402
from broker.wire import calls as wire  # noqa: E402
from broker.wire.call_messages import (  # noqa: E402
    ErrorMessage,
    ItemMessage,
    encode_message,
)
from broker.wire.row import Empty, ProcessKind  # noqa: E402
from tests.kit.link.pair import (  # noqa: E402
    HOST_ID,
    VIEWER_ID,
    Wire,
    handshakes,
    must_not_hang,
    pairings,
    sessions,
)
from tests.kit.wire_bytes import (  # noqa: E402
    answer_bytes,
    body,
    call_bytes,
    notice_bytes,
)

LEASE = LeaseId("0123456789abcdef")
_HOST, _VIEWER = sessions(1)
_OLD = preamble.Opener(sessions(2)[0]).open(next(iter(PORTS)), LEASE).preamble


class _Script:
    """Reads decisions from the input's bytes; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def bytes(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]


def _disturb(wire: Wire, script: _Script, seen: list[bytes]) -> int:
    """One act on the wire: deliver, change, drop, insert, replay, reflect."""
    act = script.byte()
    end = act & 1
    held = wire.held[end]
    seen[end] += bytes(held)
    match act >> 1 & 7:
        case 0 | 1 | 2:
            wire.deliver(end, script.byte() + 1)
        case 3 if held:
            held[script.byte() % len(held)] ^= script.byte() or 1
        case 4 if held:
            at = script.byte() % len(held)
            del held[at : at + script.byte() % 40]
        case 5:
            held += script.bytes(script.byte() % 64)
        case 6 | 7 if seen[act >> 4 & 1]:
            old = seen[act >> 4 & 1]
            at = script.byte() % len(old)
            held += old[at : at + script.byte()]
        case _:
            wire.deliver(end, 10**6)
    return act


def door_handshake(data: bytes) -> str:
    """A hostile wire between two honest ends of a handshake."""
    script = _Script(data)
    wire = Wire(*handshakes(script.byte() & 3, host_dials=bool(script.byte() & 1)))
    seen = [b"", b""]
    while script:
        _disturb(wire, script, seen)
    wire.run()
    must_not_hang(wire)
    dialler, acceptor = wire.ends
    if dialler.session is not None:
        assert acceptor.session is not None
        assert dialler.session.epoch == acceptor.session.epoch
        assert dialler.session._keys == acceptor.session._keys
    return _outcome(wire, done=dialler.session is not None)


def door_pairing(data: bytes) -> str:
    """The same for a pairing; the people type what the other screen shows."""
    script = _Script(data)
    wire = Wire(*pairings(script.byte() & 3, host_dials=bool(script.byte() & 1)))
    seen = [b"", b""]
    while script:
        act = _disturb(wire, script, seen)
        for end in (0, 1):
            here, there = wire.ends[end], wire.ends[1 - end]
            waits = {pairing.PairingState.COMPARE, pairing.PairingState.CONFIRMED_THERE}
            code = there.code
            if here.state in waits and code and not act & 0x80:
                wire.call(end, lambda here=here, code=code: here.confirm(code))
    wire.run()
    must_not_hang(wire)
    for end in (0, 1):
        other = wire.ends[1 - end]
        assert wire.ends[end].peer_key in (None, other._identity.public)
    return _outcome(wire, done=any(end.peer_key for end in wire.ends))


def _outcome(wire: Wire, *, done: bool) -> str:
    reasons = [e.reason.name if e else "-" for e in wire.refused]
    states = [end.state.name for end in wire.ends]
    deep = "" if reasons[0] == reasons[1] == "MALFORMED" else "deep "
    return f"{deep}{'done' if done else 'not'} {reasons} {states}"


def door_preamble(data: bytes) -> str:
    """Real preambles, changed, repeated, of an old epoch; then an answer."""
    script = _Script(data)
    opener, gate = preamble.Opener(_HOST), preamble_gate.PreambleGate(_VIEWER)
    taken: set[bytes] = set()
    trail: Counter[str] = Counter()
    made = [opener.open(list(PORTS)[n % len(PORTS)], LEASE) for n in range(4)]
    true = {offer.preamble for offer in made}
    while script:
        offer = made[script.byte() & 3]
        whole = bytearray(offer.preamble if script.byte() & 7 else _OLD)
        for _ in range(script.byte() & 3):
            whole[script.byte() % len(whole)] ^= script.byte()
        untrusted = bytes(whole)
        try:
            reader, got = preamble_gate.PreambleReader(), None
            piece = script.byte() % 80 + 1
            for at in range(0, 80, piece):
                got = reader.feed(untrusted[at : at + piece])
            assert got == untrusted
            asked = gate.check(got)
        except LinkRefusedError as error:
            trail[error.message.split()[1]] += 1
            assert untrusted not in true or untrusted in taken
            continue
        assert untrusted in true, "a preamble that nobody made was taken"
        assert untrusted not in taken, "a preamble was taken twice"
        taken.add(untrusted)
        assert asked.lease == LEASE
        trail["answer " + _answer(offer, gate, script)] += 1
    deep = "deep " if set(trail) - {"other", "kind"} else ""
    return deep + " ".join(sorted(trail))


def _answer(
    offer: preamble.StreamOffer, gate: preamble_gate.PreambleGate, script: _Script
) -> str:
    answer = bytearray(gate.answer(offer.preamble, preamble.PreambleVerdict.TAKEN))
    true = bytes(answer)
    if script.byte() & 1:
        answer[script.byte() % len(answer)] ^= script.byte()
    size = script.byte() % 40
    try:
        if bytes(answer[:size]):
            offer.feed(bytes(answer[:size])[: offer.needed])
        if offer.needed:
            offer.feed(bytes(answer[size:])[: offer.needed])
        offer.eof()
    except LinkRefusedError as error:
        return error.reason.name
    assert bytes(answer) == true
    return "taken"


def _honest(sender: Role) -> wire.Calls:
    """The end that a taken-over ``sender`` calls, with three calls of its own."""
    process = {Role.HOST: ProcessKind.HOST, Role.VIEWER: ProcessKind.VIEWER}
    honest = wire.Calls(process[sender.other], process[sender], LINK_ROWS)
    for _ in range(3):
        honest.call(STATUS, Empty())
    return honest


def _without_digits(error: Exception) -> str:
    return "".join(c for c in str(error)[:60] if not c.isdigit())


def door_messages(data: bytes) -> str:
    """Any body of a taken-over other end."""
    script = _Script(data)
    sender = Role.HOST if script.byte() & 1 else Role.VIEWER
    honest = _honest(sender)
    kinds = []
    try:
        for untrusted in script.bytes(10**6).split(b"\n"):
            event = honest.receive(untrusted)
            kinds.append(type(event).__name__)
            if isinstance(event, wire.IncomingCall):
                assert event.row.name in LINK_ROWS
                assert isinstance(event.request, event.row.request)
    except PeerError as error:
        kinds.append(_without_digits(error))
    # With one message taken the body was one of the protocol's.
    deep = "deep " if len(kinds) > 1 else ""
    return f"{deep}{sender.name} {' '.join(sorted(set(kinds)))}"


def _any_message(script: _Script) -> bytes:
    """A well-formed message with a number, lease and name out of a few."""
    kind, pick = script.byte(), script.byte()
    number, which, name = (pick & 7) + 1, pick >> 3 & 3, "abcd"[pick >> 5 & 3]
    lease = f"{which:016x}"
    number += kind >> 4
    begun = call_bytes(number, "LeaseBegun", LeaseBegun(lease, name, "web", 1, "cid 9"))
    ended = call_bytes(number, "LeaseEnded", LeaseEnded(lease, "over"))
    return [
        *[begun] * 4,
        *[ended] * 2,
        call_bytes(number, "Start", StartSandbox(name)),
        call_bytes(number, "Stop", StopSandbox(lease, 1.0, "asked")),
        call_bytes(number, STATUS),
        wire.PING,
        encode_message(ItemMessage(number, body(StartProgress("booting")))),
        answer_bytes(number, StatusReply("v", 1, 2, 3, 4)),
        answer_bytes(number),
        answer_bytes(number, SandboxStarted(lease)),
        encode_message(ErrorMessage(number, "refused", "no")),
        notice_bytes(LINK_ROWS["Bye"], Bye("over")),
    ][kind & 15]


def door_requests(data: bytes) -> str:
    """Well-formed messages in any order from a taken-over end.

    The honest end never has more than one lease of a sandbox, never a lease
    that was withdrawn, and takes an answer only for a call of its own.
    """
    script = _Script(data)
    sender = Role.HOST if script.byte() & 1 else Role.VIEWER
    honest, ledger = _honest(sender), LeaseLedger(reconnects=True)
    asked = {1, 2, 3}
    live: dict[str, str] = {}
    taken = last = 0
    while script:
        try:
            event = honest.receive(_any_message(script))
            if isinstance(event, wire.IncomingCall):
                ledger.note_call(event.call, event.row, event.request)
        except (PeerError, ValueError) as error:
            deep = "deep " if taken else ""
            return f"{deep}{sender.name} {_without_digits(error)}"
        taken += 1
        if isinstance(event, wire.AnswerReceived | wire.ErrorReceived):
            asked.remove(event.call)
        if not isinstance(event, wire.IncomingCall):
            continue
        assert event.call > last
        last = event.call
        request = event.request
        if isinstance(request, LeaseBegun):
            assert request.lease not in live
            assert request.sandbox not in live.values()
            live[request.lease] = request.sandbox
        elif isinstance(request, LeaseEnded):
            del live[request.lease]
        if script.byte() & 1 and event.row.answer is Empty:
            honest.answer(event.call, Empty())
            ledger.note_answer(event.call, event.row, request, is_done=True)
        assert {a.lease.id: a.lease.sandbox for a in ledger.leases.all()} == live
    return f"deep {sender.name} {min(taken, 8)} {len(live)}"


def door_records(data: bytes) -> str:
    """True records with a hostile wire between: a true beginning, or the end."""
    script = _Script(data)
    sender, receiver = (
        sealed_records.SealedRecords(session) for session in (_HOST, _VIEWER)
    )
    bodies = [b"%d" % number for number in range(4)]
    records = [sender.seal(sent) for sent in bodies]
    stream = bytearray(b"".join(records))
    whole = bytes(stream)
    for _ in range(script.byte() & 3):
        if stream:
            at = script.byte() % len(stream)
            stream[at : at + script.byte() % 90] = script.bytes(script.byte() % 90)
    piece, got, reason = script.byte() + 1, [], "waits"
    try:
        for at in range(0, len(stream), piece):
            got += receiver.feed(bytes(stream[at : at + piece]))
    except LinkRefusedError as error:
        reason = error.reason.name
    assert got == bodies[: len(got)]
    same = 0
    while same < min(len(whole), len(stream)) and whole[same] == stream[same]:
        same += 1
    assert len(got) <= same // len(records[0])
    return f"deep {len(got)} {reason}"


def door_peers(data: bytes) -> str:
    """The file of pinned peers."""
    try:
        found = keys.parse_peers(data, "peers", HOST_ID.public)
    except SetupError as error:
        return "".join(c for c in error.message[-20:] if not c.isdigit())
    text = keys.format_peers(found.all).encode()
    assert keys.parse_peers(text, "peers", HOST_ID.public) == found
    return f"deep {len(found.all)} peers"


def door_pem(data: bytes) -> str:
    """The file of the private key."""
    try:
        identity = keys.BrokerIdentity.from_pem(data, "identity")
    except SetupError as error:
        return error.message
    again = keys.BrokerIdentity.from_pem(identity.to_pem(), "identity")
    assert again.public == identity.public
    return "deep a key"


DOORS: list[Callable[[bytes], str]] = [
    door_handshake,
    door_pairing,
    door_preamble,
    door_messages,
    door_records,
    door_peers,
    door_pem,
    door_requests,
]


def seeds() -> list[bytes]:
    """At least one input that goes all the way through each door."""
    alive = b"\x01\xff\x00\xff" * 8
    bodies = [
        call_bytes(1, "LeaseBegun", LeaseBegun(LEASE, "web", "web", 1, "cid 42")),
        call_bytes(2, "Cut", Cut("host", 1, "x")),
        encode_message(ErrorMessage(1, "refused", "no")),
        call_bytes(3, "LeaseEnded", LeaseEnded(LEASE, "x")),
        answer_bytes(2, StatusReply("v", 1, 2, 3, 4, ("w",))),
        notice_bytes(LINK_ROWS["Bye"], Bye("x")),
    ]
    other = [
        call_bytes(1, "Start", StartSandbox("web")),
        call_bytes(2, "Stop", StopSandbox(LEASE, 1.5, "x")),
        call_bytes(3, STATUS),
        wire.PING,
    ]
    peers = keys.format_peers(
        [keys.PinnedPeer("screen", Role.VIEWER, VIEWER_ID.public)]
    )
    return [
        b"\x00\x00\x00" + alive,
        b"\x00\x00\x01" + alive,
        b"\x01\x00\x00" + alive * 2,
        b"\x01\x00\x01" + alive * 2,
        b"\x02" + b"\x00\x01\x00\x4f\x00\x00" * 4,
        b"\x02" + b"\x01\x00\x00\x0f" + b"\x01\x01\x01\x30\x01\x05\x01\x07\x02",
        b"\x03\x01" + b"\n".join(bodies),
        b"\x03\x00" + b"\n".join(other),
        *(b"\x03\x01" + data for data in bodies),
        *(b"\x03\x00" + data for data in other),
        b"\x04\x00\xff",
        b"\x04\x01\x05\x20\x10" + bytes(16) + b"\x07",
        b"\x05" + peers.encode(),
        b"\x06" + VIEWER_ID.to_pem(),
        b"\x07\x01"
        + b"".join(
            bytes([k, n | n << 3 & 24 | n << 5, 1]) for k, n in ((0, 0), (0, 1), (0, 2))
        ),
        b"\x07\x01" + bytes([0, 0, 1, 4, 1, 1, 0, 2, 1, 10, 0, 15, 0]),
        b"\x07\x00" + bytes([6, 0, 1, 7, 1, 1, 8, 2, 0, 9, 3, 1, 10, 0, 14, 1]),
    ]


def mutate(rng: random.Random, data: bytes, corpus: list[bytes]) -> bytes:
    """A few small changes; the door's number is kept most of the time."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        first = 1 if len(out) > 1 and rng.random() < 0.98 else 0
        at = rng.randint(first, len(out))
        choice = rng.randrange(6)
        if choice == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif choice == 1:
            out[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif choice == 2:
            del out[at : at + rng.randrange(1, 9)]
        elif choice == 3:
            start = rng.randrange(len(out) + 1)
            out[at:at] = out[start : start + rng.randrange(1, 33)]
        elif choice == 4:
            other = rng.choice(corpus)
            start = rng.randrange(len(other) + 1)
            out[at:] = other[start:]
        else:
            out[at : at + 1] = bytes([rng.choice((0, 1, 127, 128, 255, 10, 34))])
    return bytes(out[:4096]) or b"\0"


TARGET = Admission("link", DOORS, seeds, mutate)
run_one, fuzz = TARGET.run_one, TARGET.fuzz

if __name__ == "__main__":
    TARGET.main(__doc__, _METER)
