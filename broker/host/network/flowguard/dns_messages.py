"""Questions and answers of the DNS (RFC 1035), as far as the frame filter reads them.

A guest's question is taken apart and a new one is written, and so is an answer with
addresses: the resolver and the guest see no byte that was not understood here.  Of an
answer without addresses the guest gets the answer and authority sections as they are, up
to the first record that does not belong there.  Sans-IO.

The packet guard of a sandbox runs this, jailed; the host only starts it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

A, CNAME, AAAA, OPT, IN = 1, 5, 28, 41, 1
_SIZES = {A: 4, AAAA: 16}
PASSED = frozenset({2, 5, 6, 12, 13, 15, 16, 17, 18, 29, 33, 35, 37, 39}) | {
    43,
    44,
    46,
    47,
    48,
    50,
    51,
    52,
    53,
    59,
    60,
    61,
    62,
    63,
    99,
    256,
    257,
}
"""NS, CNAME, SOA, PTR, HINFO, MX, TXT, RP, AFSDB, LOC, SRV, NAPTR, CERT, DNAME; DS,
SSHFP, RRSIG, NSEC, DNSKEY, NSEC3, NSEC3PARAM, TLSA, SMIMEA, CDS, CDNSKEY, OPENPGPKEY,
CSYNC, ZONEMD, SPF, URI, CAA: they have no address, and open none.

Not among them: SVCB and HTTPS (64, 65), by which a server's name would be encrypted; A6,
WKS, APL, IPSECKEY and others with addresses; ANY, transfers of zones, what nobody has
assigned."""
_LEADING = frozenset({CNAME, 39, 46})
"""In an answer beside the type that was asked for: aliases, and signatures."""
_AUTHORITY = frozenset({2, 6, 43, 46, 47, 50})
"""Of the authority section: name servers, SOA of "none exists", proofs of DNSSEC."""
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
PLAIN_BYTES = 512
"""Of an answer by UDP to who names no other size (RFC 1035, 4.2.1)."""
_POINTERS = 127
"""Of a name: one for each label that it may have."""
_LINKS = 16
"""Aliases on the way from a name to its addresses."""
_RECORDS = 512
"""Maximum number of records of an answer that are read, and so of its addresses."""
_HEADER = struct.Struct(">6H")
_RECORD = struct.Struct(">HHIH")
_EDNS = b"\0" + struct.pack(">HHIH", OPT, 4096, 0, 0)
_RESPONSE, _CUT, _RECURSION = 0x8000, 0x0200, 0x0180  # QR; TC; RD and RA
_OPCODE = 0x7800


class DnsError(ValueError):
    """Not a message that can be answered."""


@dataclass(frozen=True)
class DnsQuestion:
    """One question: ``wire`` is its section as the asker wrote it.

    ``room``: how long an answer by UDP may be; None: as without EDNS (RFC 6891).
    ``code``: why it is not asked: for its class, or its version of EDNS.
    """

    number: int
    name: str
    kind: int
    wire: bytes
    room: int | None = None
    code: int = NOERROR


@dataclass(frozen=True)
class NameAddresses:
    """The addresses of a name (of IPv4, or of IPv6), and for how many seconds.

    ``aliases``: the names that lead from it to them, the last one theirs.
    """

    found: tuple[bytes, ...]
    ttl: int
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class DnsAnswer:
    """What a resolver has answered.

    ``cut``: it has more, which it gives by TCP.  ``counts`` and ``records``: of the
    sections with answers and authorities.
    """

    code: int
    cut: bool
    addresses: NameAddresses
    counts: tuple[int, int]
    records: bytes

    @property
    def refuses_edns(self) -> bool:
        """Return whether the resolver may not know EDNS (RFC 6891, 7)."""
        return self.code in {FORMERR, NOTIMP}


def _labels(data: bytes, at: int) -> tuple[list[bytes], int]:
    """Return the labels of a DNS name, and the offset after it.  Raises DnsError."""
    labels: list[bytes] = []
    behind, size, limit, pointers = -1, 0, at, 0
    while True:
        if at >= len(data):
            raise DnsError("truncated name")
        length = data[at]
        if length >= 0xC0:
            if at + 1 >= len(data):
                raise DnsError("truncated name")
            behind = at + 2 if behind < 0 else behind
            at = (length & 0x3F) << 8 | data[at + 1]
            # guard: names lead backwards
            if at >= limit:
                raise DnsError("forward pointer in a name")
            limit = at
            pointers += 1
            # guard: a name has few pointers
            if pointers > _POINTERS:
                raise DnsError("too many pointers in a name")
            continue
        if length > 63 or at + 1 + length > len(data):
            raise DnsError("truncated label")
        at += 1
        if length == 0:
            break
        labels.append(data[at : at + length])
        at += length
        size += length + 1
        if size > 254:
            raise DnsError("name too long")
    return labels, at if behind < 0 else behind


def _text(labels: list[bytes]) -> str:
    """Join a name's labels.  Raises DnsError."""
    try:
        text = b".".join(labels).decode("ascii").lower()
    except UnicodeDecodeError:
        raise DnsError("name not ASCII") from None
    # guard: a label has no dot
    if text.count(".") != max(0, len(labels) - 1):
        raise DnsError("label contains a dot")
    return text


def read_question(untrusted_data: bytes) -> DnsQuestion:
    """Parse the question of a DNS query.  Raises DnsError."""
    if len(untrusted_data) < _HEADER.size:
        raise DnsError("truncated header")
    number, flags, questions, *others = _HEADER.unpack_from(untrusted_data)
    if flags & (_RESPONSE | _OPCODE) or questions != 1:
        raise DnsError("not exactly one question")
    labels, at = _labels(untrusted_data, _HEADER.size)
    if at + 4 > len(untrusted_data):
        raise DnsError("truncated question")
    kind, group = struct.unpack_from(">HH", untrusted_data, at)
    wire = untrusted_data[_HEADER.size : at + 4]
    records = _records(untrusted_data, at + 4, min(sum(others), _RECORDS))
    edns = next((record for record in records if record.kind == OPT), None)
    room = None if edns is None else max(edns.group, PLAIN_BYTES)
    code = NOERROR if group == IN else REFUSED
    if edns is not None and edns.ttl >> 16 & 0xFF:
        code = BADVERS
    return DnsQuestion(number, _text(labels), kind, wire, room, code)


def error_reply(untrusted_data: bytes) -> bytes:
    """Return the answer to a message that ``read_question`` rejects; empty: none."""
    if len(untrusted_data) < _HEADER.size:
        return b""
    number, flags, *_ = _HEADER.unpack_from(untrusted_data)
    # guard: a response gets no answer
    if flags & _RESPONSE:
        return b""
    opcode = flags & _OPCODE
    code = NOTIMP if opcode else FORMERR
    return _HEADER.pack(number, _RESPONSE | opcode | code, 0, 0, 0, 0)


def query(number: int, question: DnsQuestion, *, plain: bool = False) -> bytes:
    """Encode a DNS question for the upstream resolver; ``plain``: without EDNS."""
    head = _HEADER.pack(number, 0x0100, 1, 0, 0, not plain)
    kind = struct.pack(">HH", question.kind, IN)
    return head + _encode_name(question.name) + kind + (b"" if plain else _EDNS)


def _encode_name(name: str) -> bytes:
    labels = [label.encode("ascii") for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def reply(
    question: DnsQuestion,
    code: int,
    addresses: NameAddresses | None = None,
    *,
    most: int = PLAIN_BYTES,
) -> bytes:
    """Encode a DNS answer for the guest: a code, the aliases, and the addresses.

    What does not fit is left out, with the flag by which a guest asks by TCP.
    """
    addresses = NameAddresses((), 0) if addresses is None else addresses
    ttl, flags = addresses.ttl, 0
    owner, end = b"\xc0\x0c", _HEADER.size + len(question.wire)
    records: list[bytes] = []
    for target in addresses.aliases:
        name = _encode_name(target)
        records.append(owner + _RECORD.pack(CNAME, IN, ttl, len(name)) + name)
        end += len(records[-1])
        owner = struct.pack(">H", 0xC000 | end - len(name))
    records += [
        owner + _RECORD.pack(question.kind, IN, ttl, len(address)) + address
        for address in addresses.found
    ]
    size = sum(map(len, records)) + len(_encoded(question, code, (0, 0), b""))
    # guard: an answer is not longer than its asker can take
    while size > most:
        size -= len(records.pop())
        flags = _CUT
    return _encoded(question, code, (len(records), 0), b"".join(records), flags)


def passed(question: DnsQuestion, answer: DnsAnswer, most: int) -> bytes:
    """Return a resolver's answer without addresses; cut where it is too long.

    The names in it lead backwards to where they were: it has the header and question of
    the guest's in the place of the resolver's.
    """
    whole = _encoded(question, answer.code, answer.counts, answer.records)
    return whole if len(whole) <= most else cut(question)


def cut(question: DnsQuestion) -> bytes:
    """Return an answer that has the guest ask by TCP (TC of RFC 1035, 4.1.1)."""
    return _encoded(question, NOERROR, (0, 0), b"", _CUT)


def _encoded(
    question: DnsQuestion,
    code: int,
    counts: tuple[int, int],
    records: bytes,
    flags: int = 0,
) -> bytes:
    edns = b""
    if question.room is not None:
        # How long a question may be, and the code's upper bits (RFC 6891, 6.1.3).
        edns = b"\0" + _RECORD.pack(OPT, PLAIN_BYTES, code >> 4 << 24, 0)
    flags |= _RESPONSE | _RECURSION | code & 15
    head = _HEADER.pack(question.number, flags, 1, *counts, bool(edns))
    return head + question.wire + records + edns


def read_answer(untrusted_data: bytes, question: DnsQuestion) -> DnsAnswer:
    """Read a resolver's answer.  Raises DnsError unless it is one to this question."""
    if len(untrusted_data) < _HEADER.size:
        raise DnsError("truncated header")
    _, flags, questions, *counts, _ = _HEADER.unpack_from(untrusted_data)
    code = flags & 15
    if not flags & _RESPONSE or flags & _OPCODE:
        raise DnsError("not a response")
    nothing = NameAddresses((), 0)
    if not questions and code in {FORMERR, NOTIMP}:
        # Of an old resolver that has not read the question: nothing else is in it.
        return DnsAnswer(code, cut=False, addresses=nothing, counts=(0, 0), records=b"")
    if questions != 1:
        raise DnsError("not exactly one question")
    labels, at = _labels(untrusted_data, _HEADER.size)
    at += 4
    kind = struct.pack(">HH", question.kind, IN)
    # guard: an answer is to its question
    if _text(labels) != question.name or untrusted_data[at - 4 : at] != kind:
        raise DnsError("response to another question")
    # guard: the guest's question has the resolver's place
    if at != _HEADER.size + len(question.wire):
        raise DnsError("a question with a pointer")
    records = list(_records(untrusted_data, at, min(counts[0], _RECORDS)))
    return DnsAnswer(
        code,
        bool(flags & _CUT),
        _addresses(question.name, question.kind, records),
        *_sections(untrusted_data, at, question.kind, counts, records),
    )


def _sections(
    data: bytes, at: int, wanted: int, counts: list[int], records: list[_Record]
) -> tuple[tuple[int, int], bytes]:
    """Return how many records a guest gets of each section as they are, and those.

    Up to the first record that does not belong there: names after it may lead to it.
    """
    # Addresses are written anew, for the names that they belong to.
    answers = _leading(records, _LEADING | ({wanted} - _SIZES.keys()))
    end = answers[-1].end if answers else at
    authorities: list[_Record] = []
    if len(answers) == counts[0]:
        rest = _records(data, end, min(counts[1], _RECORDS))
        authorities = _leading(rest, _AUTHORITY)
        end = authorities[-1].end if authorities else end
    return (len(answers), len(authorities)), data[at:end]


def _leading(
    records: Iterable[_Record], kinds: frozenset[int] | set[int]
) -> list[_Record]:
    # guard: an answer has what was asked for
    return [*takewhile(lambda one: one.group == IN and one.kind in kinds, records)]


class _Record(NamedTuple):
    """A record: its owner and where an alias leads; None: not a name that is read."""

    owner: str | None
    kind: int
    group: int
    ttl: int
    value: bytes
    target: str | None
    end: int


def _records(data: bytes, at: int, count: int) -> Iterator[_Record]:
    """Yield the records at an offset, up to a truncated one."""
    for _ in range(count):
        try:
            labels, behind = _labels(data, at)
            head = data[behind : behind + _RECORD.size]
            if len(head) < _RECORD.size:
                return  # a truncated answer ends between records, or in one
            kind, group, ttl, size = _RECORD.unpack(head)
            begin = behind + _RECORD.size
            at = begin + size
            if at > len(data):
                return
            target = _readable(_labels(data, begin)[0]) if kind == CNAME else None
        except DnsError:
            return
        owner = _readable(labels)
        yield _Record(owner, kind, group, ttl, data[begin:at], target, at)


def _readable(labels: list[bytes]) -> str | None:
    """Return a name, or None if its labels are not plain ASCII."""
    try:
        return _text(labels)
    except DnsError:
        return None


def _addresses(name: str, wanted: int, records: list[_Record]) -> NameAddresses:
    """Follow the aliases (CNAME) of a name to its addresses."""
    read = [one for one in records if one.owner is not None and one.group == IN]
    aliases = {one.owner: one.target for one in read if one.target is not None}
    chain = [name]
    while (target := aliases.get(chain[-1])) is not None and len(chain) < _LINKS:
        chain.append(target)
    ttls: list[int] = []
    found: list[bytes] = []
    for one in read:
        # guard: an address is of the name that was asked for
        if (
            one.kind != wanted
            or one.owner != chain[-1]
            or len(one.value) != _SIZES.get(one.kind)
        ):
            continue
        found.append(one.value)
        ttls.append(one.ttl if one.ttl < 1 << 31 else 0)
    addresses = tuple(dict.fromkeys(found))
    return NameAddresses(addresses, min(ttls, default=0), tuple(chain[1:]))
