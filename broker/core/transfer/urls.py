"""Addresses that a sandbox wants to have opened: one strict parser.

It accepts what RFC 3986 and the WHATWG URL standard read in the same way, and
refuses what one of them would repair.  The answer is an address in ASCII that is
written in one way only; that, never the text from the sandbox, is judged by the
rules, shown to the user and handed to a program.

Which schemes may be opened is the caller's (a rule's) choice; ``NEVER`` lists
those that no rule can open, because they run code, read local files or name a
transport rather than a document.

The worker parses what a program asks for; the viewer parses it again before the
decision, the session child before it starts a program, and ``brokerctl open --check``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from types import MappingProxyType

from broker.core.errors import RefusedError
from broker.core.escape import hidden, printable
from broker.core.limits import transfer as limits
from broker.core.transfer.hosts import HostName, take_host
from broker.core.transfer.mailto import take_mailto

DEFAULT_SCHEMES = frozenset({"https", "http", "mailto"})
"""Schemes that may be opened where a rule has no ``scheme=``."""

NEVER = frozenset(
    {
        "about",
        "admin",
        "afc",
        "afp",
        "autolaunch",
        "blob",
        "chrome",
        "chrome-extension",
        "command",
        "data",
        "dav",
        "davs",
        "dbus",
        "feed",
        "file",
        "file+vscode",
        "filesystem",
        "help",
        "intent",
        "itms-services",
        "jar",
        "javascript",
        "jnlp",
        "launchd",
        "ldap",
        "ldaps",
        "livescript",
        "mhtml",
        "mk",
        "mocha",
        "moz-extension",
        "network",
        "nfs",
        "nonce-tcp",
        "recent",
        "res",
        "resource",
        "search-ms",
        "sftp",
        "shell",
        "smb",
        "ssh",
        "svn+ssh",
        "tcp",
        "telnet",
        "trash",
        "unix",
        "unixexec",
        "vbscript",
        "view-source",
        "wyciwyg",
    }
)
"""Schemes that no rule opens; so are those that begin with ``ms-``."""

PORTS = MappingProxyType({"http": 80, "https": 443, "ftp": 21})
"""Hierarchical schemes and their default ports; other schemes are opaque, except
where ``//`` follows."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,31}):")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ENCODED_CONTROL = re.compile(r"%(?:[01][0-9A-Fa-f]|7[Ff])")
# Never in a path or query by RFC 3986, written by browsers all the same; the rest of
# the list (backslash, quote, angle brackets) is refused.
_ESCAPED = MappingProxyType({ord(char): f"%{ord(char):02X}" for char in "[]{}|^`"})
_REFUSED = frozenset('\\"<>')


@dataclass(frozen=True)
class Url:
    """An address that passed.

    ``canonical``: in ASCII, the only form that is forwarded.  ``scheme``: lower case.
    ``host``: in ASCII without brackets and port, as rules match it; empty for
    ``mailto`` and other addresses without one.  ``port``: None where it is the
    scheme's own.  ``shown_host``: the host with its international letters.
    """

    canonical: str
    scheme: str
    host: str = ""
    port: int | None = None
    shown_host: str = ""

    @property
    def shown(self) -> str:
        """The address for the user: ASCII, then the host's own letters if any."""
        if self.shown_host == self.host:
            return self.canonical
        return f"{self.canonical} ({printable(self.shown_host, 256)})"


def take_url(
    untrusted_text: str, schemes: Collection[str] | None = DEFAULT_SCHEMES
) -> Url:
    """Return the address; or raise ``RefusedError`` with the reason.

    ``schemes``: those that may be opened; None for all but ``NEVER``, where a
    rule is to decide afterwards.
    """
    # guard: length of an address
    if len(untrusted_text) > limits.URL_CHARS:
        raise RefusedError(f"the address is longer than {limits.URL_CHARS} characters")
    _refuse_characters(untrusted_text)
    found = _SCHEME.match(untrusted_text)
    if found is None:
        raise RefusedError(
            "the address has no scheme",
            hint="write a scheme, as in https://example.org/",
        )
    scheme = take_scheme(found[1], schemes)
    url = _take_rest(scheme, untrusted_text[found.end() :])
    # guard: length of an encoded address
    if len(url.canonical) > limits.URL_CHARS:
        raise RefusedError(
            f"the encoded address is longer than {limits.URL_CHARS} characters"
        )
    return url


def take_scheme(untrusted_scheme: str, schemes: Collection[str] | None) -> str:
    """Return the scheme in lower case; or raise ``RefusedError``."""
    scheme = untrusted_scheme.lower()
    # guard: schemes that are never opened
    if scheme in NEVER or scheme.startswith("ms-"):
        raise RefusedError(f"addresses with the scheme {scheme}: are never opened")
    # guard: schemes of a rule
    if schemes is not None and scheme not in schemes:
        raise RefusedError(f"the scheme {scheme}: is not allowed")
    return scheme


def _hides(char: str) -> bool:
    return hidden(char) or unicodedata.category(char) == "Zs"


def _refuse_characters(untrusted_text: str) -> None:
    """Raise RefusedError for characters that no address may have."""
    for place, char in enumerate(untrusted_text):
        # guard: backslash and quotes in an address
        # guard: hidden characters of an address
        if char in _REFUSED or _hides(char):
            raise RefusedError(
                f"character {place + 1} of the address is U+{ord(char):04X}, which is not allowed"
            )
    # guard: percent signs that encode nothing
    if found := _PERCENT.search(untrusted_text):
        raise RefusedError(
            f"character {found.start() + 1} of the address is a percent sign without two hexadecimal digits"
        )


def _take_rest(scheme: str, untrusted_rest: str) -> Url:
    """Parse an address after its scheme.  Raises RefusedError."""
    if scheme == "mailto":
        return Url(f"mailto:{take_mailto(untrusted_rest)}", scheme)
    if untrusted_rest.startswith("//"):
        return _hierarchical(scheme, untrusted_rest[2:])
    # guard: slashes after the scheme
    if scheme in PORTS:
        raise RefusedError(f"{scheme}: is not followed by //")
    return _opaque(scheme, untrusted_rest)


def _opaque(scheme: str, untrusted_rest: str) -> Url:
    """Parse an address as ``tel:`` or ``matrix:``, which only scheme= admits."""
    # guard: opaque addresses that are paths or options
    if not untrusted_rest or untrusted_rest.startswith(("/", "-")):
        raise RefusedError(f"no valid address follows {scheme}:")
    # guard: encoded control characters of opaque addresses
    if _ENCODED_CONTROL.search(untrusted_rest):
        raise RefusedError("the address has an encoded control character")
    return Url(f"{scheme}:{_encode(untrusted_rest)}", scheme)


def _hierarchical(scheme: str, untrusted_rest: str) -> Url:
    """Parse an address with host, path, query and fragment."""
    cut = re.search(r"[/?#]", untrusted_rest)
    end = cut.start() if cut else len(untrusted_rest)
    host, port = _authority(scheme, untrusted_rest[:end])
    path, query, fragment = _split(untrusted_rest[end:])
    # guard: encoded zero in a query
    # guard: encoded control characters
    if _ENCODED_CONTROL.search(path) or "%00" in query + fragment:
        raise RefusedError("the address has an encoded control character")
    place = host.authority if port is None else f"{host.authority}:{port}"
    # A second '#' is data of the fragment, as in links to rooms of Matrix.
    fragment = fragment[:1] + fragment[1:].replace("#", "%23")
    # Browsers encode it in the query of https alone (URL standard, special-query set).
    query = query.replace("'", "%27")
    rest = _encode(_without_dots(path) + query + fragment)
    return Url(f"{scheme}://{place}{rest}", scheme, host.ascii, port, host.shown)


def _authority(scheme: str, untrusted_authority: str) -> tuple[HostName, int | None]:
    """Parse host and port of an address.  Raises RefusedError."""
    # guard: user names
    if "@" in untrusted_authority:
        raise RefusedError("the address has a user name before the host")
    name, colon, number = untrusted_authority.rpartition(":")
    if not colon or number.endswith("]"):
        name, colon, number = untrusted_authority, "", ""
    # guard: range of a port
    if colon and not (_PORT.fullmatch(number) and int(number) < 1 << 16):
        raise RefusedError("the port is not a number from 1 to 65535")
    port = int(number) if colon else None
    return take_host(name), None if port == PORTS.get(scheme) else port


def _split(rest: str) -> tuple[str, str, str]:
    """Return path, query and fragment, the latter two with their first character."""
    before, number_sign, fragment = rest.partition("#")
    path, question, query = before.partition("?")
    return path, question + query, number_sign + fragment


def _without_dots(path: str) -> str:
    """Remove dot segments, plain and encoded (RFC 3986 5.2.4; WHATWG URL 4.4)."""
    done: list[str] = []
    segments = path.split("/")[1:] or [""]
    for segment in segments:
        plain = re.sub("%2e", ".", segment, flags=re.IGNORECASE)
        if plain == "..":
            del done[-1:]
        elif plain != ".":
            done.append(segment)
    if re.sub("%2e", ".", segments[-1], flags=re.IGNORECASE) in {".", ".."}:
        done.append("")
    return "/" + "/".join(done)


def _encode(text: str) -> str:
    """Write non-ASCII characters as percent-encoded UTF-8 (RFC 3987, 3.1)."""
    escaped = text.translate(_ESCAPED)
    return "".join(
        char
        if char.isascii()
        else "".join(f"%{byte:02X}" for byte in char.encode("utf-8"))
        for char in escaped
    )
