"""Indexes: which bundle each ring of machines is to have, and from when on.

Signed as a bundle is (``bundle``), by a key that signs that bundle or by a key that is
trusted for ``NAME/index`` alone:

    vitrail-index 1
    key ed25519:BASE64
    signature BASE64

    {"name": "acme", "serial": 7, "expires": 1790000000,
     "rings": {"canary": {"version": 43, "digest": "…", "file": "site-43.bundle"},
               "all": {"version": 42, "digest": "…", "file": "site-42.bundle",
                       "not_before": 1780000000}}}

An index is only replaced by one of a higher serial number.  It may return a machine to
the bundle that it had directly before, and no further: its key may be on a server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from policy.tools import limits as tool_limits
from policy.tools.bundles.bundle import (
    Bundle,
    BundleError,
    Signer,
    as_object,
    check_number,
    index_of,
    opened,
    seal,
    take_name,
)

FIRST = "vitrail-index 1"
_RING = re.compile(r"[a-z][a-z0-9-]{0,30}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}", re.ASCII)


@dataclass(frozen=True)
class RingEntry:
    """The bundle of one ring."""

    version: int
    digest: str
    """SHA-256 of the bundle's signed bytes, hex."""
    file: str
    """Its name in the index's own directory."""
    not_before: int = 0
    """Seconds since 1970, by the machine's clock; 0: at once."""


# Canaries return by a signature. A machine could return by itself when its denials
# jump. Then a sandbox that a new rule restricts would only have to ask often enough to
# get the old rules back. So machines are compared where the index is signed, each
# counts once, and the return is a new index.
@dataclass(frozen=True)
class RolloutIndex:
    """The signed content.  ``expires`` in seconds since 1970, 0: never."""

    name: str
    serial: int
    rings: Mapping[str, RingEntry]
    expires: int = 0

    def ring(self, name: str, now: float) -> RingEntry:
        """Return a ring's entry; raises BundleError if expired or unknown."""
        # guard: an index that someone holds back ends
        if self.expires and now >= self.expires:
            raise BundleError(
                f"the index of '{self.name}' has expired; a newer index is being withheld, or was not signed"
            )
        if name not in self.rings:
            raise BundleError(
                f"the index has no ring '{name}'; it has {', '.join(sorted(self.rings))}"
            )
        return self.rings[name]


def is_index(content: bytes) -> bool:
    """Return whether these bytes may be an index, and no bundle."""
    return content.startswith(f"{FIRST}\n".encode())


def entry_of(bundle: Bundle, file: str, not_before: int = 0) -> RingEntry:
    """Build the entry of a ring for a bundle."""
    return RingEntry(bundle.version, bundle.digest, file, not_before)


def sign_index(key: Ed25519PrivateKey, index: RolloutIndex) -> bytes:
    """Sign an index of rings with a key.  Raises BundleError."""
    rings = {name: asdict(entry) for name, entry in sorted(index.rings.items())}
    data = {"name": index.name, "serial": index.serial, "expires": index.expires}
    payload = json.dumps({**data, "rings": rings}, indent=1).encode()
    read_index(payload)
    return seal(key, FIRST, payload)


def verify_index(content: bytes, trusted: Mapping[str, Signer]) -> RolloutIndex:
    """Verify an index by these keys and parse it; raises BundleError."""
    key, payload = opened(content, FIRST, trusted)
    found = read_index(payload)
    # guard: an index is signed for its own bundle
    trusted[key].check(found.name, index_of(found.name))
    return found


def read_index(payload: bytes) -> RolloutIndex:
    """Parse an index's payload and check all parts; raises BundleError."""
    data = as_object(payload)
    if data.keys() != {"name", "serial", "expires", "rings"}:
        raise BundleError("an index must have name, serial, expires and rings")
    rings = data["rings"]
    if not isinstance(rings, dict) or not 0 < len(rings) <= tool_limits.BUNDLE_RINGS:
        raise BundleError(f"'rings' must have 1 to {tool_limits.BUNDLE_RINGS} rings")
    found: dict[str, RingEntry] = {}
    for name, entry in rings.items():
        if not _RING.fullmatch(name):
            raise BundleError(f"'{name[:60]}' is not the name of a ring")
        found[name] = _entry(entry)
    serial = check_number(data["serial"], "serial number")
    return RolloutIndex(
        take_name(data["name"]), serial, found, _moment(data["expires"])
    )


def _entry(data: object) -> RingEntry:
    """Parse one ring's entry; raises BundleError."""
    if not isinstance(data, dict) or data.keys() - {"not_before"} != {
        *("version", "digest", "file")
    }:
        raise BundleError(
            "a ring must have version, digest and file, and may have not_before"
        )
    digest, file = data["digest"], data["file"]
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise BundleError("a digest must be 64 hex digits")
    if not isinstance(file, str) or not _FILE.fullmatch(file):
        raise BundleError("a ring's file must be a name in the index's directory")
    version = check_number(data["version"], "version")
    return RingEntry(version, digest, file, _moment(data.get("not_before", 0)))


def _moment(value: object) -> int:
    """Seconds since 1970; 0 means none."""
    return 0 if value == 0 and value is not False else check_number(value, "time")
