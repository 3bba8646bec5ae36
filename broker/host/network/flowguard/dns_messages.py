"""Questions and answers of the DNS (RFC 1035), as far as the frame filter reads them.

A guest's question is taken apart and written anew, and so is an answer with addresses:
the resolver and the guest see no byte that was not understood here.  Sans-IO.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

A, CNAME, AAAA, OPT, IN = 1, 5, 28, 41, 1
_SIZES = {A: 4, AAAA: 16}
PASSED = frozenset({2, 6, 12, 15, 16, 33, 257})
"""NS, SOA, PTR, MX, TXT, SRV, CAA: carried as they are, and they open no address.

Not among them: SVCB and HTTPS (64, 65), by which a server's name would be encrypted."""
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, REFUSED = 0, 1, 2, 3, 5
MAX_ADDRESSES = 32
"""Of one answer; the rest is left out."""
_LINKS = 16
"""Aliases on the way from a name to its addresses."""
_RECORDS = 512
"""Records of an answer that are looked at."""
_HEADER = struct.Struct(">6H")
_RECORD = struct.Struct(">HHIH")
_EDNS = b"\0" + struct.pack(">HHIH", OPT, 4096, 0, 0)
_RESPONSE, _RECURSION = 0x8000, 0x0180  # QR; RD and RA


class DnsError(ValueError):
    """Not a message that can be answered."""


@dataclass(frozen=True)
class DnsQuestion:
    """One question: ``wire`` is its section as the asker wrote it."""

    number: int
    name: str
    kind: int
    wire: bytes


@dataclass(frozen=True)
class NameAddresses:
    """The addresses of a name (of IPv4, or of IPv6), and for how many seconds."""

    found: tuple[bytes, ...]
    ttl: int


def _name(data: bytes, at: int) -> tuple[str, int]:
    """Parse a DNS name; return it in lower case, and the offset after it.

    Raises DnsError.
    """
    labels: list[bytes] = []
    behind, size, limit = -1, 0, at
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
    return _text(labels), at if behind < 0 else behind


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
    number, flags, questions, *_ = _HEADER.unpack_from(untrusted_data)
    if flags & 0xF800 or questions != 1:
        raise DnsError("not exactly one question")
    name, at = _name(untrusted_data, _HEADER.size)
    if at + 4 > len(untrusted_data):
        raise DnsError("truncated question")
    kind, group = struct.unpack_from(">HH", untrusted_data, at)
    if group != IN:
        raise DnsError("unsupported class of question")
    return DnsQuestion(number, name, kind, untrusted_data[_HEADER.size : at + 4])


def query(number: int, name: str, kind: int) -> bytes:
    """Encode a DNS question for the upstream resolver."""
    labels = b"".join(
        bytes([len(label)]) + label.encode("ascii") for label in name.split(".")
    )
    head = _HEADER.pack(number, 0x0100, 1, 0, 0, 1)
    return head + labels + b"\0" + struct.pack(">HH", kind, IN) + _EDNS


def reply(
    question: DnsQuestion, code: int, addresses: NameAddresses | None = None
) -> bytes:
    """Encode a DNS answer for the guest: a code, and addresses if any."""
    found = () if addresses is None else addresses.found
    ttl = 0 if addresses is None else addresses.ttl
    flags = _RESPONSE | _RECURSION | code
    head = _HEADER.pack(question.number, flags, 1, len(found), 0, 0)
    records = b"".join(
        b"\xc0\x0c" + _RECORD.pack(question.kind, IN, ttl, len(address)) + address
        for address in found
    )
    return head + question.wire + records


def renumbered(question: DnsQuestion, untrusted_answer: bytes, most: int) -> bytes:
    """Return a resolver's answer with the guest's number, cut where it is too long."""
    if len(untrusted_answer) > most:
        head = _HEADER.pack(
            question.number, _RESPONSE | _RECURSION | 0x0200, 1, 0, 0, 0
        )
        return head + question.wire
    return struct.pack(">H", question.number) + untrusted_answer[2:]


def read_answer(
    untrusted_data: bytes, name: str, kind: int
) -> tuple[int, NameAddresses]:
    """Return an answer's code, and the addresses to which the name leads.

    Raises DnsError unless it is an answer to this question.
    """
    if len(untrusted_data) < _HEADER.size:
        raise DnsError("truncated header")
    _, flags, questions, answers, *_ = _HEADER.unpack_from(untrusted_data)
    if not flags & _RESPONSE or questions != 1:
        raise DnsError("not a response")
    asked, at = _name(untrusted_data, _HEADER.size)
    # guard: an answer is to its question
    if asked != name or untrusted_data[at : at + 4] != struct.pack(">HH", kind, IN):
        raise DnsError("response to another question")
    records = list(_records(untrusted_data, at + 4, min(answers, _RECORDS)))
    return flags & 15, _addresses(name, kind, records)


_Parsed = tuple[str, int, int, bytes, str]


def _records(data: bytes, at: int, count: int) -> Iterator[_Parsed]:
    """Yield the records at an offset, up to a truncated end."""
    for _ in range(count):
        owner, at = _name(data, at)
        if at + _RECORD.size > len(data):
            return  # a truncated answer ends between records, or in one
        kind, group, ttl, size = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        value = data[at : at + size]
        if len(value) < size:
            return
        if group == IN:
            target = _name(data, at)[0] if kind == CNAME else ""
            yield owner, kind, ttl, value, target
        at += size


def _addresses(name: str, wanted: int, records: Iterable[_Parsed]) -> NameAddresses:
    """Follow the aliases (CNAME) of a name to its addresses."""
    every = list(records)
    aliases = {owner: target for owner, kind, _, _, target in every if kind == CNAME}
    chain = [name]
    while chain[-1] in aliases and len(chain) < _LINKS:
        chain.append(aliases[chain[-1]])
    ttls: list[int] = []
    found: list[bytes] = []
    for owner, kind, ttl, value, _ in every:
        # guard: an address is of the name that was asked for
        if kind != wanted or owner != chain[-1] or len(value) != _SIZES.get(kind):
            continue
        if len(found) < MAX_ADDRESSES:
            found.append(value)
            ttls.append(ttl if ttl < 1 << 31 else 0)
    return NameAddresses(tuple(dict.fromkeys(found)), min(ttls, default=0))
