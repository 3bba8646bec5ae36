"""Signed notes and checkpoints of transparency logs, in C2SP's formats.

A checkpoint (c2sp.org/tlog-checkpoint) is a text of lines: the log's origin,
the number of its events, the root of its tree as base64, perhaps extension
lines.  A signed note (c2sp.org/signed-note) is a text, an empty line, and
lines with a name and an Ed25519 signature over the text.

The origin names a log by its first key, so a holder of any checkpoint of it
can recognize that key.  If the key changes, a checkpoint has one
extension line, ``vitrail-key INDEX KEY``, and the key *before* signs it (the
first one signs itself).  The signed end of a log, which moves with every commit,
has the extension line ``vitrail-head``: a published checkpoint says "the log had
this beginning", a head says "the log ends here", and a signature of the one must
not serve as the other.

Sans-IO.

The authority signs notes and checks those of its peer; brokerctl and a fleet's ingest
service check them.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.limits import audit as audit_limits

if TYPE_CHECKING:
    from broker.authority.audit.proof.ed25519 import PrivateKey

_ORIGIN = "vitrail.invalid/audit/"
_ORIGIN_LABEL = b"vitrail audit 1 origin\0"
_HEAD = "vitrail-head"
ED25519 = b"\x01"
SIGNATURE_BYTES = 64
_ID_BYTES = 4
_DASH = "\N{EM DASH} "
# At most 10**18 - 1: a database's integers end at 2**63, and a witness keeps the size.
# guard: sizes fit into a database
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_NAME = re.compile(r"[^\s+]+")


def origin_of(first_key: bytes) -> str:
    """The name of the log whose first public key this is."""
    return _ORIGIN + sha256(_ORIGIN_LABEL + first_key).hexdigest()[:32]


def key_id(name: str, key: bytes) -> bytes:
    """The bytes before a signature that identify its key; they prove nothing."""
    return sha256(name.encode() + b"\n" + ED25519 + key).digest()[:_ID_BYTES]


@dataclass(frozen=True)
class KeyChange:
    """From this checkpoint on, ``key`` signs; it is the ``index``-th."""

    index: int
    key: bytes


@dataclass(frozen=True)
class Checkpoint:
    """A log's root hash at one size."""

    origin: str
    size: int
    root: bytes
    change: KeyChange | None = None
    head: bool = False
    """Whether it says that the log ends here; never together with ``change``."""

    def text(self) -> str:
        """Return the text that is signed, with its line ends."""
        lines = [self.origin, str(self.size), base64.b64encode(self.root).decode()]
        if self.change is not None:
            coded = base64.b64encode(self.change.key).decode()
            lines.append(f"vitrail-key {self.change.index} {coded}")
        elif self.head:
            lines.append(_HEAD)
        return "".join(f"{line}\n" for line in lines)

    def signed(self, private: PrivateKey, public: bytes) -> str:
        """The signed note; ``public`` is the public half."""
        text = self.text()
        signature = key_id(self.origin, public) + private.sign(text.encode())
        coded = base64.b64encode(signature).decode()
        return f"{text}\n{_DASH}{self.origin} {coded}\n"


@dataclass(frozen=True)
class Note:
    """A signed checkpoint that was read; nothing about it is proved yet."""

    checkpoint: Checkpoint
    text: str
    signatures: tuple[tuple[bytes, bytes], ...]
    """Key id and signature of those in the origin's name."""
    whole: str


def parse_note(untrusted_text: str) -> Note:
    """Parse a signed checkpoint.  Raises RefusedError that names the problem.

    Signatures in other names than the origin's (witnesses' own) are passed over; of the
    origin's there is one, because each is a computation for the reader.
    """
    if len(untrusted_text) > audit_limits.AUDIT_NOTE_BYTES:
        raise _wrong(f"longer than {audit_limits.AUDIT_NOTE_BYTES} bytes")
    text, gap, tail = untrusted_text.partition("\n\n")
    if not gap or not tail.endswith("\n"):
        raise _wrong("expected text, an empty line and signatures")
    checkpoint = _parse_checkpoint(text.split("\n"))
    if checkpoint.text() != f"{text}\n":
        raise _wrong("it is not in canonical form")
    signatures: list[tuple[bytes, bytes]] = []
    for line in tail.removesuffix("\n").split("\n"):
        name, _, coded = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or not _NAME.fullmatch(name):
            raise _wrong("a line is not a signature")
        raw = _base64(coded)
        if name == checkpoint.origin:
            if len(raw) != _ID_BYTES + SIGNATURE_BYTES:
                raise _wrong("a signature has the wrong size")
            # guard: a log signs a checkpoint once
            if signatures:
                raise _wrong("it has two signatures of the log")
            signatures.append((raw[:_ID_BYTES], raw[_ID_BYTES:]))
    return Note(checkpoint, f"{text}\n", tuple(signatures), untrusted_text)


def _parse_checkpoint(lines: list[str]) -> Checkpoint:
    if not 3 <= len(lines) <= 4:
        raise _wrong("expected three or four lines")
    origin, size, root = lines[:3]
    if not re.fullmatch(re.escape(_ORIGIN) + "[0-9a-f]{32}", origin):
        raise _wrong(f"invalid name of a log: {printable(origin, 80)}")
    if not _NUMBER.fullmatch(size):
        raise _wrong("its size is not a number")
    hash_ = _base64(root)
    if len(hash_) != sha256().digest_size:
        raise _wrong("its root is not a SHA-256 hash")
    if len(lines) == 3:
        return Checkpoint(origin, int(size), hash_)
    if lines[3] == _HEAD:
        return Checkpoint(origin, int(size), hash_, head=True)
    return Checkpoint(origin, int(size), hash_, _parse_change(lines[3]))


def _parse_change(line: str) -> KeyChange:
    words = line.split(" ")
    if len(words) != 3 or words[0] != "vitrail-key" or not _NUMBER.fullmatch(words[1]):
        raise _wrong("it has an unknown extension line")
    change = KeyChange(int(words[1]), _base64(words[2]))
    if len(change.key) != sha256().digest_size:
        raise _wrong("a key has the wrong size")
    return change


def _base64(untrusted_text: str) -> bytes:
    try:
        raw = base64.b64decode(untrusted_text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _wrong("a part is not base64") from error
    if base64.b64encode(raw).decode() != untrusted_text:
        raise _wrong("its base64 is not canonical")
    return raw


def _wrong(what: str) -> RefusedError:
    return RefusedError(
        f"not a checkpoint of an audit log: {what}",
        hint="to print a checkpoint, run 'brokerctl audit checkpoint'; do not change its text",
    )
