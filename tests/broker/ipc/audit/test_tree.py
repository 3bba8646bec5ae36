"""The tree against RFC 6962's own definitions, and its proofs against changes."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cli.audit.proof.inclusion import inclusion_proof
from broker.ipc.audit import tree
from broker.ipc.audit.tree import Growing, leaf_hash, node_hash, range_root

_SIZES = 70


def mth(leaves: list[bytes]) -> bytes:
    """MTH as section 2.1 writes it, over the leaves' hashes."""
    if not leaves:
        return sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(mth(leaves[:k]), mth(leaves[k:]))


def numbered(size: int) -> list[bytes]:
    return [leaf_hash(b"%d" % n) for n in range(size)]


def nodes(leaves: list[bytes]):
    def node(height: int, number: int) -> bytes:
        return mth(leaves[number << height : number + 1 << height])

    return node


def test_the_hashes_that_the_world_knows() -> None:
    """Values of the Certificate Transparency reference implementation."""
    inputs = [
        b"", b"\x00", b"\x10", b"\x20\x21", b"\x30\x31", b"\x40\x41\x42\x43",
        bytes(range(0x50, 0x58)), bytes(range(0x60, 0x70)),
    ]  # fmt: skip
    roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]
    growing = Growing()
    assert growing.root() == tree.EMPTY_ROOT
    for data, root in zip(inputs, roots, strict=True):
        growing.append(leaf_hash(data))
        assert growing.root().hex() == root


def test_growing_is_the_definition_at_every_size() -> None:
    growing = Growing()
    leaves = numbered(_SIZES)
    for size in range(_SIZES + 1):
        assert growing.root() == mth(leaves[:size])
        assert range_root(0, size, nodes(leaves)) == mth(leaves[:size])
        if size < _SIZES:
            growing.append(leaves[size])


def root_from_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes]
) -> bytes | None:
    """The root that a proof leads to, or None when it has a wrong length.

    RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return None
    number, last, hash_ = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return None
        if number & 1 or number == last:
            hash_ = node_hash(sibling, hash_)
            while not number & 1 and number:
                number >>= 1
                last >>= 1
        else:
            hash_ = node_hash(hash_, sibling)
        number >>= 1
        last >>= 1
    return hash_ if last == 0 else None


def test_every_inclusion_proof_leads_to_the_root_and_nowhere_else() -> None:
    leaves = numbered(_SIZES)
    for size in range(1, _SIZES + 1):
        root, node = mth(leaves[:size]), nodes(leaves)
        for index in range(size):
            proof = inclusion_proof(index, size, node)

            def leads(number=index, of=size, leaf=leaves[index], proof=proof):
                return root_from_inclusion(leaf, number, of, proof)

            assert leads() == root
            assert leads(leaf=leaves[index - 1]) != root or size == 1
            assert leads(number=index ^ 1) != root
            assert leads(proof=[*proof, root]) is None
            if proof:
                assert leads(proof=proof[:-1]) is None
                assert leads(proof=[root, *proof[1:]]) != root


def test_every_consistency_proof_holds_and_no_other() -> None:
    size = 40
    leaves = numbered(size)
    other = [leaf_hash(b"other"), *leaves[1:]]
    node = nodes(leaves)
    for new in range(1, size + 1):
        for old in range(1, new + 1):
            roots = mth(leaves[:old]), mth(leaves[:new])
            proof = tree.consistency_proof(old, new, node)
            assert tree.verify_consistency(old, roots[0], new, roots[1], proof)
            forged = mth(other[:old])
            assert not tree.verify_consistency(old, forged, new, roots[1], proof)
            forged = mth(other[:new])
            assert not tree.verify_consistency(old, roots[0], new, forged, proof)
            longer = [*proof, roots[0]]
            assert not tree.verify_consistency(old, roots[0], new, roots[1], longer)
            if old < new:
                shorter = proof[:-1]
                assert not tree.verify_consistency(
                    old, *roots[:1], new, roots[1], shorter
                )


def test_proofs_that_cannot_be_are_refused() -> None:
    node = nodes(numbered(4))
    for index, size in ((-1, 4), (4, 4), (0, 0)):
        with pytest.raises(ValueError, match="does not contain leaf"):
            inclusion_proof(index, size, node)
        assert root_from_inclusion(b"", index, size, []) is None
    for old, new in ((0, 4), (5, 4)):
        with pytest.raises(ValueError, match="no proof"):
            tree.consistency_proof(old, new, node)
        assert not tree.verify_consistency(old, b"", new, b"", [])


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(0, 700))
def test_whole_subtrees_stand_for_their_leaves(heights: list[int], more: int) -> None:
    """As a log is opened: from its stored subtrees, then leaf by leaf."""
    leaves = numbered(1 << 10)
    pushed, plain = Growing(), Growing()
    for height in sorted(heights, reverse=True):
        if pushed.size + (1 << height) > len(leaves) or pushed.size % (1 << height):
            continue
        pushed.push(height, mth(leaves[pushed.size : pushed.size + (1 << height)]))
    for leaf in leaves[: pushed.size]:
        plain.append(leaf)
    assert pushed == plain
    for leaf in leaves[pushed.size : pushed.size + more]:
        assert pushed.append(leaf) == plain.append(leaf)
    assert pushed.root() == plain.root()


def test_a_subtree_cannot_stand_just_anywhere() -> None:
    growing = Growing()
    growing.append(b"x" * 32)
    with pytest.raises(ValueError, match="begins at 1"):
        growing.push(1, b"y" * 32)


def test_whole_blocks_are_given_out_to_be_stored() -> None:
    growing = Growing()
    leaves = numbered(1 << 17)
    done = [subtree for leaf in leaves for subtree in growing.append(leaf)]
    assert [(s.height, s.number) for s in done if s.height == 16] == [(16, 0), (16, 1)]
    assert [s.number for s in done if s.height == 8] == list(range(512))
    assert done[3].hash == mth(leaves[768:1024])
