"""``mailto:`` addresses (RFC 6068): recipients, and the headers that are harmless.

Mail programs take more from an address than a text to be edited: some attach
local files by ``attach=``, and hidden recipients or further headers can be put in
by encoded line breaks.  So both lists below are short, and line breaks may stand
in the body only.

``urls.take_url`` calls this in each process that handles a link: the worker that
receives it, the viewer that asks for the decision, the session child that opens it, and
``brokerctl open --check``.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.limits import transfer as limits
from broker.core.transfer.hosts import take_host

_RECIPIENTS = frozenset({"to", "cc"})
_TEXTS = frozenset({"subject", "body", "in-reply-to"})
# Dot-atom of RFC 5322 3.2.3 in ASCII, not beginning with what a command line
# takes for an option, and not as an authority (``mailto://``).  A quoted local part
# is refused.
_ATOM = r"[A-Za-z0-9!#$&'*+/=?^_`{|}~-]+"
# guard: recipients that are options
_LOCAL = re.compile(rf"(?![-/]){_ATOM}(?:\.{_ATOM})*")
_SAFE = "!$*'()+,-._~:@/?;"


def take_mailto(untrusted_rest: str) -> str:
    """Validate what follows ``mailto:``; return it in ASCII.  Raises RefusedError."""
    untrusted_to, question, untrusted_query = untrusted_rest.partition("?")
    if "#" in untrusted_rest:
        raise RefusedError("a mailto link cannot have a fragment")
    named = 0
    out = ""
    if untrusted_to:
        out, named = _recipients(untrusted_to)
    headers: list[str] = []
    seen: set[str] = set()
    for untrusted_header in untrusted_query.split("&") if question else ():
        header, more = _header(untrusted_header, seen)
        headers.append(header)
        named += more
    # guard: number of recipients
    if named > limits.MAIL_ADDRESSES:
        raise RefusedError(f"the mail has more than {limits.MAIL_ADDRESSES} recipients")
    if not out and not headers:
        raise RefusedError("the mailto link names no mail address")
    return f"{out}?{'&'.join(headers)}" if headers else out


def _header(untrusted_header: str, seen: set[str]) -> tuple[str, int]:
    """Validate a header; return it and how many recipients it names."""
    untrusted_name, _, untrusted_value = untrusted_header.partition("=")
    name = untrusted_name.lower()
    # guard: headers of a mailto link
    if name not in _RECIPIENTS | _TEXTS:
        raise RefusedError(f"a mailto link may not set {printable(name, 40)!r}")
    # guard: a header twice
    if name in seen:
        raise RefusedError(f"a mailto link sets {name!r} twice")
    seen.add(name)
    if name in _RECIPIENTS:
        value, named = _recipients(untrusted_value)
        return f"{name}={value}", named
    return f"{name}={quote(_text(name, untrusted_value), safe=_SAFE)}", 0


def _text(name: str, untrusted_value: str) -> str:
    """Decode and re-encode a header's text.  Raises RefusedError."""
    text = _decoded(untrusted_value)
    # guard: line breaks only in the body
    plain = text.replace("\r\n", "") if name == "body" else text
    # guard: control characters of a header
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in plain):
        raise RefusedError(f"the {name} of a mailto link has a control character")
    return text


def _recipients(untrusted_list: str) -> tuple[str, int]:
    parts = untrusted_list.split(",")
    return ",".join(_recipient(_decoded(part)) for part in parts), len(parts)


def _recipient(untrusted_address: str) -> str:
    """Validate a recipient's mail address.  Raises RefusedError."""
    local, at, domain = untrusted_address.rpartition("@")
    if not at or not _LOCAL.fullmatch(local) or len(local) > limits.URL_LABEL_CHARS + 1:
        raise RefusedError("a recipient is not a plain mail address")
    host = take_host(domain)
    # guard: machines as recipients
    if ":" in host.ascii or host.ascii[-1].isdigit():
        raise RefusedError("a recipient's domain is an IP address")
    return f"{quote(local, safe=_SAFE)}@{host.ascii}"


def _decoded(untrusted_text: str) -> str:
    """Decode percent-encoding as UTF-8.  Raises RefusedError."""
    try:
        return unquote_to_bytes(untrusted_text).decode("utf-8")
    except UnicodeDecodeError:
        raise RefusedError(
            "a mailto link has encoded bytes that are not UTF-8"
        ) from None
