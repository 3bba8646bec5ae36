"""The files behind ``brokerctl policy bundle``: keys, trees, applied versions."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import random
import ssl
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.cli import render
from broker.cli.policy.install import open_lock, put
from broker.cli.policy.records import print_problems
from broker.cli.run.connect import offline_paths
from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from broker.core.files.replace_file import flush_folder
from policy import limits
from policy.errors import Problem
from policy.files import read_file
from policy.tools.bundle import (
    Bundle,
    BundleError,
    Signer,
    belongs,
    take_key,
    trusted_keys,
    verify,
    written_key,
)

KEYS = "bundle.keys"
"""The file of trusted keys, in each directory of the configuration."""
STATE = ".bundles"
"""The record of applied bundles, beside policy.d and sandboxes.d."""
BROKEN = 3
"""Exit code: rules or records have an error."""


# -- files -----------------------------------------------------------------------------


def tree(base: Path) -> Iterator[tuple[str, Path]]:
    """The files that belong into a bundle, with their path in it."""
    for path in sorted([*base.glob("policy.d/*"), *base.glob("sandboxes.d/*")]):
        name = f"{path.parent.name}/{path.name}"
        if path.name.startswith(".") or not path.is_file():
            continue
        if belongs(name):
            yield name, path
        else:
            render.note(f"left out: {printable(name, 200)}")


def text_of(file: Path) -> str:
    """Return a file's text; raises RefusedError."""
    content = content_of(file, limits.RULE_FILE_BYTES)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(f"{file} is not UTF-8", hint="save it as UTF-8") from error


def content_of(file: Path, most: int, *, check_owner: bool = False) -> bytes:
    """Return a file of at most ``most`` bytes; raises RefusedError."""
    content = read_file(file, check_owner=check_owner, most=most)
    if isinstance(content, Problem):
        raise RefusedError(
            content.first_line(), hint=content.hint or "look at the file"
        )
    return content


def private_key(file: Path) -> Ed25519PrivateKey:
    """Return the key in a file that only its owner may read; raises RefusedError."""
    info = file.stat()
    if info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise RefusedError(
            f"others may read the private key {file}", hint=f"chmod 600 {file}"
        )
    try:
        found = serialization.load_pem_private_key(content_of(file, 1 << 16), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RefusedError(
            f"{file} is not a private key in PEM: {error}",
            hint="'bundle key' makes one",
        ) from error
    if not isinstance(found, Ed25519PrivateKey):
        raise RefusedError(
            f"{file} is no Ed25519 key", hint="'brokerctl policy bundle key' makes one"
        )
    return found


def trusted_by(named: tuple[str, ...]) -> dict[str, Signer]:
    """Keys by their text, with whose each is; raises RefusedError.

    One that is named on the command line may sign what stands there beside it.
    """
    try:
        if named:
            given = Signer("--trust", None)
            return {written_key(take_key(text)): given for text in named}
        found: dict[str, Signer] = {}
        for folder in reversed(offline_paths().config):
            file = folder / KEYS
            if file.exists():
                found |= trusted_keys(
                    content_of(file, 1 << 20, check_owner=True).decode()
                )
    except (BundleError, UnicodeDecodeError) as error:
        raise RefusedError(
            f"the trusted keys cannot be read: {error}",
            hint=f"a line in {KEYS} is 'NAME ed25519:… [BUNDLE…]'",
        ) from error
    return found


def verified(file: Path, trusted: dict[str, Signer]) -> Bundle:
    """Return the bundle in a file, by a trusted key; raises RefusedError."""
    if not trusted:
        raise RefusedError(
            "no key is trusted here, so no bundle is",
            hint=f"a line 'NAME ed25519:…' in {offline_paths().config[0] / KEYS}, "
            "with the key that the signer gave you",
        )
    try:
        return verify(content_of(file, limits.BUNDLE_BYTES), trusted)
    except BundleError as error:
        raise RefusedError(
            f"{printable(str(file), 200)}: {printable(str(error), 300)}",
            hint="trusted are: "
            f"{', '.join(sorted({signer.name for signer in trusted.values()}))}; "
            f"a line in {KEYS} may name further bundles behind the key",
        ) from error


def refuse_problems(problems: list[Problem]) -> None:
    """Print problems and leave, if there are any."""
    if problems:
        print_problems(problems, stderr=True)
        sys.exit(BROKEN)


# -- applied bundles -------------------------------------------------------------------


@dataclass(frozen=True)
class Applied:
    """The last bundle of a name; ``files`` has the SHA-256 of each."""

    version: int
    digest: str
    files: dict[str, str]


def applied_in(base: Path, name: str) -> Applied:
    """Return the version last applied under a name; raises RefusedError."""
    file = base / STATE / f"{name}.json"
    if not file.exists():
        return Applied(0, "", {})
    content = content_of(file, limits.BUNDLE_BYTES, check_owner=True)
    try:
        data = json.loads(content)
        files = {path: str(value) for path, value in data["files"].items()}
        found = Applied(int(data["version"]), str(data["digest"]), files)
        wrong = [path for path in files if not belongs(path)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        # Without it an older bundle could be applied: nothing is guessed.
        raise RefusedError(
            f"{file} does not record the applied version: {error}",
            hint="look at it; removing it lets any version be applied",
        ) from error
    if wrong:
        raise RefusedError(f"{file} names a file that is none: {wrong[0][:100]}")
    return found


def keep_applied(base: Path, applied: Bundle) -> None:
    """Write the record of the applied version."""
    files = {path: _digest(text.encode()) for path, text in applied.files.items()}
    text = json.dumps(
        {
            "version": applied.version,
            "digest": applied.digest,
            "key": applied.key,
            "files": files,
        },
        indent=1,
    )
    put(base / STATE / f"{applied.name}.json", text.encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wanted_in(base: Path, wanted: Bundle, state: Applied) -> dict[str, bytes | None]:
    """The files that are not yet as the bundle wants them."""
    overlay: dict[str, bytes | None] = {}
    for path in sorted({*wanted.files, *state.files}):
        full = base / path
        text = wanted.files.get(path)
        new = None if text is None else text.encode()
        there = full.read_bytes() if full.is_file() else None
        if there != new:
            overlay[os.path.normpath(full)] = new
    return overlay


def refuse_changed(
    base: Path, wanted: Bundle, state: Applied, overlay: dict[str, bytes | None]
) -> None:
    """Refuse to overwrite or remove files that were changed here."""
    changed = []
    for path in sorted({*wanted.files, *state.files}):
        full = base / path
        if os.path.normpath(full) not in overlay or not full.exists():
            continue
        if _digest(full.read_bytes()) != state.files.get(path):
            changed.append(path)
    if changed:
        raise RefusedError(
            "changed or made here, not by the last bundle: " + ", ".join(changed),
            hint="move them away, or let --replace overwrite them",
        )


def install(overlay: dict[str, bytes | None]) -> None:
    """New files first, then removals: a rule is rather there twice than not."""
    for path, content in overlay.items():
        if content is not None:
            put(Path(path), content)
    for path, content in overlay.items():
        if content is None:
            Path(path).unlink(missing_ok=True)
            flush_folder(Path(path).parent)


@contextlib.contextmanager
def one_at_a_time(base: Path) -> Iterator[None]:
    """One at a time: two could both find themselves newer."""
    fd = open_lock(base / STATE / ".lock", doing="apply it")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


# -- from a web server ---------------------------------------------------------------

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
