"""Hosts of addresses: names, IPv4 and IPv6, one way to write each.

Accepted is only what RFC 3986 and the WHATWG URL standard read as the same
host.  Where a browser would repair something (percent-encoding, full-width
letters, 0x7f.1, 2130706433), the host is refused: the rule that allowed it and
the browser that opens it must not see two different ones.

``urls`` and ``mailto`` call this, in the worker, the viewer, the session child that
opens an address, and brokerctl.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

import idna

from broker.core.errors import RefusedError
from broker.core.limits import transfer as limits
from broker.core.transfer.lookalikes import imitates_latin, mixed_scripts

_ASCII_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_OCTET = r"(?:0|[1-9][0-9]{0,2})"
_DOTTED = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
# The last label of a name that browsers take for an IPv4 address (WHATWG URL,
# "ends in a number checker").
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BRACKETS = re.compile(r"\[([0-9A-Fa-f:.]+)\]")


@dataclass(frozen=True)
class HostName:
    """A host that passed.

    ``ascii``: as it is looked up (A-labels, or an address without brackets).
    ``shown``: the same with U-labels, equal to ``ascii`` if there are none.
    """

    ascii: str
    shown: str

    @property
    def authority(self) -> str:
        """The host as it is in an address."""
        return f"[{self.ascii}]" if ":" in self.ascii else self.ascii


def take_host(untrusted_host: str) -> HostName:
    """Return the host; or raise ``RefusedError`` with the reason."""
    if untrusted_host.startswith("["):
        return _ipv6(untrusted_host)
    # guard: encoded hosts
    if "%" in untrusted_host:
        raise RefusedError("the host is percent-encoded")
    lowered = "".join(map(_lower, untrusted_host)).removesuffix(".")
    if not lowered:
        raise RefusedError("there is no host")
    labels = lowered.split(".")
    if len(untrusted_host) > limits.URL_HOST_CHARS + 1:
        raise RefusedError("the host name is too long")
    # guard: empty labels
    if "" in labels:
        raise RefusedError("a label of the host is empty")
    if _NUMBER.fullmatch(labels[-1]):
        return _ipv4(untrusted_host)
    pairs = [_label(label) for label in labels]
    host = HostName(".".join(a for a, _ in pairs), ".".join(u for _, u in pairs))
    if len(host.ascii) > limits.URL_HOST_CHARS:
        raise RefusedError("the host name is too long")
    _refuse_imitation(host)
    return host


def _lower(char: str) -> str:
    """Lower a character's case, unless that makes ASCII of another character.

    The Kelvin sign is not 'k' here, although Unicode maps it to one.
    """
    lowered = char.lower()
    # guard: the Kelvin sign
    return char if lowered.isascii() and not char.isascii() else lowered


def _ipv4(untrusted_host: str) -> HostName:
    # guard: numbers as hosts
    if not _DOTTED.fullmatch(untrusted_host):
        raise RefusedError("the host ends with a number, but is not an IPv4 address")
    try:
        address = str(ipaddress.IPv4Address(untrusted_host))
    except ValueError:
        raise RefusedError("the host is not an IPv4 address") from None
    return HostName(address, address)


def _ipv6(untrusted_host: str) -> HostName:
    found = _BRACKETS.fullmatch(untrusted_host)
    try:
        # ipaddress alone would accept a zone ("fe80::1%eth0").
        address = ipaddress.IPv6Address(found[1] if found else "").compressed
    except ValueError:
        raise RefusedError("the host in brackets is not an IPv6 address") from None
    return HostName(address, address)


def _label(untrusted_label: str) -> tuple[str, str]:
    """Return a label as A-label and as U-label; both are the same for ASCII."""
    if untrusted_label.isascii() and not untrusted_label.startswith("xn--"):
        if _ASCII_LABEL.fullmatch(untrusted_label):
            return untrusted_label, untrusted_label
        raise RefusedError("a label of the host has an invalid character")
    # The tables of idna are walked for each character: bounded before that.
    if len(untrusted_label) > limits.URL_LABEL_CHARS:
        raise RefusedError("a label of the host is too long")
    try:
        shown = idna.ulabel(untrusted_label)
        coded = idna.alabel(shown).decode("ascii")
        # A name that UTS 46 would map (full width, circled, compatibility forms)
        # is refused: it looks like another name on purpose.
        same = untrusted_label in {shown, coded} and coded.startswith("xn--")
    except (idna.IDNAError, UnicodeError):
        same, shown, coded = False, "", ""
    if not same:
        raise RefusedError("a label of the host is not a valid international name")
    # guard: mixed scripts
    if mixed_scripts(shown):
        raise RefusedError("a label of the host mixes scripts")
    return coded, shown


def _refuse_imitation(host: HostName) -> None:
    """Refuse labels of foreign letters alone that read as Latin ones."""
    labels = host.shown.split(".")
    # guard: imitated Latin
    if any(imitates_latin(label, labels[-1]) for label in labels):
        raise RefusedError("a label of the host has letters that look like Latin ones")
