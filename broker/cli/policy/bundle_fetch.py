"""``brokerctl policy bundle fetch``: take a bundle from a web server, by a timer."""

from __future__ import annotations

import http.client
import json
import random
import ssl
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from broker.cli import render
from broker.cli.policy.bundle_files import STATE, content_of
from broker.cli.policy.install import put
from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from policy import limits

_SECONDS = 30.0
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_OLD_SECONDS = 14 * 86400
"""After so long without an answer the machine's rules may be those of long ago."""


def fetch(base: Path, url: str, *, ca: str, jitter: int) -> bytes | None:
    """Return the bundle at ``url``; None: it is the one that was fetched last.

    Waits up to ``jitter`` seconds first, drawn by lot, so that a fleet does not ask
    within one second.  What comes is proved by nothing yet.  Raises RefusedError,
    UpstreamError.
    """
    time.sleep(random.uniform(0, jitter))  # noqa: S311 -- no secret
    tag, answered = _seen(base, url)
    if answered and time.time() - answered > _OLD_SECONDS:
        days = int((time.time() - answered) / 86400)
        render.note(
            f"warning: the last answer of {printable(url, 200)} is {days} days old"
        )
    status, fresh_tag, content = _get(url, tag, ca)
    if status == http.client.NOT_MODIFIED:
        _keep(base, url, tag)
        return None
    if status != http.client.OK:
        raise UpstreamError(
            f"{printable(url, 200)} answers {status}",
            hint="the rules that were applied last stay in force",
        )
    # Kept by 'remember' when it is applied: one that is refused is asked for again.
    _fresh[url] = fresh_tag
    return content


_fresh: dict[str, str] = {}


def remember(base: Path, url: str) -> None:
    """The bundle that was fetched is in force."""
    _keep(base, url, _fresh.get(url, ""))


def written(content: bytes) -> Path:
    """A file with the content, for who reads bundles from files; the caller removes it."""
    with tempfile.NamedTemporaryFile(prefix="vitrail-bundle-", delete=False) as file:
        file.write(content)
    return Path(file.name)


def _get(url: str, tag: str, ca: str) -> tuple[int, str, bytes]:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    # guard: a bundle comes over TLS, so nobody on the way holds it back unseen
    if parts.scheme != "https" and host not in _LOOPBACK:
        raise RefusedError("a bundle is fetched by https:// only", hint=url[:200])
    try:
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=ca or None)
            connection = http.client.HTTPSConnection(
                host, port, timeout=_SECONDS, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
        try:
            path = parts.path or "/"
            headers = {"If-None-Match": tag} if tag else {}
            connection.request("GET", f"{path}?{parts.query}" if parts.query else path, headers=headers)  # fmt: skip
            response = connection.getresponse()
            # guard: a server does not fill the memory
            content = response.read(limits.BUNDLE_BYTES + 1)
            fresh = (response.getheader("ETag") or "")[:256]
            return response.status, fresh if fresh.isprintable() else "", content
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UpstreamError(
            f"{printable(url, 200)} cannot be reached: {printable(str(error), 200)}",
            hint="the rules that were applied last stay in force",
        ) from error


def _file(base: Path) -> Path:
    return base / STATE / "fetched.state"


def _seen(base: Path, url: str) -> tuple[str, float]:
    """The tag of the last answer, and when that was; "" and 0: there was none."""
    if not _file(base).exists():
        return "", 0.0
    try:
        data = json.loads(content_of(_file(base), 4096, check_owner=True))
        if data["url"] != url:
            return "", 0.0
        return str(data["tag"]), float(data["answered"])
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedError(
            f"{_file(base)} is not what was fetched last: {error}", hint="remove it"
        ) from error


def _keep(base: Path, url: str, tag: str) -> None:
    text = json.dumps({"url": url, "tag": tag, "answered": time.time()})
    put(_file(base), text.encode())
