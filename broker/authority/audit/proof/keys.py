"""The key that signs the log, and its evolution: each key certifies the next.

The file ``audit.key`` beside the log holds the one current private key.  When
the key evolves, the old one signs a checkpoint that names the new one, and is
erased.  A thief of the current key can therefore sign later events, but cannot
sign another version of sealed events: that needs a key that was erased.

The last line of the file is the number of events at the newest commit.  Each
signature of the log's end stays valid for as long as its key is in force, so an
older copy of the log is signed as well as the log itself; this number, in the
one file that an attacker without the key does not write, distinguishes them.

Erasing means: overwritten in place and flushed, then given back to the file
system.  A file system that copies on write, a flash disk's own spare blocks,
a snapshot or a backup may still have it (docs/audit.md).
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from broker.authority.audit.proof.ed25519 import PrivateKey
from broker.authority.audit.proof.note import origin_of
from broker.core.errors import IntegrityError, SetupError, UpstreamError
from broker.core.files.replace_file import flush_folder

_HEAD = "vitrail audit key"
_MOST_BYTES = 1024
_NEWEST_DIGITS = 20


@dataclass(frozen=True)
class SigningKey:
    """A log's private key, the ``index``-th since its first one."""

    index: int
    origin: str
    private: PrivateKey = field(repr=False)
    public: bytes
    newest: int | None = None
    """Events at the newest commit under this key, as its file says; after a power
    cut it may be lower, never higher.  None: a file of version 1, which had no
    such line, and whose heads were signed as published checkpoints are."""

    @classmethod
    def first(cls, size: int) -> SigningKey:
        """Make the first key of a log of that size, which gives the log its name."""
        private = PrivateKey.generate()
        public = private.public()
        return cls(0, origin_of(public), private, public, size)

    def next(self, size: int) -> SigningKey:
        """Generate the next key, for a log of that size, independent of this one.

        Nothing of this one is in it.
        """
        private = PrivateKey.generate()
        return SigningKey(self.index + 1, self.origin, private, private.public(), size)

    def text(self) -> str:
        """Return the contents of the signing key's file."""
        coded = base64.b64encode(self.private.seed).decode()
        return (
            f"{_HEAD} 2\norigin {self.origin}\nindex {self.index}\nseed {coded}\n"
            f"newest {self.newest or 0:0{_NEWEST_DIGITS}}\n"
        )


_FILE = re.compile(
    rf"{_HEAD} (?:1|(?P<version_2>2))\n"
    r"origin (?P<origin>\S+)\n"
    r"index (?P<index>[0-9]{1,12})\n"
    r"seed (?P<seed>[A-Za-z0-9+/]{43}=)\n"
    rf"(?(version_2)newest (?P<newest>[0-9]{{{_NEWEST_DIGITS}}})\n)"
)


def _parse(text: str, where: str) -> SigningKey:
    match = _FILE.fullmatch(text)
    if match is None:
        raise IntegrityError(
            "the audit log's key file was not written by a broker",
            where=where,
            hint="to check the log without the key file, run 'brokerctl audit verify'",
        )
    newest = match["newest"]
    private = PrivateKey(base64.b64decode(match["seed"]))
    return SigningKey(
        int(match["index"]),
        match["origin"],
        private,
        private.public(),
        None if newest is None else int(newest),
    )


class KeyFile:
    """``audit.key`` and, while the key changes, ``audit.key.next``."""

    def __init__(self, log: Path) -> None:
        self.path = log.with_suffix(".key")
        self._next = log.with_suffix(".key.next")
        self._open: int | None = None
        """The file of the key in force, under whichever of the two names."""

    def load(self) -> SigningKey | None:
        """Read the key in force, None when none exists.

        Raises IntegrityError when the file is not ours, SetupError when
        it cannot be read.
        """
        text = _read(self.path)
        return None if text is None else _parse(text, str(self.path))

    def staged(self) -> SigningKey | None:
        """Return a next key that was staged and not adopted, as after a crash.

        None as well when the file is empty: a broker that died between making the
        file and writing it, or between erasing and removing it, leaves it so.
        """
        text = (_read(self._next) or "").strip("\0")
        return _parse(text, str(self._next)) if text else None

    def stage(self, key: SigningKey) -> None:
        """Write a next key to disk, not yet in force.  Raises UpstreamError."""
        try:
            self.discard()
            _write(self._next, key.text())
        except OSError as error:
            raise UpstreamError(
                f"cannot write the audit log's next key: {error.strerror}",
                hint=f"check whether the disk of {self._next} is full or read-only",
            ) from error

    def keep(self, key: SigningKey) -> None:
        """Adopt the staged key if it is the one in force, as after a failed adoption.

        It is still staged when an adoption failed; it must not be overwritten.
        """
        staged = self.staged()
        if staged is not None and staged.public == key.public:
            self.adopt()

    # Erased keys are overwritten; stronger erasure is not claimed. Deriving each key
    # from the one before by a one-way function would not need a certificate, but
    # Ed25519 keys that are derived cannot be verified from the first public key alone.
    # So each key is random and certified by the one before.
    def adopt(self) -> None:
        """Erase the previous key, and make the staged one the current one.

        In this order: after a crash in between, the staged one is still there.
        """
        self.follow(self._next)
        _erase(self.path)
        self._next.rename(self.path)
        flush_folder(self.path.parent)

    def follow(self, path: Path | None = None) -> None:
        """Write the newest size into this key's file from now on; default: ``path``.

        Raises OSError.
        """
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        opened = os.open(path or self.path, flags)
        self.close()
        self._open = opened

    def record_newest(self, size: int) -> None:
        """Write the size of the log after a commit into the key's file.

        In place, and only that line, inside one sector: nothing else of the
        file can be damaged by a power cut.  Not flushed, see ``flush``: a
        process that is killed loses nothing by that.  Raises OSError.
        """
        assert self._open is not None
        line = f"{size:0{_NEWEST_DIGITS}}\n".encode()
        os.pwrite(self._open, line, os.fstat(self._open).st_size - len(line))

    def flush(self) -> None:
        """Make the newest size durable.  Raises OSError."""
        if self._open is not None:
            os.fdatasync(self._open)

    def close(self) -> None:
        """Close the file of the key in force, if it is open."""
        if self._open is not None:
            os.close(self._open)
            self._open = None

    def discard(self) -> None:
        """Erase a staged key that came to nothing."""
        _erase(self._next)
        with contextlib.suppress(FileNotFoundError):
            self._next.unlink()
            flush_folder(self._next.parent)

    def any(self) -> list[SigningKey]:
        """Return all keys, in force or not, for callers that only compare.

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
    """Read a key's file; None if none exists.  Raises SetupError, IntegrityError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SetupError(
            f"cannot read the audit log's key: {error.strerror}",
            where=str(path),
            hint="check that you can read the file and that it is not a link",
        ) from error
    with os.fdopen(fd, "rb") as file:
        return file.read(_MOST_BYTES).decode("ascii", "replace")


def _write(path: Path, text: str) -> None:
    # Not beside it and renamed: the copy of a seed that a kill left under another name
    # would never be erased.  ``staged`` expects an empty file.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    try:
        os.fchmod(fd, 0o600)
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    flush_folder(path.parent)
