"""The Merkle tree of RFC 6962, section 2.1: hashes, proofs, and their checks.

Sans-IO.  The leaves are the events' bodies, byte for byte, in the order of
their sequence numbers (the leaf of event ``n`` has index ``n - 1``).  The
maker of a proof gives a function that knows the hash of any perfect subtree:
``node(height, number)`` covers the leaves from ``number << height`` on.

The authority makes proofs by this, the shipper those of a batch; brokerctl and a
fleet's ingest service check them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

HASH_BYTES = 32
STEP = 8
"""Roots of subtrees whose height is a multiple of this are stored, so that no
proof needs more than 256 hashes of one level (as C2SP's tiles)."""
BLOCK = 1 << STEP
"""Leaves of the smallest stored subtree; events are removed in such blocks."""

EMPTY_ROOT = sha256().digest()

Node = Callable[[int, int], bytes]


def leaf_hash(body: bytes) -> bytes:
    """The leaf of an event's body."""
    return sha256(b"\0" + body).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The parent of two nodes."""
    return sha256(b"\1" + left + right).digest()


@dataclass(frozen=True)
class Subtree:
    """A perfect subtree that has just become whole."""

    height: int
    number: int
    hash: bytes


@dataclass
class Growing:
    """A tree that only grows: its size, and what its root is made of.

    ``peaks`` are the perfect subtrees from left to right, one for each bit of
    the size, so a tree of any size costs at most 64 hashes of memory.
    """

    size: int = 0
    peaks: list[bytes] = field(default_factory=list)

    def copy(self) -> Growing:
        """The same tree, to continue separately."""
        return Growing(self.size, self.peaks.copy())

    def append(self, leaf: bytes) -> list[Subtree]:
        """Add a leaf; returns the subtrees to be stored that it completed."""
        return self.push(0, leaf)

    def push(self, height: int, hash_: bytes) -> list[Subtree]:
        """Add a whole perfect subtree of ``1 << height`` leaves.

        Raises ValueError where none of that height can be.
        """
        position = self.size >> height
        if position << height != self.size:
            raise ValueError(f"no subtree of height {height} begins at {self.size}")
        self.size += 1 << height
        done: list[Subtree] = []
        while True:
            if height and height % STEP == 0:
                done.append(Subtree(height, position, hash_))
            if not position & 1:
                break
            hash_ = node_hash(self.peaks.pop(), hash_)
            height += 1
            position >>= 1
        self.peaks.append(hash_)
        return done

    def root(self) -> bytes:
        """Return the Merkle tree hash of all leaves."""
        if not self.peaks:
            return EMPTY_ROOT
        hash_ = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            hash_ = node_hash(peak, hash_)
        return hash_


def _split(size: int) -> int:
    """The largest power of two smaller than ``size`` (2 or more)."""
    return 1 << (size - 1).bit_length() - 1


def range_root(begin: int, end: int, node: Node) -> bytes:
    """Compute the Merkle tree hash of the leaves from ``begin`` to before ``end``.

    ``begin`` is a multiple of the smallest power of two that holds them all.
    """
    size = end - begin
    if size == 0:
        return EMPTY_ROOT
    height = (size - 1).bit_length()
    if size == 1 << height:
        return node(height, begin >> height)
    middle = begin + _split(size)
    return node_hash(range_root(begin, middle, node), range_root(middle, end, node))


def consistency_proof(old: int, new: int, node: Node) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962, section 2.1.2.

    Raises ValueError when the old tree is empty or larger than the new one.
    """
    if not 0 < old <= new:
        raise ValueError(f"no proof from {old} to {new}")
    begin, end = 0, new
    whole = True
    path: list[bytes] = []
    while old != end:
        middle = begin + _split(end - begin)
        if old <= middle:
            path.append(range_root(middle, end, node))
            end = middle
        else:
            path.append(range_root(begin, middle, node))
            begin = middle
            whole = False
    if not whole:
        path.append(range_root(begin, end, node))
    return path[::-1]


def verify_consistency(
    old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Return whether the new tree begins with the old one (RFC 9162, 2.1.4.2)."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not proof and old_root == new_root
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    number, last = old - 1, new - 1
    while number & 1:
        number >>= 1
        last >>= 1
    from_old = from_new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if number & 1 or number == last:
            from_old = node_hash(sibling, from_old)
            from_new = node_hash(sibling, from_new)
            while not number & 1 and number:
                number >>= 1
                last >>= 1
        else:
            from_new = node_hash(from_new, sibling)
        number >>= 1
        last >>= 1
    return last == 0 and from_old == old_root and from_new == new_root
