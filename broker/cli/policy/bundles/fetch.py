"""Bundles from a web server: the answer's tag, indexes, rings."""

from __future__ import annotations

import http.client
import random
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import msgspec

from broker.cli import render
from broker.cli.policy.bundles.files import (
    applied_in,
    content_of,
    in_place,
    one_at_a_time,
    trusted_by,
    verified,
)
from broker.cli.policy.install import put
from broker.cli.run.connect import offline_paths
from broker.cli.texts import tr
from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from policy import limits
from policy.rules.applied import FOLDER as STATE
from policy.tools.bundles.bundle import BundleError, Signer, take_name
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
    """A server of bundles, and the keys that must have signed its answers."""

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
    within one second.  The content is not verified yet.  Raises RefusedError,
    UpstreamError.
    """
    base, url = server.base, server.url
    time.sleep(random.uniform(0, jitter))  # noqa: S311 -- no secret
    seen = _seen(server)
    tag, index = seen.tag, seen.index
    age = time.time() - seen.answered
    if seen.answered and age > _OLD_SECONDS:
        days = int(age / 86400)
        render.note(
            tr(
                "warning: the last answer from {url} is {days} days old",
                url=printable(url, 200),
                days=days,
            )
        )
    # guard: a bundle whose files are not in place is fetched again
    if not (_kept_index(base, index) if index else in_place(base)):
        tag = ""  # the whole of it is needed again
    status, fresh_tag, content = _get(url, tag, server.ca)
    if status == http.client.NOT_MODIFIED:
        remember(server, tag, index)
        # The index is the same, and the time that it names may have come.
        return Fetched(_kept_index(base, index), tag) if index else None
    if status != http.client.OK:
        raise UpstreamError(
            tr(
                "cannot fetch {url}: the server answered with status {status}",
                url=printable(url, 200),
                status=status,
            ),
            hint=_hint_for(status),
        )
    # Kept by 'remember' when it is applied: a refused bundle is asked for again.
    return Fetched(content, fresh_tag)


def _hint_for(status: int) -> str:
    """Return what to do after an HTTP status that is not OK."""
    what = "try again later" if status >= 500 else "check the address and the server"
    return tr("{what}; the last applied rules remain in force", what=what)


def choose(
    server: BundleServer, fetched: Fetched, ring: str
) -> tuple[bytes, bool] | None:
    """Return the bundle that this ring is to have; None: it has it, or has to wait.

    True: the index returns to the bundle before.  Raises RefusedError, UpstreamError.
    A newer index is kept in a file first, so that no older one is accepted later.
    """
    base = server.base
    if not is_index(fetched.content):
        # guard: a machine that follows an index takes no bundle in its place
        if _seen(server).index:
            raise RefusedError(
                tr(
                    "refused the bundle from {url}: the server sent an index before",
                    url=printable(server.url, 200),
                ),
                hint=tr("to accept the bundle, remove {base}", base=_file(base)),
            )
        return fetched.content, False
    try:
        index = verify_index(fetched.content, trusted_for(server, back=False))
        with one_at_a_time(base / STATE):
            _keep_index(base, index, fetched.content)
        entry = index.ring(ring, time.time())
    except BundleError as error:
        raise RefusedError(
            tr(
                "refused the index from {url}: {error}",
                url=printable(server.url, 200),
                error=printable(str(error), 300),
            ),
            hint=tr(
                "correct --ring or the trusted keys, or ask the signer for a new "
                "index; the last applied rules remain in force"
            ),
        ) from error
    remember(server, fetched.tag, index.name)
    state = applied_in(base, index.name)
    same = (state.version, state.digest) == (entry.version, entry.digest)
    # guard: a ring whose files are not in place is not up to date
    same = same and in_place(base, index.name)
    if same:
        render.note(
            tr(
                "already up to date: version {version} of '{name}'",
                version=entry.version,
                name=index.name,
            )
        )
        return None
    # guard: a ring waits for its time
    if entry.not_before > time.time():
        begins = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(entry.not_before))
        render.note(
            tr(
                "version {version} of '{name}' will be applied after {begins}",
                version=entry.version,
                name=index.name,
                begins=begins,
            )
        )
        return None
    status, _, content = _get(urljoin(server.url, entry.file), "", server.ca)
    if status != http.client.OK:
        raise UpstreamError(
            tr(
                "cannot fetch {file}, which the index at {url} names: the server "
                "answered with status {status}",
                file=printable(entry.file, 200),
                url=printable(server.url, 200),
                status=status,
            ),
            hint=_hint_for(status),
        )
    back = (entry.version, entry.digest) == state.before
    _verify_bundle(server, content, index, entry, back=back)
    return content, back


def _verify_bundle(
    server: BundleServer,
    content: bytes,
    index: RolloutIndex,
    entry: RingEntry,
    *,
    back: bool,
) -> None:
    """Verify a bundle's signature, and compare it with the index.

    Reads the trusted keys.  Raises RefusedError, also for another name, version or
    digest.
    """
    found = verified(content, entry.file, trusted_for(server, back=back))
    # guard: the bundle is the one that the index names
    if (found.name, found.version, found.digest) != (
        *(index.name, entry.version, entry.digest),
    ):
        raise RefusedError(
            tr(
                "refused {file}: it is not the version of '{name}' that the index "
                "at {url} names",
                file=printable(entry.file, 200),
                name=index.name,
                url=printable(server.url, 200),
            ),
            hint=tr("ask the signer to publish the index and its bundles again"),
        )


def trusted_for(server: BundleServer, *, back: bool) -> dict[str, Signer]:
    """Return the trusted keys for this server's bundles.

    The bundle before may be of a key that has been replaced since: it was verified
    then, and is known by its digest.
    """
    # guard: a key that is revoked for one directory is revoked for all
    bases = () if back else {server.base, *offline_paths().config}
    return trusted_by(server.trust, *sorted(bases))


def _keep_index(base: Path, index: RolloutIndex, content: bytes) -> None:
    """Store the index.  Raises BundleError if it is older than the stored one."""
    # guard: the number of an index is not a time to come
    if index.serial > time.time() + 86400:
        raise BundleError(
            tr(
                "the number of the index, {serial}, is a time more than a day "
                "after this machine's clock",
                serial=index.serial,
            )
        )
    kept = _kept_index(base, index.name)
    if kept:
        before = read_index(kept.partition(b"\n\n")[2])
        # guard: an older index is not followed
        if index.serial < before.serial or (
            index.serial == before.serial and index != before
        ):
            raise BundleError(
                tr(
                    "its number, {serial}, is lower than {serial2}, the number of the "
                    "last accepted index",
                    serial=index.serial,
                    serial2=before.serial,
                )
                if index.serial < before.serial
                else tr(
                    "it has the number {serial} of the last accepted index, but differs",
                    serial=index.serial,
                )
            )
    put(_index_file(base, index.name), content)


def _index_file(base: Path, name: str) -> Path:
    return base / STATE / f"{name}.index"


def _kept_index(base: Path, name: str) -> bytes:
    """Read the index that was followed last; b"" for none."""
    file = _index_file(base, name)
    if not file.exists():
        return b""
    content = content_of(file, limits.BUNDLE_BYTES, check_owner=True)
    if not content.startswith(FIRST.encode()):
        raise RefusedError(
            tr("{file} is not an index of bundles", file=file),
            hint=tr("remove the file, then run 'brokerctl policy bundle fetch' again"),
        )
    return content


def _get(url: str, tag: str, ca: str) -> tuple[int, str, bytes]:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    # guard: a bundle comes over TLS, so nobody on the way holds it back unseen
    if parts.scheme != "https" and host not in _LOOPBACK:
        raise RefusedError(
            tr(
                "refused to fetch a bundle from {url} without TLS",
                url=printable(url, 200),
            ),
            hint=tr("specify an address that begins with https://"),
        )
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
            tr(
                "cannot fetch {url}: {error}",
                url=printable(url, 200),
                error=printable(str(error), 200),
            ),
            hint=tr(
                "check the address and the network; the last applied rules remain "
                "in force"
            ),
        ) from error


def _file(base: Path) -> Path:
    return base / STATE / "fetched.state"


class _Seen(msgspec.Struct):
    url: str
    tag: str
    """Of the last answer."""
    answered: float
    index: str = ""
    """The name of the index that it was, if it was one."""


def _seen(server: BundleServer) -> _Seen:
    """Read the last answer of this address; without an address: none."""
    file = _file(server.base)
    if not file.exists():
        return _Seen("", "", 0.0)
    try:
        content = content_of(file, 4096, check_owner=True)
        seen = msgspec.json.decode(content, type=_Seen)
        if seen.index:
            take_name(seen.index)
    except (ValueError, RecursionError) as error:
        raise RefusedError(
            tr(
                "cannot read the last answer in {file}: {error}", file=file, error=error
            ),
            hint=tr("remove the file, then run 'brokerctl policy bundle fetch' again"),
        ) from error
    return seen if seen.url == server.url else _Seen("", "", 0.0)


def remember(server: BundleServer, tag: str, index: str = "") -> None:
    """Store the tag of an answer whose bundle or index was applied."""
    state = _Seen(server.url, tag, time.time(), index)
    put(_file(server.base), msgspec.json.encode(state))
