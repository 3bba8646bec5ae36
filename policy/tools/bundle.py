"""Bundles: rules and records of a machine that is managed from elsewhere.

One file of text.  Its first lines say who signed it, the rest is signed byte
for byte:

    vitrail-bundle 1
    key ed25519:BASE64
    signature BASE64

    {"name": "acme", "version": 42, "files": {"policy.d/30-a.policy": "…", …}}

Nothing of the payload is looked at before the signature holds, by a key that
this machine trusts.  A bundle has a name and a version; a bundle applied under
a name is only ever replaced by a higher version.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from policy import limits
from policy.errors import Problem
from policy.records.loader import FOLDER as RECORDS
from policy.records.loader import parse_record_set
from policy.records.patterns import NAME
from policy.rules.rulefiles import FOLDER as RULES
from policy.rules.ruleset import rules_of_map

_FIRST = "vitrail-bundle 1"
_CONTEXT = b"vitrail bundle 1\0"
"""In front of the signed bytes, so that no other signature of this key fits."""
_KEY = re.compile(r"ed25519:([A-Za-z0-9+/]{43}=)")
_SIGNATURE = re.compile(r"[A-Za-z0-9+/]{86}==")
_RULE_FILE = re.compile(
    rf"{RULES}/[0-9a-z_-][0-9a-z_.-]{{0,99}}\.(?:policy|policytest)"
)
_RECORD_FILE = re.compile(rf"{RECORDS}/[a-z][a-z0-9-]{{0,30}}\.toml")


class BundleError(ValueError):
    """Not a bundle, or not one to be used; the text says why."""


@dataclass(frozen=True)
class Bundle:
    """The signed content.  ``files``: ``policy.d/…`` or ``sandboxes.d/…`` to text.

    ``digest`` is the SHA-256, in hex, of the signed bytes; ``key`` who signed.
    """

    name: str
    version: int
    files: Mapping[str, str]
    digest: str
    key: str

    def folder(self, name: str) -> dict[str, str]:
        """The files of one directory, by base name."""
        return {
            path.partition("/")[2]: text
            for path, text in self.files.items()
            if path.partition("/")[0] == name
        }

    def problems(self) -> list[Problem]:
        """Problems of its own rules and records, taken alone."""
        rules = self.folder(RULES)
        return [
            *rules_of_map(
                {k: v for k, v in rules.items() if k.endswith(".policy")}
            ).problems,
            *parse_record_set(self.folder(RECORDS)).problems,
        ]


def written_key(key: Ed25519PublicKey) -> str:
    """Return a public key as people pass it on: ``ed25519:BASE64``."""
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return "ed25519:" + base64.b64encode(raw).decode("ascii")


def take_key(text: str) -> Ed25519PublicKey:
    """Return a public key; raises BundleError."""
    reason = "not a public key, which is ed25519: and 44 characters"
    found = _KEY.fullmatch(text.strip())
    if found is None:
        raise BundleError(reason)
    try:
        return Ed25519PublicKey.from_public_bytes(
            base64.b64decode(found[1], validate=True)
        )
    except (ValueError, binascii.Error) as error:
        raise BundleError(reason) from error


def sign(
    key: Ed25519PrivateKey, name: str, version: int, files: Mapping[str, str]
) -> bytes:
    """Return the bundle of these files; raises BundleError."""
    payload = json.dumps(
        {"name": name, "version": version, "files": dict(sorted(files.items()))},
        ensure_ascii=False,
        indent=1,
    ).encode()
    _taken(payload, "")
    public = written_key(key.public_key())
    signature = base64.b64encode(key.sign(_CONTEXT + payload)).decode("ascii")
    made = f"{_FIRST}\nkey {public}\nsignature {signature}\n\n".encode() + payload
    if len(made) > limits.BUNDLE_BYTES:
        raise BundleError(f"more than {limits.BUNDLE_BYTES} bytes")
    return made


@dataclass(frozen=True)
class Signer:
    """The owner of a key, and the bundles that it may sign."""

    name: str
    bundles: frozenset[str] | None
    """By their names; None: of any name."""

    def check(self, bundle: Bundle) -> None:
        """Raise BundleError for a bundle that is not its to sign."""
        if self.bundles is not None and bundle.name not in self.bundles:
            raise BundleError(
                f"signed by '{self.name}', who may not sign '{bundle.name}'"
            )


def verify(content: bytes, trusted: Mapping[str, Signer]) -> Bundle:
    """Return the content signed by one of these keys, in the key's own name.

    A name decides which bundle a new one replaces, so without that a signer could
    put its own in the place of another's, which then comes back no more: the
    version counts by name.  Raises BundleError.
    """
    if len(content) > limits.BUNDLE_BYTES:
        raise BundleError(f"more than {limits.BUNDLE_BYTES} bytes")
    head, empty, payload = content.partition(b"\n\n")
    lines = head.decode("ascii", "replace").split("\n")
    if not empty or len(lines) != 3 or lines[0] != _FIRST:
        raise BundleError(f"it does not begin with '{_FIRST}', a key and a signature")
    key, signature = (line.partition(" ") for line in lines[1:])
    if (key[0], signature[0]) != ("key", "signature"):
        raise BundleError(f"it does not begin with '{_FIRST}', a key and a signature")
    if key[2] not in trusted:
        take_key(key[2])
        raise BundleError(f"signed by {key[2]}, which is not trusted here")
    if not _SIGNATURE.fullmatch(signature[2]):
        raise BundleError("the signature is not one")
    try:
        take_key(key[2]).verify(
            base64.b64decode(signature[2], validate=True), _CONTEXT + payload
        )
    except (InvalidSignature, binascii.Error):
        raise BundleError("the signature does not fit: it was changed") from None
    found = _taken(payload, key[2])
    # guard: a bundle's name is its signer's
    trusted[key[2]].check(found)
    return found


def _taken(payload: bytes, key: str) -> Bundle:
    """The payload, every part of it checked; raises BundleError."""
    try:
        data = json.loads(payload, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"the signed data is not JSON: {error}") from error
    if not isinstance(data, dict) or data.keys() != {"name", "version", "files"}:
        raise BundleError("the signed data does not have name, version and files")
    name, version, files = data["name"], data["version"], data["files"]
    if not isinstance(name, str) or not _is_name(name):
        raise BundleError(f"a bundle's name has {NAME.words}")
    whole = isinstance(version, int) and not isinstance(version, bool)
    if not whole or not 1 <= version <= limits.BUNDLE_VERSION:
        raise BundleError(
            f"a version is a whole number from 1 to {limits.BUNDLE_VERSION}"
        )
    if not isinstance(files, dict) or not all(
        isinstance(text, str) for text in files.values()
    ):
        raise BundleError("'files' is a map of path to text")
    try:
        "".join(files.values()).encode()
    except UnicodeEncodeError as error:
        raise BundleError("a file is not text") from error
    if len(files) > limits.BUNDLE_FILES:
        raise BundleError(f"more than {limits.BUNDLE_FILES} files")
    for path in files:
        if not belongs(path):
            raise BundleError(
                f"'{path[:100]}' is not a file of a bundle: {RULES}/NAME.policy, "
                f"{RULES}/NAME.policytest or {RECORDS}/NAME.toml"
            )
    return Bundle(name, version, files, hashlib.sha256(payload).hexdigest(), key)


def belongs(path: str) -> bool:
    """Whether a file may be in a bundle, by its path below the configuration."""
    return bool(_RULE_FILE.fullmatch(path) or _RECORD_FILE.fullmatch(path))


def _is_name(name: str) -> bool:
    fits = len(name) <= NAME.max_length
    return fits and re.fullmatch(NAME.regex, name, re.ASCII) is not None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A repeated key could be read in two ways."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice")
    return made


def trusted_keys(text: str) -> dict[str, Signer]:
    """Return the keys of a file of trusted keys, and whose they are.

    A line is ``NAME ed25519:… [BUNDLE…]``: the bundles that it may sign, ``*`` for
    those of any name; without one, that which is called as the signer is.  '#'
    begins a comment.  Raises BundleError.
    """
    found: dict[str, Signer] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 2:
            raise BundleError(f"line {number}: not 'NAME ed25519:… [BUNDLE…]'")
        try:
            take_key(words[1])
        except BundleError as error:
            raise BundleError(f"line {number}: {error}") from None
        bundles = frozenset(words[2:] or words[:1])
        found[words[1]] = Signer(words[0], None if "*" in bundles else bundles)
    return found


def newer(bundle: Bundle, version: int, digest: str) -> bool:
    """Whether a bundle replaces the applied one; False: it is that one.

    Raises BundleError for one that is older, or another of the same version.
    """
    if bundle.version > version:
        return True
    if bundle.version == version and bundle.digest == digest:
        return False
    if bundle.version == version:
        raise BundleError(
            f"another bundle of version {version} was applied; a version is used once"
        )
    raise BundleError(
        f"version {bundle.version} is older than version {version}, which was applied"
    )
