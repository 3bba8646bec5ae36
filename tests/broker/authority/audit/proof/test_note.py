"""Signed notes: ours, those of other programs, and refused ones."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from broker.authority.audit.proof import note as n
from broker.authority.audit.proof.chain import verifier_key
from broker.authority.audit.proof.ed25519 import PrivateKey, is_signed_by
from broker.core.errors import RefusedError
from broker.core.limits import audit as audit_limits

KEY = PrivateKey(bytes(range(32)))
PUBLIC = KEY.public()
ORIGIN = n.origin_of(PUBLIC)
ROOT = bytes(range(100, 132))
NOTE = n.Checkpoint(ORIGIN, 289, ROOT).signed(KEY, PUBLIC)


def test_a_checkpoint_is_read_as_it_was_written() -> None:
    read = n.parse_note(NOTE)
    assert read.checkpoint == n.Checkpoint(ORIGIN, 289, ROOT)
    assert read.whole == NOTE
    assert is_signed_by(read, PUBLIC)
    assert not is_signed_by(read, PrivateKey.generate().public())


def test_it_is_the_format_that_other_programs_know() -> None:
    """Lines as c2sp.org/tlog-checkpoint and c2sp.org/signed-note have them."""
    origin, size, root, empty, signature, end = NOTE.split("\n")
    assert (size, empty, end) == ("289", "", "")
    assert base64.b64decode(root) == ROOT
    dash, name, coded = signature.split(" ")
    assert (dash, name) == ("\u2014", origin)
    raw = base64.b64decode(coded)
    assert len(raw) == 4 + 64
    verifier = Ed25519PublicKey.from_public_bytes(PUBLIC)
    verifier.verify(raw[4:], f"{origin}\n{size}\n{root}\n".encode())


def test_the_key_id_is_the_one_of_the_specification() -> None:
    """The example of c2sp.org/signed-note and of Go's package note."""
    vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    name, digits, coded = vkey.split("+")
    key = base64.b64decode(coded)[1:]
    assert n.key_id(name, key).hex() == digits
    assert verifier_key(name, key) == vkey


def test_where_the_key_changes_the_next_one_stands() -> None:
    change = n.KeyChange(7, b"k" * 32)
    text = n.Checkpoint(ORIGIN, 0, ROOT, change).signed(KEY, PUBLIC)
    assert n.parse_note(text).checkpoint.change == change
    assert "\nvitrail-key 7 a2tr" in text


def test_signatures_of_witnesses_are_passed_over() -> None:
    other = base64.b64encode(b"1234" + b"x" * 70).decode()
    read = n.parse_note(f"{NOTE}\u2014 witness.example {other}\n")
    assert is_signed_by(read, PUBLIC)
    assert len(read.signatures) == 1


def test_every_changed_byte_is_noticed() -> None:
    raw = NOTE.encode()
    for place in range(len(raw)):
        for bit in (0x01, 0x20, 0x80):
            changed = bytearray(raw)
            changed[place] ^= bit
            try:
                read = n.parse_note(changed.decode("utf-8", "replace"))
            except RefusedError:
                continue
            assert not is_signed_by(read, PUBLIC), place


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        NOTE[:-1],
        NOTE + "\n",
        NOTE.replace("289", "0289"),
        NOTE.replace("289", "-1"),
        NOTE.replace("289", "2" * 20),
        NOTE.replace("vitrail.invalid", "example.com"),
        NOTE.replace("\n\n", "\nmore words here\n\n"),
        NOTE.replace("\n\n", "\nvitrail-key 1 AAAA\n\n"),
        NOTE.replace("\n\n", "\nvitrail-key x AAAA\n\n"),
        NOTE.replace("\u2014", "-"),
        NOTE.replace("=\n\n", "\n\n"),
        NOTE + "\u2014 " + ORIGIN + " AAAA\n",
        "x" * (audit_limits.AUDIT_NOTE_BYTES + 1),
    ],
)
def test_a_malformed_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="not a checkpoint"):
        n.parse_note(text)


def test_a_note_at_the_limit_is_read() -> None:
    line = "\u2014 w {}\n"
    room = audit_limits.AUDIT_NOTE_BYTES - len(NOTE) - len(line.format(""))
    blob = base64.b64encode(b"x" * (room // 4 * 3)).decode()
    text = NOTE + line.format(blob)
    assert is_signed_by(n.parse_note(text), PUBLIC)


@given(st.text(max_size=300) | st.text("\n \u2014+=Aa0/", max_size=80))
def test_any_text_is_a_checkpoint_or_a_refusal(text: str) -> None:
    for untrusted in (text, NOTE + text, text + NOTE, NOTE[: len(text)] + text):
        try:
            read = n.parse_note(untrusted)
        except RefusedError:
            continue
        assert read.whole == untrusted
