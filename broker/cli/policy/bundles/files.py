"""The files of ``brokerctl policy bundle``: keys, trees, applied versions."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.cli import render
from broker.cli.policy.install import open_lock, put
from broker.cli.policy.records import print_problems
from broker.cli.run.connect import offline_paths
from broker.cli.texts import tr
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.files.replace_file import flush_folder
from policy import limits
from policy.errors import Problem
from policy.files import read_file
from policy.rules.applied import FOLDER as STATE
from policy.tools.bundles.bundle import (
    Bundle,
    BundleError,
    Signer,
    take_key,
    trusted_after,
    trusted_keys,
    verify,
    written_key,
)
from policy.tools.record_files import is_policy_path

KEYS = "bundle.keys"
"""The file of trusted keys, in each directory of the configuration."""
BROKEN = 3
"""Exit code: rules or records have an error."""


# -- files -----------------------------------------------------------------------------


def tree(base: Path) -> Iterator[tuple[str, Path]]:
    """Yield a bundle's files with their paths in it; print which ones are skipped."""
    for path in sorted([*base.glob("policy.d/*"), *base.glob("sandboxes.d/*")]):
        name = f"{path.parent.name}/{path.name}"
        if path.name.startswith(".") or not path.is_file():
            continue
        if is_policy_path(name):
            yield name, path
        else:
            render.note(tr("skipped: {name}", name=printable(name, 200)))


def text_of(file: Path) -> str:
    """Read a file as UTF-8 text.  Raises RefusedError."""
    content = content_of(file, limits.RULE_FILE_BYTES)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(
            tr("{file} is not UTF-8", file=file), hint=tr("save the file as UTF-8")
        ) from error


def content_of(file: Path, most: int, *, check_owner: bool = False) -> bytes:
    """Return a file of at most ``most`` bytes; raises RefusedError."""
    content = read_file(file, check_owner=check_owner, most=most)
    if isinstance(content, Problem):
        raise RefusedError(
            content.first_line(),
            hint=content.hint or f"correct {file} and run the command again",
        )
    return content


def private_key(file: Path) -> Ed25519PrivateKey:
    """Return the key in a file that only its owner may read; raises RefusedError."""
    info = file.stat()
    if info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise RefusedError(
            tr(
                "refused to use the private key {file}: other users can access "
                "the file",
                file=file,
            ),
            hint=tr("run 'chmod 600 {file}'", file=file),
        )
    try:
        found = serialization.load_pem_private_key(content_of(file, 1 << 16), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RefusedError(
            tr(
                "cannot read {file}: not an unencrypted private key in PEM format",
                file=file,
            ),
            hint=tr("to create a key, run 'brokerctl policy bundle key FILE'"),
        ) from error
    if not isinstance(found, Ed25519PrivateKey):
        raise RefusedError(
            tr("cannot use {file}: its key is not an Ed25519 key", file=file),
            hint=tr("to create a key, run 'brokerctl policy bundle key FILE'"),
        )
    return found


def trusted_by(named: tuple[str, ...], *bases: Path) -> dict[str, Signer]:
    """Return keys by their text, with the signer of each; raises RefusedError.

    A key that is named on the command line may sign anything; of the others the newest
    bundle of each name that was applied in ``bases`` says which keys have replaced them.
    """
    found = _trusted(named)
    newest: dict[str, Applied] = {}
    for base in () if named else bases:
        for file in sorted((base / STATE).glob("[a-z]*.json")):
            applied = applied_in(base, file.stem)
            if applied.version >= newest.get(file.stem, applied).version:
                newest[file.stem] = applied
    for name, applied in newest.items():
        if applied.keys:
            found = trusted_after(found, name, applied.keys)
    return found


def _trusted(named: tuple[str, ...]) -> dict[str, Signer]:
    """Return the keys of ``--trust``, or those in the settings."""
    if named:
        given = Signer("--trust", None)
        try:
            return {written_key(take_key(text)): given for text in named}
        except BundleError as error:
            raise RefusedError(
                tr("cannot read a key of --trust: {error}", error=error),
                hint=tr(
                    "specify a key that 'brokerctl policy bundle key' printed: ed25519:…"
                ),
            ) from error
    found: dict[str, Signer] = {}
    for folder in reversed(offline_paths().config):
        file = folder / KEYS
        if file.exists():
            found |= _keys_in(file)
    return found


def _keys_in(file: Path) -> dict[str, Signer]:
    """Return the keys in a file of trusted keys.  Raises RefusedError."""
    try:
        return trusted_keys(content_of(file, 1 << 20, check_owner=True).decode())
    except (BundleError, UnicodeDecodeError) as error:
        raise RefusedError(
            tr(
                "cannot read the trusted keys in {file}: {error}",
                file=file,
                error=error,
            ),
            hint=tr("write each line of the file as 'NAME ed25519:… [BUNDLE…]'"),
        ) from error


def verified(content: bytes, where: str, trusted: dict[str, Signer]) -> Bundle:
    """Return the bundle of a file or an address, by a trusted key; raises RefusedError."""
    if not trusted:
        raise RefusedError(
            tr(
                "cannot verify {where}: this machine does not trust any key",
                where=printable(where, 200),
            ),
            hint=tr(
                "add a line 'NAME ed25519:…' to {config}, with the signer's public key",
                config=offline_paths().config[0] / KEYS,
            ),
        )
    try:
        return verify(content, trusted)
    except BundleError as error:
        raise RefusedError(
            tr(
                "refused the bundle {where}: {error}",
                where=printable(where, 200),
                error=printable(str(error), 300),
            ),
            hint=tr(
                "use a bundle from one of the trusted signers ({value}), or add "
                "the signer's key, or the bundle's name after the key, to {keys}",
                value=", ".join(sorted({signer.name for signer in trusted.values()})),
                keys=KEYS,
            ),
        ) from error


def refuse_problems(problems: list[Problem]) -> None:
    """Print problems and leave, if there are any."""
    if problems:
        print_problems(problems, stderr=True)
        sys.exit(BROKEN)


# -- applied bundles -------------------------------------------------------------------


class Applied(msgspec.Struct, frozen=True):
    """The last bundle of a name; ``files`` has the SHA-256 of each."""

    version: int
    digest: str
    files: dict[str, str]
    key: str = ""
    """That signed it."""
    keys: tuple[str, ...] = ()
    """The only ones that sign this name; (): as ``bundle.keys`` says."""
    before: tuple[int, str] = (0, "")
    """Version and digest of the bundle that was applied before it, if one may return."""


def applied_in(base: Path, name: str) -> Applied:
    """Return the version last applied under a name; raises RefusedError."""
    file = base / STATE / f"{name}.json"
    if not file.exists():
        return Applied(0, "", {})
    content = content_of(file, limits.BUNDLE_BYTES, check_owner=True)
    try:
        found = msgspec.json.decode(content, type=Applied)
        for one in found.keys:
            take_key(one.removeprefix("index "))
    except (ValueError, RecursionError) as error:
        # Without it an older bundle could be applied: nothing is guessed.
        raise RefusedError(
            tr(
                "cannot read the applied version in {file}: {error}",
                file=file,
                error=error,
            ),
            hint=tr(
                "restore the file from a backup; to accept any version, also an "
                "older one, remove the file"
            ),
        ) from error
    if wrong := [path for path in found.files if not is_policy_path(path)]:
        raise RefusedError(
            tr(
                "cannot use {file}: it lists '{wrong}', which no bundle may write",
                file=file,
                wrong=wrong[0][:100],
            ),
            hint=tr(
                "restore the file from a backup; to accept any version, also an "
                "older one, remove the file"
            ),
        )
    return found


def in_place(base: Path, name: str = "*") -> bool:
    """Return whether the files of applied bundles, or of this one, are unchanged."""
    for file in (base / STATE).glob(f"{name}.json"):
        for path, digest in applied_in(base, file.stem).files.items():
            full = base / path
            if not full.is_file() or _digest(full.read_bytes()) != digest:
                return False
    return True


def record_of(base: Path, applied: Bundle, state: Applied) -> dict[str, bytes]:
    """Return the record of the applied version, after ``state``, by its file.

    If an older one returns, the keys of the newer one still hold, and no older one
    comes after it.
    """
    back = applied.version < state.version
    before = (0, "") if back else (state.version, state.digest)
    # guard: a bundle that is put back in place is not the one before itself
    before = state.before if applied.version == state.version else before
    made = Applied(
        applied.version,
        applied.digest,
        {path: _digest(text.encode()) for path, text in applied.files.items()},
        key=applied.key,
        keys=state.keys if back or not applied.keys else applied.keys,
        before=before,
    )
    text = msgspec.json.format(msgspec.json.encode(made), indent=1)
    return {str(base / STATE / f"{applied.name}.json"): text}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wanted_in(base: Path, wanted: Bundle, state: Applied) -> dict[str, bytes | None]:
    """Return the files that are not yet as the bundle wants them."""
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
            tr(
                "cannot apply the bundle: it would replace or remove files that "
                "were changed or created on this machine: {changed}",
                changed=", ".join(changed),
            ),
            hint=tr("move the files to another place, or pass --replace"),
        )


def install(overlay: Mapping[str, bytes | None]) -> None:
    """Write all new files beside their places, rename them, then remove others.

    A mixture of two versions may permit what neither does.  Raises RefusedError, and
    changes no file if the disk is full.
    """
    new = {Path(path): text for path, text in overlay.items() if text is not None}
    old = [Path(path) for path, text in overlay.items() if text is None]
    try:
        # guard: a bundle is installed whole or not at all
        for path, content in new.items():
            put(_beside(path), content)
        with _uninterrupted():
            for path in new:
                _beside(path).replace(path)
            for path in old:
                path.unlink(missing_ok=True)
    finally:
        for path in new:
            _beside(path).unlink(missing_ok=True)
    for folder in {path.parent for path in (*new, *old)}:
        flush_folder(folder)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay signals that end a verb until after the block."""
    ending = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    # guard: no signal ends the installation of a bundle between two files
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def one_at_a_time(folder: Path, *, doing: str = "apply the bundle") -> Iterator[None]:
    """Hold the lock of the bundles during the block."""
    fd = open_lock(folder / ".lock", doing=doing)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
