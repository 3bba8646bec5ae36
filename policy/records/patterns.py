"""Names and colours of records, which several tables have.

The authority, session children and brokerctl run this when they read records.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from policy import limits
from policy.records.field_types import Pattern, SocketPath, Words

PACKAGE = Pattern(
    f"a Debian package's name of 2 to {limits.PACKAGE_CHARS} characters",
    # apt-get(8) would remove the package whose name is followed by a dash.
    "[a-z0-9][a-z0-9+.-]*[a-z0-9+.]",
    limits.PACKAGE_CHARS,
)
NAME = Pattern(
    "1 to 31 characters of a-z, 0-9 and '-', beginning with a-z", "[a-z][a-z0-9-]*", 31
)
"""Sandboxes, tags and images; the same rule as ``broker.core.names``."""

LIBVIRT_DOMAIN = Pattern(
    "the name or UUID of a libvirt domain",
    r"[A-Za-z0-9_.+:@-][A-Za-z0-9_.+:@ -]*",
    100,
)
"""libvirt itself forbids only '/' and line ends in names."""

MACHINE_NAME = Pattern(
    "the name of a machine of systemd-machined, which is a host name",
    r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?",
    64,
)

LOCALE = Pattern(
    '"desktop", or a locale such as "de_DE.UTF-8"', r"[A-Za-z][A-Za-z0-9_.@-]*", 40
)

MIME = Pattern(
    "a MIME type such as text/plain or image/*",
    r"[a-z0-9][a-z0-9.+-]{0,62}/(?:\*|[a-z0-9][a-z0-9.+-]{0,62})",
    127,
)
"""A type of data, without parameters, or all of a kind."""

PALETTE: Mapping[str, str] = MappingProxyType(
    {
        "orange": "#e69f00",
        "sky": "#56b4e9",
        "green": "#009e73",
        "yellow": "#f0e442",
        "blue": "#0072b2",
        "red": "#d55e00",
        "purple": "#cc79a7",
        "grey": "#555555",
    }
)
"""Named colours that stay apart for people who confuse red and green or blue
and yellow: the eight of Okabe and Ito (2008), a dark grey in place of black.  A test
simulates the three kinds of colour blindness and measures the distances."""

PATHS = Words(
    SocketPath(limits.BIND_PATH_BYTES),
    f"an array of up to {limits.BINDS} absolute paths",
    0,
    limits.BINDS,
    unique=True,
)
