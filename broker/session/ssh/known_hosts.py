"""The names of hosts by their keys, as the user's own ssh knows them.

Read from the user's files and the machine's, never from a sandbox (sshd(8),
SSH_KNOWN_HOSTS FILE FORMAT).  A host at another port than 22 is ``[name]:port``: it is
another server, with a key of its own.  A name that is hashed there is found only where somebody
already thinks of it: a rule's ``host=``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Iterator
from pathlib import Path

from broker.core.ssh_agent import plain_key
from policy.names import without_port

FILES = (Path("/etc/ssh/ssh_known_hosts"),)
_FILE_BYTES = 4 << 20
_HASHED = "|1|"


def names_of(key: bytes, candidates: Iterable[str], home: Path) -> list[str]:
    """Return the names of the host with this key, those of ``candidates`` first.

    Empty for a key that the user's ssh does not know, or has revoked.
    """
    # A host with a certificate has signed the session with the key in it.
    wanted = base64.b64encode(plain_key(key)).decode()
    found: dict[str, None] = {}
    tried = list(dict.fromkeys(candidates))
    for hosts, marker in _lines(wanted, home):
        if marker == "@revoked":
            return []
        if marker:
            continue  # of an authority that signs keys, which is no host's
        for name in hosts.split(","):
            if name.startswith(_HASHED):
                found.update((one, None) for one in tried if _is_hash_of(name, one))
            elif not name.startswith("!") and "*" not in name and "?" not in name:
                # guard: a host at another port is another host
                found[_plain_port(name).lower()] = None
    return sorted(found, key=lambda name: name not in tried)


def _lines(wanted: str, home: Path) -> Iterator[tuple[str, str]]:
    """Yield the hosts and the marker of each line with this key."""
    for path in (home / ".ssh/known_hosts", *FILES):
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                text = file.read(_FILE_BYTES)
        except OSError:
            continue  # there is none, or it is not the user's to read
        for line in text.splitlines():
            words = line.split()
            marker = words.pop(0) if words and words[0].startswith("@") else ""
            if len(words) > 2 and words[2] == wanted:
                yield words[0], marker


def _plain_port(name: str) -> str:
    """Return a name as ssh(1) writes it: with its port, ``[name]:port``, unless it is 22."""
    return without_port(name) if name.endswith("]:22") else name


def _is_hash_of(entry: str, name: str) -> bool:
    """Return whether a hashed entry of known_hosts is of this name."""
    salt, _, digest = entry.removeprefix(_HASHED).partition("|")
    try:
        made = hmac.new(base64.b64decode(salt), name.encode(), hashlib.sha1)
        return hmac.compare_digest(made.digest(), base64.b64decode(digest))
    except ValueError:
        return False
