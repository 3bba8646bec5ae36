"""Bundles: only signed by a trusted key, whole, and never an older one."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from policy import limits
from policy.tools import limits as tool_limits
from policy.tools.bundles import bundle as bundles
from policy.tools.bundles.bundle import (
    BundleError,
    Signer,
    newer,
    sign,
    take_key,
    trusted_keys,
    verify,
)

KEY = Ed25519PrivateKey.from_private_bytes(b"1" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"2" * 32)
PUBLIC = bundles.written_key(KEY.public_key())
TRUSTED = {PUBLIC: Signer("anybody", None)}
FILES = {
    "policy.d/30-site.policy": "a * work vault deny\n# größe\n",
    "policy.d/30-site.policytest": "a work vault -> deny\n",
    "sandboxes.d/work.toml": 'class = "persistent"\n',
}


def _signed(payload: bytes) -> bytes:
    """A bundle of any payload, rightly signed."""
    signature = base64.b64encode(KEY.sign(b"vitrail bundle 1\0" + payload)).decode()
    return (
        f"vitrail-bundle 1\nkey {PUBLIC}\nsignature {signature}\n\n".encode() + payload
    )


def test_the_signed_content_comes_back():
    """Name, version, files, and who signed."""
    found = verify(sign(KEY, "acme", 7, FILES), TRUSTED)
    assert (found.name, found.version, found.key) == ("acme", 7, PUBLIC)
    assert found.files == FILES
    assert found.problems() == []
    assert set(found.folder("sandboxes.d")) == {"work.toml"}


def test_each_changed_byte_is_found():
    """All of them tried, each changed in one bit, and cut anywhere."""
    made = sign(KEY, "acme", 7, {"policy.d/1.policy": "a * b c deny\n"})
    for at in range(len(made)):
        changed = bytes([*made[:at], made[at] ^ 1, *made[at + 1 :]])
        with pytest.raises(BundleError):
            verify(changed, TRUSTED)
        with pytest.raises(BundleError):
            verify(made[:at], TRUSTED)
    with pytest.raises(BundleError):
        verify(made + b"\n", TRUSTED)


def test_another_key_is_not_trusted():
    """Also when it says that it is the trusted one."""
    made = sign(OTHER, "acme", 7, FILES)
    with pytest.raises(BundleError, match="not trusted"):
        verify(made, TRUSTED)
    other = bundles.written_key(OTHER.public_key())
    assert verify(made, {**TRUSTED, other: Signer("x", None)}).key == other
    with pytest.raises(BundleError, match="was changed"):
        verify(made.replace(other.encode(), PUBLIC.encode()), TRUSTED)
    with pytest.raises(BundleError):
        verify(made, {})


def test_a_signature_over_something_else_does_not_fit():
    """The key's signature over the bare payload is none of a bundle."""
    payload = json.dumps({"name": "a", "version": 1, "files": {}}).encode()
    bare = base64.b64encode(KEY.sign(payload)).decode()
    head = f"vitrail-bundle 1\nkey {PUBLIC}\nsignature {bare}\n\n".encode()
    with pytest.raises(BundleError, match="was changed"):
        verify(head + payload, TRUSTED)
    assert verify(_signed(payload), TRUSTED).files == {}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"name": "a", "version": 1}',
        b'{"name": "a", "version": 1, "files": {}, "more": 1}',
        b'{"name": "a", "name": "b", "version": 1, "files": {}}',
        b'{"name": "A", "version": 1, "files": {}}',
        b'{"name": "../a", "version": 1, "files": {}}',
        b'{"name": 1, "version": 1, "files": {}}',
        b'{"name": "a", "version": 0, "files": {}}',
        b'{"name": "a", "version": true, "files": {}}',
        b'{"name": "a", "version": 1.0, "files": {}}',
        b'{"name": "a", "version": 9007199254740992, "files": {}}',
        b'{"name": "a", "version": 1, "files": []}',
        b'{"name": "a", "version": 1, "files": {"policy.d/a.policy": 1}}',
        b'{"name": "a", "version": 1, "files": {"policy.d/a.policy": "\\ud800"}}',
        b'{"name": "a", "version": 1, "files": {"policy.d/a.policy": "", "policy.d/a.policy": ""}}',
    ],
)  # fmt: skip
def test_a_signed_payload_is_checked_too(payload):
    """A trusted signer may still be wrong."""
    with pytest.raises(BundleError):
        verify(_signed(payload), TRUSTED)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a.policy",
        "/etc/passwd",
        "policy.d/../../x.policy",
        "policy.d/sub/x.policy",
        "policy.d/.x.policy",
        "policy.d/X.policy",
        "policy.d/x.policy\n",
        "policy.d/x",
        "policy.d/bundle.keys",
        "bundle.keys",
        "sandboxes.d/Work.toml",
        "sandboxes.d/work.policy",
        "policy.d/work.toml",
        "POLICY.D/x.policy",
    ],
)
def test_only_rules_and_records_are_in_it(path):
    """No path leads anywhere else; not even the file of trusted keys."""
    payload = json.dumps({"name": "a", "version": 1, "files": {path: ""}}).encode()
    with pytest.raises(BundleError, match="is not a file of a bundle"):
        verify(_signed(payload), TRUSTED)
    with pytest.raises(BundleError):
        sign(KEY, "a", 1, {path: ""})


@pytest.mark.parametrize("more", [0, 1])
def test_number_of_files_and_version(more):
    """At the limit, and one beyond."""
    files = {f"policy.d/{n}.policy": "" for n in range(tool_limits.BUNDLE_FILES + more)}
    for args in ((1, files), (tool_limits.BUNDLE_VERSION + more, {})):
        if more:
            with pytest.raises(BundleError):
                sign(KEY, "a", *args)
        else:
            assert verify(sign(KEY, "a", *args), TRUSTED).version == args[0]


def test_size(monkeypatch):
    """At the limit, and one beyond; nothing is read of a larger one."""
    made = sign(KEY, "a", 1, FILES)
    monkeypatch.setattr(limits, "BUNDLE_BYTES", len(made))
    assert verify(sign(KEY, "a", 1, FILES), TRUSTED)
    monkeypatch.setattr(limits, "BUNDLE_BYTES", len(made) - 1)
    with pytest.raises(BundleError, match="bytes"):
        verify(made, TRUSTED)
    with pytest.raises(BundleError, match="bytes"):
        sign(KEY, "a", 1, FILES)


def test_a_version_cannot_go_backwards():
    """Nor be used twice with other contents."""
    old = verify(sign(KEY, "a", 6, FILES), TRUSTED)
    same = verify(sign(KEY, "a", 7, FILES), TRUSTED)
    other = verify(sign(KEY, "a", 7, {}), TRUSTED)
    assert newer(same, 6, old.digest)
    assert newer(same, 0, "")
    assert not newer(same, 7, same.digest)
    with pytest.raises(BundleError, match="older"):
        newer(old, 7, same.digest)
    with pytest.raises(BundleError, match="used only once"):
        newer(other, 7, same.digest)


def test_problems_are_those_of_its_own_files():
    """Rules and records, each with its place."""
    found = verify(
        sign(KEY, "a", 1, {"policy.d/1.policy": "x\n", "sandboxes.d/b.toml": "x\n"}),
        TRUSTED,
    )
    assert {problem.file for problem in found.problems()} == {"1.policy", "b.toml"}


def test_a_signer_does_not_take_the_place_of_anothers_bundle():
    """It would be of a higher version, and the other's could not come back."""
    other = bundles.written_key(OTHER.public_key())
    trusted = trusted_keys(f"acme {PUBLIC}\nteam {other}\n")
    assert verify(sign(KEY, "acme", 7, FILES), trusted).name == "acme"
    usurped = sign(OTHER, "acme", 8, {"policy.d/30-site.policy": "* * * * allow\n"})
    with pytest.raises(BundleError, match="'team', who may not sign 'acme'"):
        verify(usurped, trusted)


def test_trusted_keys():
    """Names and keys, comments; a line that is none is an error."""
    assert trusted_keys(f"# who\n\nacme {PUBLIC}\n") == {
        PUBLIC: Signer("acme", frozenset({"acme"}))
    }
    several = trusted_keys(f"acme {PUBLIC} lab acme\n")[PUBLIC]
    assert several.bundles == {"lab", "acme"}
    assert trusted_keys(f"acme {PUBLIC} *\n")[PUBLIC].bundles is None
    for text in ("acme\n", f"{PUBLIC}\n", "acme ed25519:x\n", f"a b {PUBLIC}\n"):
        with pytest.raises(BundleError, match="line 1"):
            trusted_keys(text)


@settings(max_examples=200)
@given(st.binary(max_size=400), st.integers(0, 400), st.booleans())
def test_any_bytes(data, at, inside):
    """Never another exception than BundleError."""
    made = sign(KEY, "acme", 7, FILES)
    content = made[:at] + data + made[at:] if inside else data
    try:
        assert verify(content, TRUSTED).files == FILES
        assert content == made
    except BundleError:
        pass
    with contextlib.suppress(BundleError):
        take_key(data.decode("latin-1"))
