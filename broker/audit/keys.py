"""The key that signs the log, and its evolution: each key certifies the next.

The file ``audit.key`` beside the log holds the one private key of now.  When
the key evolves, the old one signs a checkpoint that names the new one, and is
erased.  Who takes today's key can therefore sign what comes, but cannot sign
another version of what was sealed before: that needs a key that is gone.

Erasing means: overwritten in place and flushed, then given back to the file
system.  A file system that copies on write, a flash disk's own spare blocks,
a snapshot or a backup may still have it (docs/audit.md).
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.audit.note import origin_of, public_key
from broker.core.errors import IntegrityError, SetupError, UpstreamError

_HEAD = "vitrail audit key 1"
_SEED_BYTES = 32
_MOST_BYTES = 1024


@dataclass(frozen=True)
class SigningKey:
    """A log's private key, the ``index``-th since its first one."""

    index: int
    origin: str
    private: Ed25519PrivateKey = field(repr=False)
    public: bytes
    seed: bytes = field(repr=False)

    @classmethod
    def first(cls) -> SigningKey:
        """Make a log's first key, which gives the log its name."""
        made = cls.from_seed(0, "", secrets.token_bytes(_SEED_BYTES))
        return cls(0, origin_of(made.public), made.private, made.public, made.seed)

    @classmethod
    def from_seed(cls, index: int, origin: str, seed: bytes) -> SigningKey:
        """The key of this seed."""
        private = Ed25519PrivateKey.from_private_bytes(seed)
        return cls(index, origin, private, public_key(private), seed)

    def next(self) -> SigningKey:
        """Make the key after this one; nothing of this one is in it."""
        seed = secrets.token_bytes(_SEED_BYTES)
        return self.from_seed(self.index + 1, self.origin, seed)

    def text(self) -> str:
        """What the file holds."""
        coded = base64.b64encode(self.seed).decode()
        return f"{_HEAD}\norigin {self.origin}\nindex {self.index}\nseed {coded}\n"


_FILE = re.compile(
    rf"{_HEAD}\norigin (\S+)\nindex ([0-9]{{1,12}})\nseed ([A-Za-z0-9+/]{{43}}=)\n"
)


def _parse(text: str, where: str) -> SigningKey:
    match = _FILE.fullmatch(text)
    if match is None:
        raise IntegrityError(
            "the audit log's key file is not one that a broker wrote",
            where=where,
            hint="'brokerctl audit verify' tells how the log is without it",
        )
    return SigningKey.from_seed(int(match[2]), match[1], base64.b64decode(match[3]))


class KeyFile:
    """``audit.key`` and, while the key changes, ``audit.key.next``."""

    def __init__(self, log: Path) -> None:
        self.path = log.with_suffix(".key")
        self._next = log.with_suffix(".key.next")

    def load(self) -> SigningKey | None:
        """The key of now, None when there is none.

        Raises IntegrityError when the file is not one of ours, SetupError when
        it cannot be read.
        """
        text = _read(self.path)
        return None if text is None else _parse(text, str(self.path))

    def staged(self) -> SigningKey | None:
        """A next key that was prepared and not adopted: a crash in between.

        None as well when it came to nothing: whoever died between making the
        file and writing it, or between erasing and removing it, leaves it empty.
        """
        text = (_read(self._next) or "").strip("\0")
        return _parse(text, str(self._next)) if text else None

    def stage(self, key: SigningKey) -> None:
        """Put a next key on the disk, not yet in force.  Raises UpstreamError."""
        try:
            self.discard()
            _write(self._next, key.text())
        except OSError as error:
            raise UpstreamError(
                f"the audit log's key cannot be written: {error}",
                hint=f"make room on the disk of {self._next}",
            ) from error

    def keep(self, key: SigningKey) -> None:
        """Adopt the staged key if it is the one in force, as it should have been.

        It is still staged when an adoption failed; it must not be overwritten.
        """
        staged = self.staged()
        if staged is not None and staged.public == key.public:
            self.adopt()

    def adopt(self) -> None:
        """Erase the key before, and make the staged one that of now.

        In this order: after a crash in between, the staged one is still there.
        """
        _erase(self.path)
        self._next.rename(self.path)
        _flush_directory(self.path.parent)

    def discard(self) -> None:
        """Erase a staged key that came to nothing."""
        _erase(self._next)
        with contextlib.suppress(FileNotFoundError):
            self._next.unlink()
            _flush_directory(self._next.parent)

    def any(self) -> list[SigningKey]:
        """What keys there are, in force or not, for whoever only compares.

        Raises IntegrityError when there is a file, and no key in any.
        """
        staged = self.staged()
        try:
            now = self.load()
        except IntegrityError:
            if staged is None:
                raise
            now = None  # erased, in the middle of a change
        return [key for key in (now, staged) if key is not None]


def _erase(path: Path) -> None:
    try:
        old = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        os.pwrite(old, b"\0" * os.fstat(old).st_size, 0)
        os.fdatasync(old)
    finally:
        os.close(old)


def _read(path: Path) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SetupError(
            f"the audit log's key cannot be read: {error.strerror}", where=str(path)
        ) from error
    with os.fdopen(fd, "rb") as file:
        return file.read(_MOST_BYTES).decode("ascii", "replace")


def _write(path: Path, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    try:
        os.fchmod(fd, 0o600)
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    _flush_directory(path.parent)


def _flush_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
