"""Bundles: rules and records of a machine that is managed from elsewhere.

One file of text.  Its first lines say who signed it, the rest is signed byte
for byte:

    vitrail-bundle 1
    key ed25519:BASE64
    signature BASE64

    {"name": "acme", "version": 42, "files": {"policy.d/30-a.policy": "…", …}}

Nothing of the payload is looked at before the signature holds, by a key that
this machine trusts.  A bundle has a name and a version; a bundle applied under
a name is only replaced by a higher version, or by the one before where a signed
index returns to it (``bundle_index``).

``"keys"`` (may be left out) are the only keys that sign this name from then on: so a
key is replaced, and a lost one revoked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
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
from policy.records.loader import is_name
from policy.records.patterns import NAME
from policy.rules.rulefiles import FOLDER as RULES
from policy.tools import limits as tool_limits
from policy.tools.files_in_memory import parse_record_set, rules_of_map
from policy.tools.record_files import is_policy_path

_FIRST = "vitrail-bundle 1"
_KEYS = 16
"""Keys that a bundle may name: some people, their spare ones, an index's."""
_KEY = re.compile(r"ed25519:([A-Za-z0-9+/]{43}=)")
_SIGNATURE = re.compile(r"[A-Za-z0-9+/]{86}==")


class BundleError(ValueError):
    """Not a bundle, or not one to be used; the text says why."""


# A bundle is self-contained. Rules in a bundle cannot include, and its records cannot
# inherit, files outside it; otherwise its signature would cover half of its meaning.
# Its version is kept per name beside the files that it was applied to, so a user with
# write permission there may also go back; the version protects against old bundles that
# another party replays. A bundle does not expire: a machine that receives no new one
# keeps its last one, as with the last good set. An index may, because it is signed
# often; the applied bundles stay then, and `fetch` fails and warns.
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
    keys: tuple[str, ...] = ()
    """Which keys sign this name from now on; ``index KEY`` signs indexes only."""

    def folder(self, name: str) -> dict[str, str]:
        """Return the files of one directory in a bundle, by base name."""
        return {
            path.partition("/")[2]: text
            for path, text in self.files.items()
            if path.partition("/")[0] == name
        }

    def problems(self) -> list[Problem]:
        """Return the problems of a bundle's rules and records, taken alone."""
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
    reason = "not a public key; expected 'ed25519:' and 44 characters"
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
    key: Ed25519PrivateKey,
    name: str,
    version: int,
    files: Mapping[str, str],
    keys: Sequence[str] = (),
) -> bytes:
    """Build and sign the bundle of these files; raises BundleError."""
    data: dict[str, object] = {"name": name, "version": version}
    if keys:
        data["keys"] = list(keys)
    data["files"] = dict(sorted(files.items()))
    payload = json.dumps(data, ensure_ascii=False, indent=1).encode()
    _taken(payload, "")
    return seal(key, _FIRST, payload)


def seal(key: Ed25519PrivateKey, first: str, payload: bytes) -> bytes:
    """Sign a payload; ``first`` is the first line.  Raises BundleError."""
    public = written_key(key.public_key())
    signature = base64.b64encode(key.sign(_context(first) + payload)).decode("ascii")
    made = f"{first}\nkey {public}\nsignature {signature}\n\n".encode() + payload
    if len(made) > limits.BUNDLE_BYTES:
        raise BundleError(f"more than {limits.BUNDLE_BYTES} bytes")
    return made


def _context(first: str) -> bytes:
    """The prefix of the signed bytes, so that no other signature of this key fits."""
    return first.replace("-", " ").encode() + b"\0"


@dataclass(frozen=True)
class Signer:
    """The owner of a key, and the bundles that it may sign."""

    name: str
    bundles: frozenset[str] | None
    """By their names; None: of any name."""
    not_for: frozenset[str] = frozenset()
    """Names of which another key signs by now."""

    def check(self, name: str, *others: str) -> None:
        """Raise BundleError for a name that a signer may not sign.

        ``others`` are names for which it may be trusted instead.
        """
        wanted = {name, *others} - self.not_for
        if not wanted or not (self.bundles is None or self.bundles & wanted):
            raise BundleError(
                f"it is signed by '{self.name}', who may not sign '{name}'"
            )


def verify(content: bytes, trusted: Mapping[str, Signer]) -> Bundle:
    """Verify a bundle's signature and that the key may sign its name; return it.

    A name decides which bundle a new one replaces, so without that a signer could
    put its own in the place of another's, which then comes back no more: the
    version counts by name.  Raises BundleError.
    """
    key, payload = opened(content, _FIRST, trusted)
    found = _taken(payload, key)
    # guard: a bundle's name is its signer's
    trusted[key].check(found.name)
    return found


def opened(
    content: bytes, first: str, trusted: Mapping[str, Signer]
) -> tuple[str, bytes]:
    """Verify a signed file; return the key and the payload.  Raises BundleError."""
    if len(content) > limits.BUNDLE_BYTES:
        raise BundleError(f"more than {limits.BUNDLE_BYTES} bytes")
    head, empty, payload = content.partition(b"\n\n")
    lines = head.decode("ascii", "replace").split("\n")
    if not empty or len(lines) != 3 or lines[0] != first:
        raise BundleError(f"missing '{first}', key or signature line")
    key, signature = (line.partition(" ") for line in lines[1:])
    if (key[0], signature[0]) != ("key", "signature"):
        raise BundleError(f"missing '{first}', key or signature line")
    if key[2] not in trusted:
        take_key(key[2])
        raise BundleError(f"it is signed by {key[2]}, which is not trusted")
    if not _SIGNATURE.fullmatch(signature[2]):
        raise BundleError("the signature is malformed")
    try:
        take_key(key[2]).verify(
            base64.b64decode(signature[2], validate=True), _context(first) + payload
        )
    except (InvalidSignature, binascii.Error):
        raise BundleError(
            "the signature does not match: the content was changed"
        ) from None
    return key[2], payload


def trusted_after(
    trusted: Mapping[str, Signer], name: str, keys: Sequence[str]
) -> dict[str, Signer]:
    """Return the trusted keys where a bundle of ``name`` has named its keys.

    Of that name, only they sign; of other names nothing changes.
    """
    signers: dict[str, Signer] = {}
    for key, signer in trusted.items():
        # guard: a key that a bundle has replaced signs its name no more
        if signer.bundles is None:
            no_more = signer.not_for | {name, index_of(name)}
            signers[key] = Signer(signer.name, None, no_more)
        else:
            signers[key] = Signer(signer.name, signer.bundles - {name, index_of(name)})
    for text in keys:
        kind, _, key = text.rpartition(" ")
        before = signers.get(key, Signer(f"a key of '{name}'", frozenset()))
        more = frozenset({index_of(name) if kind else name})
        if before.bundles is None:
            # guard: a key for the index alone signs no bundle
            again = {index_of(name)} if kind else {name, index_of(name)}
            signers[key] = Signer(before.name, None, before.not_for - again)
        else:
            signers[key] = Signer(before.name, before.bundles | more)
    return signers


def index_of(name: str) -> str:
    """The name by which a key is trusted for a bundle's index alone."""
    return f"{name}/index"


def _taken(payload: bytes, key: str) -> Bundle:
    """Parse a bundle's payload and check every part; raises BundleError."""
    data = as_object(payload)
    if data.keys() - {"keys"} != {"name", "version", "files"}:
        raise BundleError("the signed data must have name, version and files")
    name, files = take_name(data["name"]), data["files"]
    version = check_number(data["version"], "version")
    keys = _keys(data["keys"]) if "keys" in data else ()
    if not isinstance(files, dict) or not all(
        isinstance(text, str) for text in files.values()
    ):
        raise BundleError("'files' must map paths to text")
    try:
        "".join(files.values()).encode()
    except UnicodeEncodeError as error:
        raise BundleError("a file is not valid Unicode text") from error
    if len(files) > tool_limits.BUNDLE_FILES:
        raise BundleError(f"more than {tool_limits.BUNDLE_FILES} files")
    for path in files:
        if not is_policy_path(path):
            raise BundleError(
                f"'{path[:100]}' is not a file of a bundle: {RULES}/NAME.policy, "
                f"{RULES}/NAME.policytest or {RECORDS}/NAME.toml"
            )
    return Bundle(name, version, files, hashlib.sha256(payload).hexdigest(), key, keys)


def _keys(keys: object) -> tuple[str, ...]:
    """Check a bundle's list of public keys; raises BundleError."""
    if not isinstance(keys, list) or not all(isinstance(one, str) for one in keys):
        raise BundleError("'keys' must be a list of public keys")
    if not 0 < len(keys) <= _KEYS:
        raise BundleError(f"'keys' must have 1 to {_KEYS} public keys")
    for one in keys:
        take_key(one.removeprefix("index "))
    if all(one.startswith("index ") for one in keys):
        raise BundleError("'keys' must have a key that may sign bundles")
    return tuple(keys)


def as_object(payload: bytes) -> dict[str, object]:
    """Decode signed JSON to an object without repeated keys.  Raises BundleError."""
    try:
        data = json.loads(payload, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"the signed data is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise BundleError("the signed data is not an object")
    return data


def take_name(name: object) -> str:
    """Return a bundle's name; raises BundleError."""
    if not isinstance(name, str) or not is_name(name):
        raise BundleError(f"a bundle's name must have {NAME.words}")
    return name


def check_number(value: object, what: str) -> int:
    """Return a version or a serial number; raises BundleError."""
    if not isinstance(value, int) or isinstance(value, bool):
        value = 0
    if not 1 <= value <= tool_limits.BUNDLE_VERSION:
        raise BundleError(
            f"a {what} must be a whole number from 1 to {tool_limits.BUNDLE_VERSION}"
        )
    return value


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A repeated key could be read in two ways."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("duplicate key")
    return made


def trusted_keys(text: str) -> dict[str, Signer]:
    """Parse a file of trusted keys: the keys, and whose they are.

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
            raise BundleError(f"line {number}: expected 'NAME ed25519:… [BUNDLE…]'")
        try:
            take_key(words[1])
        except BundleError as error:
            raise BundleError(f"line {number}: {error}") from None
        bundles = frozenset(words[2:] or words[:1])
        found[words[1]] = Signer(words[0], None if "*" in bundles else bundles)
    return found


def newer(
    bundle: Bundle, version: int, digest: str, *, back_to: tuple[int, str] = (0, "")
) -> bool:
    """Return whether a bundle replaces the applied one; False: it is that one.

    ``back_to`` is an older one (version, digest) that may come back.
    Raises BundleError for another older one, or another of the same version.
    """
    if bundle.version > version:
        return True
    if bundle.version == version and bundle.digest == digest:
        return False
    # guard: only the bundle before comes back
    if (bundle.version, bundle.digest) == back_to:
        return True
    if bundle.version == version:
        raise BundleError(
            f"another bundle with version {version} is already applied, and each version "
            "can be used only once"
        )
    raise BundleError(
        f"version {bundle.version} is older than the applied version {version}"
    )
