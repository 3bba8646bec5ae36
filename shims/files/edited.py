"""A file that is edited in another sandbox, and replaced by the result.

The program in the sandbox that asked runs it, or the jailed one of a session child for
a file of the user's.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from shims.files.incoming_files import (
    NO_TMPFILE,
    STAGING,
    link_open_file,
    mark,
    require_room,
)
from shims.files.protocol import (
    COPY_BYTES,
    TransferError,
    check_path,
    read_message,
    size_of,
)
from shims.files.sending import open_directory

if TYPE_CHECKING:
    from typing import BinaryIO, Tuple

EDIT_FREE_BYTES = 1 << 20


def hash_of(fd: int) -> bytes:
    """Compute the SHA-256 of a file's content."""
    import hashlib

    digest = hashlib.sha256()
    os.lseek(fd, 0, os.SEEK_SET)
    while True:
        data = os.read(fd, COPY_BYTES)
        if not data:
            return digest.digest()
        digest.update(data)


class Edited:
    """A file that is edited elsewhere.

    The edited file replaces it in one step, if its content differs; the previous
    version is kept beside it.  Where the file was changed here meanwhile, what comes
    back is kept beside it instead.
    """

    keep_free = EDIT_FREE_BYTES

    def __init__(self, path: str) -> None:
        """Open a file's directory and hash the file.  Raises OSError, TransferError."""
        self.folder = open_directory(os.path.dirname(path))
        """The descriptor of its directory."""
        self._name = os.path.basename(path)
        self.before = self._content()
        """Its SHA-256."""

    def _content(self) -> bytes:
        """Return the SHA-256 of the file now.  Raises TransferError."""
        # Without waiting: a pipe may have taken its place.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self._name, flags, dir_fd=self.folder)
        try:
            # guard: the editor's result is a regular file
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise TransferError(f"{self._name} is not a regular file")
            return hash_of(fd)
        finally:
            os.close(fd)

    def replace(self, source: BinaryIO, origin: str) -> str:
        """Read the file that comes back; returns what became of it, for the user."""
        check_path([origin])
        new = STAGING + os.urandom(8).hex()
        try:
            fd, named = self._new_file(new)
            try:
                read_single(source, fd, self.keep_free)
                mark(fd, origin)
                os.fsync(fd)
                return self._put(fd, new, named=named)
            finally:
                os.close(fd)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(new, dir_fd=self.folder)
        except OSError as error:
            raise TransferError(f"cannot store it: {error.strerror}") from error

    def _new_file(self, name: str) -> Tuple[int, bool]:
        """Open a new file without a name; return it and whether it has one.

        A killed process leaves nothing of a nameless file.  ``name`` is used where the
        file system knows none.
        """
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            # guard: an edited file has no name before it is whole
            return os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=self.folder), False
        except OSError as error:
            if error.errno not in NO_TMPFILE:
                raise
        flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        return os.open(name, flags, 0o600, dir_fd=self.folder), True

    def _put(self, fd: int, new: str, *, named: bool) -> str:
        """Put the edited content in the file's place; return what was done."""
        # guard: only what has changed comes back
        if hash_of(fd) == self.before:
            return f"{self._name} is unchanged"
        try:
            now = self._content()
        except (OSError, TransferError):
            now = b""
        if not named:
            link_open_file(fd, new, self.folder)
        # guard: a file that was changed here meanwhile
        if now != self.before:
            kept = self._beside(new, "{} (edited)", "{} (edited {})")
            return f"{self._name} was also changed here: the edited version is {kept}"
        facts = os.stat(self._name, dir_fd=self.folder, follow_symlinks=False)
        os.fchmod(fd, stat.S_IMODE(facts.st_mode) & 0o666)
        kept = self._beside(self._name, "{}~", "{}.~{}~")
        os.rename(new, self._name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        os.fsync(self.folder)
        return f"{self._name} was replaced; the previous version is {kept}"

    def _beside(self, name: str, first: str, more: str) -> str:
        """Link a file under an unused name; return the name.

        Raises TransferError.
        """
        for number in range(1, 1000):
            kept = (first if number == 1 else more).format(self._name, number)
            try:
                os.link(
                    name,
                    kept,
                    src_dir_fd=self.folder,
                    dst_dir_fd=self.folder,
                    follow_symlinks=False,
                )
            except FileExistsError:
                continue
            return kept
        raise TransferError(f"{self._name} already has 1000 versions")


class Saved(Edited):
    """A file that programs of a sandbox save, where the user has chosen."""

    def __init__(self, path: str, expected: str, keep_free: int) -> None:
        """Open the directory of a file to be saved; raises TransferError.

        ``keep_free``: bytes that stay free on its file system.
        """
        self.folder = open_directory(os.path.dirname(path))
        self._name = os.path.basename(path)
        self.keep_free = keep_free
        self.kept = b""
        """The SHA-256 of the kept file."""
        self._expected = expected

    def _is_expected(self, facts: os.stat_result) -> bool:
        if "," in self._expected:
            return state_of(facts) == self._expected
        return self._content().hex() == self._expected

    def _put(self, fd: int, new: str, *, named: bool) -> str:  # type: ignore[explicit-override]
        """Put the saved content in the file's place; return what was done."""
        self.kept = hash_of(fd)
        if not named:
            link_open_file(fd, new, self.folder)
        try:
            facts = os.stat(self._name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            # It is a new file, or was removed since; not over a file that comes now.
            os.link(new, self._name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        else:
            # guard: only a file is replaced by what is saved
            if not stat.S_ISREG(facts.st_mode):
                raise TransferError(f"{self._name} is not a regular file")
            # guard: what is saved does not replace what was changed here
            if not self._is_expected(facts):
                raise TransferError(f"{self._name} was changed here in the meantime")
            os.fchmod(fd, stat.S_IMODE(facts.st_mode) & 0o666)
            os.rename(new, self._name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        os.fsync(self.folder)
        return f"{self._name} was saved"


def state_of(facts: os.stat_result) -> str:
    """Return which file it is and when it was last changed, as one word."""
    numbers = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return ",".join(map(str, (*numbers, facts.st_ctime_ns)))


def read_single(source: BinaryIO, fd: int, keep_free: int) -> None:
    """Read one file's entry and the end into an open file.  Raises TransferError."""
    entry = read_message(source)
    if entry["type"] != "file":
        raise TransferError("the editing sandbox did not return exactly one file")
    left = size_of(entry)
    # guard: room for what comes back
    require_room(fd, left, keep_free)
    while left:
        if left % (64 << 20) < COPY_BYTES:
            require_room(fd, left, keep_free)  # others write, too
        data = source.read(min(left, COPY_BYTES))
        if not data:
            raise TransferError("the transfer was interrupted")
        left -= len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    if read_message(source)["type"] != "end":
        raise TransferError("the editing sandbox did not return exactly one file")
