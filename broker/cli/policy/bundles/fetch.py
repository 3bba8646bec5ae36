"""Bundles from a web server: the answer's tag, indexes, rings."""

from __future__ import annotations

import http.client
import json
import random
import ssl
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from broker.cli import render
from broker.cli.policy.bundles.files import (
    applied_in,
    content_of,
    one_at_a_time,
    trusted_by,
)
from broker.cli.policy.install import put
from broker.cli.run.connect import offline_paths
from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from policy import limits
from policy.rules.applied import FOLDER as STATE
from policy.tools.bundles.bundle import Bundle, BundleError, Signer, take_name, verify
from policy.tools.bundles.index import (
    FIRST,
    RingEntry,
    RolloutIndex,
    is_index,
    read_index,
    verify_index,
)

_SECONDS = 30.0
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_OLD_SECONDS = 14 * 86400
"""After so long without an answer the machine's rules may be those of long ago."""


@dataclass(frozen=True)
class BundleServer:
    """Where bundles come from, and what an answer from there must be signed by."""

    base: Path
    url: str
    ca: str
    trust: tuple[str, ...]


@dataclass(frozen=True)
class Fetched:
    """A bundle, or an index; ``tag`` is the answer's."""

    content: bytes
    tag: str


def fetch(server: BundleServer, jitter: int) -> Fetched | None:
    """Return the bundle or the index; None: it is the bundle that was fetched last.

    Waits up to ``jitter`` seconds first, drawn by lot, so that a fleet does not ask
    within one second.  What comes is not verified yet.  Raises RefusedError,
    UpstreamError.
    """
    base, url = server.base, server.url
    time.sleep(random.uniform(0, jitter))  # noqa: S311 -- no secret
    tag, answered, index = _seen(base, url)
    if answered and time.time() - answered > _OLD_SECONDS:
        days = int((time.time() - answered) / 86400)
        render.note(
            f"warning: the last answer of {printable(url, 200)} is {days} days old"
        )
    if index and not _kept_index(base, index):
        tag = ""  # the whole of it is needed again
    status, fresh_tag, content = _get(url, tag, server.ca)
    if status == http.client.NOT_MODIFIED:
        remember(server, tag, index)
        # The index is the same, and the time that it names may have come.
        return Fetched(_kept_index(base, index), tag) if index else None
    if status != http.client.OK:
        raise UpstreamError(
            f"{printable(url, 200)} answers {status}",
            hint="the rules that were applied last stay in force",
        )
    # Kept by 'remember' when it is applied: one that is refused is asked for again.
    return Fetched(content, fresh_tag)


def choose(
    server: BundleServer, fetched: Fetched, ring: str
) -> tuple[bytes, bool] | None:
    """Return the bundle that this ring is to have; None: it has it, or has to wait.

    True: the index returns to the bundle before.  Raises RefusedError, UpstreamError.
    """
    base = server.base
    if not is_index(fetched.content):
        # guard: a machine that follows an index takes no bundle in its place
        if _seen(base, server.url)[2]:
            raise RefusedError(
                f"{printable(server.url, 200)} was an index and is a bundle now",
                hint=f"where that is meant, remove {_file(base)}",
            )
        return fetched.content, False
    try:
        index = verify_index(fetched.content, trusted_for(server, back=False))
        with one_at_a_time(base / STATE):
            _keep_index(base, index, fetched.content)
        entry = index.ring(ring, time.time())
    except BundleError as error:
        raise RefusedError(
            f"{printable(server.url, 200)}: {printable(str(error), 300)}",
            hint="the rules that were applied last stay in force",
        ) from error
    remember(server, fetched.tag, index.name)
    state = applied_in(base, index.name)
    if (state.version, state.digest) == (entry.version, entry.digest):
        render.note(f"nothing new: version {entry.version} of '{index.name}'")
        return None
    # guard: a ring waits for its time
    if entry.not_before > time.time():
        begins = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(entry.not_before))
        render.note(f"version {entry.version} of '{index.name}' waits until {begins}")
        return None
    status, _, content = _get(urljoin(server.url, entry.file), "", server.ca)
    if status != http.client.OK:
        raise UpstreamError(
            f"{printable(entry.file, 200)} is not there: {status}",
            hint="the rules that were applied last stay in force",
        )
    back = (entry.version, entry.digest) == state.before
    _compare(server, content, index, entry, back=back)
    return content, back


def _compare(
    server: BundleServer,
    content: bytes,
    index: RolloutIndex,
    entry: RingEntry,
    *,
    back: bool,
) -> None:
    """Refuse a bundle that is not the one in the index."""
    try:
        found: Bundle = verify(content, trusted_for(server, back=back))
    except BundleError as error:
        raise RefusedError(
            f"{printable(entry.file, 200)}: {printable(str(error), 300)}",
            hint="the rules that were applied last stay in force",
        ) from error
    # guard: the bundle is the one that the index names
    if (found.name, found.version, found.digest) != (
        *(index.name, entry.version, entry.digest),
    ):
        raise RefusedError(
            f"{printable(entry.file, 200)} is not the bundle that the index names",
            hint="the server's files do not belong together: sign the index again",
        )


def trusted_for(server: BundleServer, *, back: bool) -> dict[str, Signer]:
    """The trusted keys.

    The bundle before may be of a key that has been replaced since: it was verified
    then, and is known by its digest.
    """
    # guard: a key that is revoked for one directory is revoked for all
    bases = () if back else {server.base, *offline_paths().config}
    return trusted_by(server.trust, *sorted(bases))


def _keep_index(base: Path, index: RolloutIndex, content: bytes) -> None:
    """Raise BundleError where it is older than the one that was followed last."""
    # guard: the number of an index is not a time to come
    if index.serial > time.time() + 86400:
        raise BundleError(
            f"the index with number {index.serial} is signed at a time to come, or this "
            "machine's clock is wrong"
        )
    kept = _kept_index(base, index.name)
    if kept:
        before = read_index(kept.partition(b"\n\n")[2])
        # guard: an older index is not followed
        if index.serial < before.serial or (
            index.serial == before.serial and index != before
        ):
            raise BundleError(
                f"the index with number {index.serial} is older than {before.serial}, "
                "which was followed, or another one of that number"
            )
    put(_index_file(base, index.name), content)


def _index_file(base: Path, name: str) -> Path:
    return base / STATE / f"{name}.index"


def _kept_index(base: Path, name: str) -> bytes:
    """The index that was followed last; b"" for none."""
    file = _index_file(base, name)
    if not file.exists():
        return b""
    content = content_of(file, limits.BUNDLE_BYTES, check_owner=True)
    if not content.startswith(FIRST.encode()):
        raise RefusedError(f"{file} is not an index", hint="remove it")
    return content


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
            # A server does not fill the memory.
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


def _seen(base: Path, url: str) -> tuple[str, float, str]:
    """The tag of the last answer, when that was, the index's name; "" and 0: none."""
    if not _file(base).exists():
        return "", 0.0, ""
    try:
        data = json.loads(content_of(_file(base), 4096, check_owner=True))
        if data["url"] != url:
            return "", 0.0, ""
        index = str(data.get("index", ""))
        if index:
            take_name(index)
        return str(data["tag"]), float(data["answered"]), index
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedError(
            f"{_file(base)} is not what was fetched last: {error}", hint="remove it"
        ) from error


def remember(server: BundleServer, tag: str, index: str = "") -> None:
    """Keep the answer's tag: its bundle is in force, or its index was followed."""
    state = {"url": server.url, "tag": tag, "answered": time.time(), "index": index}
    put(_file(server.base), json.dumps(state).encode())
