"""Proofs, checked by a program that shares no code with us."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.authority.audit.proof.note import parse_note
from broker.authority.audit.store import open_store
from broker.cli.audit.proof.inclusion import prove
from broker.core.errors import IntegrityError, RefusedError, SetupError
from shims import vitrail_audit_check as checker
from tests.kit.audit.log import event, fill, opened

ROOT = Path(__file__).parents[5]
SHIM = ROOT / "shims" / "vitrail_audit_check.py"


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory):
    path = tmp_path_factory.mktemp("audit") / "audit.sqlite"
    return path, trio.run(fill, path, 600)


def proof(db, number: int, note=None) -> dict:
    return msgspec.to_builtins(prove(db, number, note))


def test_every_event_can_be_proved(made) -> None:
    path, kept = made
    with opened(path) as db:
        for number in range(1, 601, 7):
            found = proof(db, number)
            note = checker.check(found, kept=kept)
            assert note.size == 600
            assert json.loads(found["event"])["sequence"] == number


def test_against_a_checkpoint_of_before(made) -> None:
    path, _ = made
    with opened(path) as db:
        rows = db.execute("SELECT note FROM checkpoint WHERE size > 0").fetchall()
        for (text,) in rows:
            note = parse_note(text)
            size = note.checkpoint.size
            assert checker.check(proof(db, size, note), kept=text).size == size
            if size < 600:
                with pytest.raises(RefusedError, match="newer than the checkpoint"):
                    proof(db, size + 1, note)


def test_what_a_proof_does_not_prove(made) -> None:
    path, kept = made
    with opened(path) as db:
        good, other = proof(db, 400), proof(db, 401)
    origin = parse_note(kept).checkpoint.origin
    assert checker.check(good, origin=origin).origin == origin
    body, text, keys = good["event"], good["proof"], good["keys"]
    lines = text.split("\n")
    wrong = [
        good | {"event": body.replace('"version":2', '"version":3')},
        good | {"event": other["event"]},
        good | {"event": other["event"], "proof": other["proof"], "keys": keys[:-1]},
        good | {"proof": text.replace("index 399", "index 398")},
        good | {"proof": text.replace("@v1", "@v2")},
        good | {"proof": "\n".join([*lines[:2], *lines[3:]])},
        good | {"proof": "\n".join([*lines[:3], lines[2], *lines[3:]])},
        good | {"proof": text.replace("\n600\n", "\n601\n")},
        good | {"keys": keys[1:]},
        good | {"keys": [keys[0], *keys[2:]]},
        good | {"keys": []},
        good | {"keys": [*keys[:-1], keys[-1].replace("\nvitrail-key 4 ", "\nkey 4 ")]},
        {"event": body},
        {},
    ]
    for found in wrong:
        with pytest.raises(checker.WrongError):
            checker.check(found)
    with pytest.raises(checker.WrongError, match="another log"):
        checker.check(good, origin="vitrail.invalid/audit/00")
    with pytest.raises(checker.WrongError, match="does not match the given checkpoint"):
        checker.check(good, kept=keys[1])


def test_every_bit_of_a_proof_matters(made) -> None:
    path, _ = made
    with opened(path) as db:
        good = proof(db, 123)
    for name in ("event", "proof"):
        raw = good[name].encode()
        for place in range(0, len(raw), 11):
            changed = bytearray(raw)
            changed[place] ^= 1
            words = good | {name: changed.decode("utf-8", "replace")}
            with pytest.raises(checker.WrongError):
                checker.check(words)


def test_the_checker_is_a_program_of_its_own(made, tmp_path: Path) -> None:
    path, kept = made
    with opened(path) as db:
        found = proof(db, 599)
    (tmp_path / "proof.json").write_text(json.dumps(found))
    (tmp_path / "kept").write_text(kept)
    argv = [sys.executable, "-I", "-S", SHIM, "proof.json", "--checkpoint", "kept"]
    done = subprocess.run(
        argv, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("proved: event 599 of the 600 in vitrail.invalid/")
    found["event"] = found["event"].replace("599", "598")
    (tmp_path / "proof.json").write_text(json.dumps(found))
    bad = subprocess.run(
        argv, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (bad.returncode, bad.stdout) == (1, "")
    assert bad.stderr.startswith("NOT proved: ")


def test_there_is_no_such_event(made) -> None:
    path, _ = made
    with (
        opened(path) as db,
        pytest.raises(SetupError, match="event 601 does not exist"),
    ):
        prove(db, 601)


async def test_a_log_that_was_changed_proves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    async with open_store(path) as store:
        for number in range(5):
            await store.record(event(number))
    with opened(path) as db:
        db.execute("UPDATE event SET leaf = zeroblob(32) WHERE sequence = 2")
        with pytest.raises(IntegrityError, match="differ from the signed log"):
            prove(db, 4)
        db.execute("DELETE FROM event WHERE sequence = 2")
        with pytest.raises(IntegrityError, match="not in the audit log"):
            prove(db, 4)


# -- the checker's own Ed25519 -----------------------------------------------------------


def test_the_vectors_of_rfc_8032() -> None:
    """Section 7.1, TEST 1 to 3."""
    for key, message, signature in (
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            """e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155
            5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b""",
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            """92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da
            085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00""",
        ),
        (
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            """6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac
            18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a""",
        ),
    ):
        raw = bytes.fromhex(key), bytes.fromhex(signature), bytes.fromhex(message)
        assert checker.signed(*raw)
        assert not checker.signed(raw[0], raw[1], raw[2] + b"x")


@settings(max_examples=20)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=80), st.integers(0, 511))
def test_it_agrees_with_the_library(seed: bytes, message: bytes, bit: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    signature = private.sign(message)
    assert checker.signed(private.public_key().public_bytes_raw(), signature, message)
    changed = bytearray(signature)
    changed[bit // 8] ^= 1 << bit % 8
    assert not checker.signed(
        private.public_key().public_bytes_raw(), bytes(changed), message
    )


def test_signatures_that_must_be_refused() -> None:
    private = Ed25519PrivateKey.generate()
    key, signature = private.public_key().public_bytes_raw(), private.sign(b"x")
    scalar = int.from_bytes(signature[32:], "little") + checker.L
    again = signature[:32] + scalar.to_bytes(32, "little")
    assert not checker.signed(key, again, b"x"), "the same signature, written again"
    assert not checker.signed(key, signature[:63], b"x")
    assert not checker.signed(key[:31], signature, b"x")
    assert not checker.signed(b"\xff" * 32, signature, b"x"), "no point"
