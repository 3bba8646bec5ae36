#!/usr/bin/env -S python3 -I
"""Check a proof that an event is in an audit log of Vitrail.

    brokerctl audit prove 4711 > proof.json
    python3 vitrail_audit_check.py proof.json --checkpoint kept.note

Needs nothing but this file: Python 3.9 and its standard library, no log, no
network.  It shares no code with Vitrail, so that a mistake there does not hide
itself here: SHA-256 is hashlib's, Ed25519 is below (RFC 8032, verification
only; it handles no secrets, so it need not be constant in time).

It proves: a holder of the log's first key, or of a key that was certified
from there on, signed a tree with this event in it.  The name of the
log (--origin), or a checkpoint that you kept (--checkpoint), identifies the log.

Exit code: 0 proved, 1 not proved, 2 wrong call.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from typing import List, NamedTuple, Optional, Tuple

# -- Ed25519, RFC 8032 section 5.1 -----------------------------------------------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)

# Points are (x, y, z, x*y), each divided by z.
Point = Tuple[int, int, int, int]
IDENTITY: Point = (0, 1, 1, 0)


def add(one: Point, two: Point) -> Point:
    """Add two points of the twisted Edwards curve (the same law for doubling)."""
    a = (one[1] - one[0]) * (two[1] - two[0]) % P
    b = (one[1] + one[0]) * (two[1] + two[0]) % P
    c = 2 * one[3] * two[3] * D % P
    d = 2 * one[2] * two[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(number: int, point: Point) -> Point:
    """Multiply a curve point by a number."""
    result = IDENTITY
    while number:
        if number & 1:
            result = add(result, point)
        point = add(point, point)
        number >>= 1
    return result


def same(one: Point, two: Point) -> bool:
    """Return whether two points are one, whatever their z."""
    return (one[0] * two[2] - two[0] * one[2]) % P == 0 and (
        one[1] * two[2] - two[1] * one[2]
    ) % P == 0


def point_of(data: bytes) -> Optional[Point]:
    """Return the point that 32 bytes encode, if they do."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & ((1 << 255) - 1)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_1 % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


_BASE = point_of((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))
assert _BASE is not None
BASE: Point = _BASE


def signed(key: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether an Ed25519 signature is valid."""
    if len(key) != 32 or len(signature) != 64:
        return False
    public, commitment = point_of(key), point_of(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if public is None or commitment is None or scalar >= L:
        return False
    digest = hashlib.sha512(signature[:32] + key + message).digest()
    challenge = int.from_bytes(digest, "little") % L
    return same(times(scalar, BASE), add(commitment, times(challenge, public)))


# -- the tree, RFC 9162 section 2.1.3.2 -------------------------------------------


def root_of(body: bytes, index: int, size: int, path: List[bytes]) -> Optional[bytes]:
    """Compute the root that a path leads to from an event; None if wrong."""
    if not 0 <= index < size:
        return None
    node, last = index, size - 1
    found = hashlib.sha256(b"\x00" + body).digest()
    for sibling in path:
        if last == 0:
            return None
        if node % 2 == 1 or node == last:
            found = hashlib.sha256(b"\x01" + sibling + found).digest()
            while node % 2 == 0 and node != 0:
                node, last = node // 2, last // 2
        else:
            found = hashlib.sha256(b"\x01" + found + sibling).digest()
        node, last = node // 2, last // 2
    return found if last == 0 else None


# -- notes, c2sp.org/signed-note ----------------------------------------------------


class WrongError(Exception):
    """The proof proves nothing, and why."""


class Checkpoint(NamedTuple):
    """The content of a signed note, and its signatures."""

    text: bytes
    origin: str
    size: int
    root: bytes
    number: Optional[int]
    key: Optional[bytes]
    signatures: List[bytes]

    def signed_by(self, key: bytes) -> bool:
        """Return whether this key signed the checkpoint."""
        label = self.origin.encode() + b"\n\x01" + key
        wanted = hashlib.sha256(label).digest()[:4]
        return any(
            one[:4] == wanted and signed(key, one[4:], self.text)
            for one in self.signatures
        )


def unbase64(text: str) -> bytes:
    """Decode base64 in the one way that it can be written."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError(text)
    return data


def number_of(text: str) -> int:
    """A number in the one way that it can be written."""
    if str(int(text)) != text:
        raise ValueError(text)
    return int(text)


def read_note(note: str) -> Checkpoint:
    """Parse a signed checkpoint.  Raises WrongError."""
    text, gap, tail = note.partition("\n\n")
    lines = text.split("\n")
    if not gap or not 3 <= len(lines) <= 4:
        raise WrongError("the text is not a signed checkpoint")
    index, key = None, None
    try:
        # "vitrail-head": the log ended here then; nothing that a proof needs.
        if len(lines) == 4 and lines[3] != "vitrail-head":
            word, number, coded = lines[3].split(" ")
            if word != "vitrail-key":
                raise WrongError("the checkpoint has an unknown extension")
            index, key = number_of(number), unbase64(coded)
        signatures = []
        for line in tail.rstrip("\n").split("\n"):
            dash, name, coded = line.split(" ")
            if dash == "\u2014" and name == lines[0]:
                signatures.append(unbase64(coded))
        size, root = number_of(lines[1]), unbase64(lines[2])
    except ValueError as error:
        raise WrongError(f"invalid checkpoint: {error}") from error
    whole = (text + "\n").encode()
    return Checkpoint(whole, lines[0], size, root, index, key, signatures)


def read_proof(text: str) -> Tuple[int, List[bytes], str]:
    """Parse a c2sp.org/tlog-proof; return index, path and checkpoint.

    Raises WrongError.
    """
    head, gap, note = text.partition("\n\n")
    lines = head.split("\n")
    try:
        if not gap or lines[0] != "c2sp.org/tlog-proof@v1":
            raise WrongError("the file is not a proof of format c2sp.org/tlog-proof@v1")
        word, number = lines[1].split(" ")
        if word != "index":
            raise WrongError("the file is not a proof of format c2sp.org/tlog-proof@v1")
        path = [unbase64(line) for line in lines[2:]]
        return number_of(number), path, note
    except (ValueError, IndexError) as error:
        raise WrongError(f"invalid proof: {error}") from error


def certified_keys(notes: List[str], origin: str) -> List[bytes]:
    """Return the log's keys: its name certifies the first, each one the next.

    Raises WrongError.
    """
    keys: List[bytes] = []
    for number, text in enumerate(notes):
        note = read_note(text)
        if note.key is None or note.number != number or note.origin != origin:
            raise WrongError(f"key {number} is not certified")
        if not keys:
            label = b"vitrail audit 1 origin\0" + note.key
            name = hashlib.sha256(label).hexdigest()[:32]
            if origin != f"vitrail.invalid/audit/{name}":
                raise WrongError("the first key does not match the log's name")
        if not note.signed_by(keys[-1] if keys else note.key):
            raise WrongError(f"key {number} is not certified by the previous key")
        keys.append(note.key)
    if not keys:
        raise WrongError("the proof contains no key")
    return keys


def check(
    found: object, origin: Optional[str] = None, kept: Optional[str] = None
) -> Checkpoint:
    """Check a proof; return the checkpoint that it leads to.

    ``kept`` is a checkpoint of one's own: the proof must lead to that one.
    Raises WrongError.
    """
    if not isinstance(found, dict):
        raise WrongError("the file is not a proof")
    body, proof, notes = found.get("event"), found.get("proof"), found.get("keys")
    if not (isinstance(body, str) and isinstance(proof, str)):
        raise WrongError("the file is not a proof")
    if not (isinstance(notes, list) and all(isinstance(n, str) for n in notes)):
        raise WrongError("the file is not a proof")
    index, path, text = read_proof(proof)
    note = read_note(text)
    if origin is not None and note.origin != origin:
        raise WrongError(f"the proof belongs to another log, {note.origin}")
    # Size and root, not the text: a head of the same log says one line more.
    if kept is not None and read_note(kept)[1:4] != note[1:4]:
        raise WrongError("the proof does not match the given checkpoint")
    if not note.signed_by(certified_keys(notes, note.origin)[-1]):
        raise WrongError("the checkpoint is not signed by the log's key")
    if root_of(body.encode(), index, note.size, path) != note.root:
        raise WrongError("the event is not in the tree that was signed")
    try:
        number = json.loads(body)["sequence"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WrongError("the event is not valid") from error
    if number != index + 1:
        raise WrongError("the event has another sequence number")
    return note


def shown(untrusted_text: str) -> str:
    """Return untrusted text for a terminal, without control characters."""
    # guard: words of a proof are escaped
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in untrusted_text[:400]
    )


def main(words: Optional[List[str]] = None) -> int:
    """Check the proof in a file, print the result, and return an exit status."""
    parser = argparse.ArgumentParser(description="Check a proof from an audit log.")
    parser.add_argument("proof", help="file with the proof; '-' reads standard input")
    parser.add_argument("--origin", help="the name of the log")
    parser.add_argument("--checkpoint", help="file with a checkpoint of the log")
    given = parser.parse_args(words)
    try:
        if given.proof == "-":
            found = json.load(sys.stdin)
        else:
            with open(given.proof, encoding="utf-8") as file:
                found = json.load(file)
        kept = None
        if given.checkpoint:
            with open(given.checkpoint, encoding="utf-8") as file:
                kept = file.read()
        note = check(found, given.origin, kept)
    except (WrongError, OSError, ValueError, RecursionError) as error:
        print(f"NOT proved: {shown(str(error))}", file=sys.stderr)
        return 1
    number = json.loads(found["event"])["sequence"]
    print(f"proved: event {number} of the {note.size} in {note.origin}")
    print(json.dumps(json.loads(found["event"]), sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
