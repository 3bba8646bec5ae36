"""Messages between the launcher and a parent's guest agent: sans-IO.

Over the virtio-serial port ``PORT``, in the frames of ``broker.core.framing``.  The
guest sends words, each once and in this order: ``ready`` (from the parent),
``taken`` (a copy has its identity) and ``linked`` (it sees its vsock device).  The
launcher sends one ``Identity``, pauses the machine after ``linked``, and sends ``BEGIN``
when it runs again: then the guest connects.  A guest that connected before that would have
a packet under way while its vsock device stops: it was lost in one start of thirteen,
and the guest tries again after two seconds.  A machine that waits gets ``REHEARSE``
first: it runs the record's program once and says ``rehearsed``.  The guest's end is
``shims/guest/parent.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from broker.core.errors import PeerError
from broker.core.framing import FrameReader, encode_frame

PORT = "vitrail.fork"
"""Name of the port; below ``/sys/class/virtio-ports`` in the guest."""
SEED_BYTES = 64
"""Twice the key of the kernel's generator."""
FRAME_BYTES = 4096

Word = Literal["ready", "rehearsed", "taken", "linked"]


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message of the guest's."""

    type: Word


@dataclass(frozen=True)
class Identity:
    """The properties that no two copies share.

    ``seed`` is ``SEED_BYTES`` of our kernel's generator, used once; ``time`` is in
    nanoseconds since 1970.
    """

    name: str
    time: int
    seed: bytes
    cid: int
    disposable: bool = True
    net: str = ""
    dns: str = ""
    dns6: str = ""
    search: str = ""

    def encode(self) -> bytes:
        """Return the frame.  Raises ValueError for a seed of another length."""
        if len(self.seed) != SEED_BYTES:
            raise ValueError(f"the seed has {len(self.seed)} bytes")
        # The seed is base64 there, as all bytes in JSON.
        return encode_frame(msgspec.json.encode(self), FRAME_BYTES)


REHEARSE = encode_frame(b'{"type":"rehearse"}', FRAME_BYTES)
BEGIN = encode_frame(b'{"type":"begin"}', FRAME_BYTES)


class GuestWords:
    """Reads the guest's words and holds it to their order.

    ``expected`` are the words that may still come.
    """

    def __init__(self, *expected: Word) -> None:
        self._expected = list(expected)
        self._frames = FrameReader(FRAME_BYTES)
        self.heard: list[Word] = []

    @property
    def complete(self) -> bool:
        """Return whether every expected word was heard."""
        return not self._expected

    def feed(self, untrusted_data: bytes) -> None:
        """Parse the guest's bytes.

        Raises PeerError for any but the next expected word.
        """
        for untrusted_body in self._frames.feed(untrusted_data):
            try:
                word = msgspec.json.decode(untrusted_body, type=Said).type
            except (ValueError, RecursionError) as error:
                raise PeerError(
                    f"the guest sent an invalid message: {error}"
                ) from error
            # guard: a copy's words come in their order
            if self._expected[:1] != [word]:
                raise PeerError(f"the guest sent '{word}' out of order")
            self._expected.pop(0)
            self.heard.append(word)
