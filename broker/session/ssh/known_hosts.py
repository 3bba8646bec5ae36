"""The names of hosts by their keys, as the user's own ssh knows them.

Read from the user's files and the machine's, never from a sandbox (sshd(8),
SSH_KNOWN_HOSTS FILE FORMAT).  A host at another port than 22 is ``[name]:port``: it is
another server, with a key of its own.  A name that is hashed there (as Debian's ssh does) is
found if somebody already thinks of it: a rule's ``host=``, the user's ssh_config(5), or
one of the usual services.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from broker.core.ssh_agent import plain_key
from broker.ipc.session.service_orders import KnownHost
from policy.names import without_port

FILES = (Path("/etc/ssh/ssh_known_hosts"),)
_FILE_BYTES = 4 << 20
_HASHED = "|1|"
_CONFIG_BYTES, _CONFIG_HOSTS, _CONFIG_PORTS = 1 << 18, 200, 8


_USUAL = (
    *("github.com", "gitlab.com", "bitbucket.org", "codeberg.org", "git.sr.ht"),
    *(
        "salsa.debian.org",
        "ssh.dev.azure.com",
        "aur.archlinux.org",
        "git.launchpad.net",
    ),
)
"""Hosts of many users, tried at hashed names."""
_CONFIG_HOST = re.compile(r"(?im)^[ \t]*host(?:name)?[ \t=]+(.*)$")
_CONFIG_PORT = re.compile(r"(?im)^[ \t]*port[ \t=]+([0-9]+)")


def names_of(key: bytes, candidates: Iterable[str], home: Path) -> tuple[str, ...]:
    """Return the names of ``known_host``."""
    return known_host(key, candidates, home).names


def known_host(key: bytes, candidates: Iterable[str], home: Path) -> KnownHost:
    """Return the names of the host with this key, those of ``candidates`` first.

    Nothing for a key that the user's ssh does not know, or has revoked.
    """
    # A host with a certificate has signed the session with the key in it.
    wanted = base64.b64encode(plain_key(key)).decode()
    found: dict[str, None] = {}
    first = tuple(candidates)
    tried = dict.fromkeys([*first, *_configured(home), *_USUAL])
    hashed = ""
    for hosts, marker, location in _lines(wanted, home):
        if marker == "@revoked":
            return KnownHost()
        if marker:
            continue  # of an authority that signs keys, which is no host's
        for name in hosts.split(","):
            if name.startswith(_HASHED):
                match = [one for one in tried if _is_hash_of(name, one)]
                found.update(dict.fromkeys(match))
                hashed = hashed or ("" if match else location)
            elif not name.startswith("!") and "*" not in name and "?" not in name:
                # guard: a host at another port is another host
                found[_plain_port(name).lower()] = None
    names = sorted(found, key=lambda name: name not in first)
    return KnownHost(tuple(names), hashed)


def _configured(home: Path) -> list[str]:
    """Return the hosts that the user's ssh_config(5) names, at each port that it names."""
    try:
        with (home / ".ssh/config").open(encoding="utf-8", errors="replace") as file:
            text = file.read(_CONFIG_BYTES)
    except OSError:
        return []  # there is none, or it is not the user's to read
    names = " ".join(_CONFIG_HOST.findall(text)).replace('"', " ").lower().split()
    plain = [name for name in names if not set(name) & set("*?!%")][:_CONFIG_HOSTS]
    ports = dict.fromkeys(_CONFIG_PORT.findall(text)[:_CONFIG_PORTS])
    return plain + [f"[{name}]:{port}" for port in ports for name in plain]


def _lines(wanted: str, home: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the hosts, the marker and the place of each line with this key."""
    for path in (home / ".ssh/known_hosts", *FILES):
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                text = file.read(_FILE_BYTES)
        except OSError:
            continue  # there is none, or it is not the user's to read
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            marker = words.pop(0) if words and words[0].startswith("@") else ""
            if len(words) > 2 and words[2] == wanted:
                name = path if path in FILES else f"~/{path.relative_to(home)}"
                yield words[0], marker, f"line {number} of {name}"


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
