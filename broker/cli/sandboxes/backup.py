"""A home in one encrypted file, and back.

``tar --sparse | gzip | gpg`` or ``age``: their formats are what people and other
programs can read in ten years.  The archive has three members:
``meta.json``, the record as ``record.toml``, and ``disk`` or ``tree``.

An imported archive is not trusted: only these members are taken, a disk must be a
regular file, and its content is the guest's to read.  gzip and tar read it in a jail.
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.files.replace_file import whole_file
from broker.helpers.process.spawn import DEVNULL, Child, spawn
from broker.helpers.process.tool_jail import ROOM, jail_words
from broker.host.homes.sparse import data_ranges
from broker.host.homes.store import DISK, TREE, HomeMeta

RECORD = "record.toml"
_META = "meta.json"
_PIECE = 1 << 18
_RECORD_BYTES = 65536
_ERROR_BYTES = 1000

Count = Callable[[int], None]
"""Called with the bytes that have passed."""


@dataclass(frozen=True)
class Lock:
    """How a backup is encrypted: to keys, or by a passphrase.

    Recipients that begin with ``age1`` or ``ssh-`` are age's, others gpg's.
    """

    recipients: tuple[str, ...] = ()
    passphrase: int | None = None
    """A descriptor of ``secret_of``."""
    identity: int | None = None
    """The same for age's key, to open a backup."""

    @property
    def secrets(self) -> tuple[int, ...]:
        """The descriptors that the program of ``close_words``/``open_words`` reads."""
        return tuple(fd for fd in (self.passphrase, self.identity) if fd is not None)

    def close_words(self) -> list[str]:
        """Return the command that reads the archive and writes the backup."""
        if self.recipients and all(r.startswith(_AGE) for r in self.recipients):
            to = [word for r in self.recipients for word in ("--recipient", r)]
            return ["age", "--encrypt", *to]
        if self.recipients:
            to = [word for r in self.recipients for word in ("--recipient", r)]
            how = ["--encrypt", "--trust-model", "always", *to]
        else:
            how = ["--symmetric", *self._passphrase()]
        return [*_GPG, "--compress-algo", "none", *how]

    def open_words(self, head: bytes) -> list[str]:
        """Return the command that reads a backup with this head, and writes the archive.

        Raises RefusedError.
        """
        if head == _AGE_HEAD:
            if self.identity is None:
                raise RefusedError(
                    "the backup is encrypted with age", hint="name its key: --identity"
                )
            return ["age", "--decrypt", "--identity", f"/proc/self/fd/{self.identity}"]
        return [*_GPG, *self._passphrase(), "--decrypt"]

    def _passphrase(self) -> list[str]:
        if self.passphrase is None:
            return []
        how = ["--batch", "--pinentry-mode", "loopback"]
        return [*how, "--passphrase-file", f"/proc/self/fd/{self.passphrase}"]


@contextmanager
def secret_of(file: Path | None) -> Iterator[int | None]:
    """Read a file with a secret once; yield a descriptor of a copy in memory.

    Once, because it may be a pipe: ``--passphrase-file <(pass show backup)``.  Raises
    RefusedError.
    """
    if file is None:
        yield None
        return
    try:
        with file.open("rb") as opened:
            secret = opened.read(_RECORD_BYTES + 1)
    except OSError as error:
        raise RefusedError(f"{file} cannot be read: {error.strerror}") from error
    if not secret or len(secret) > _RECORD_BYTES:
        what = "is empty" if not secret else "is too long"
        raise RefusedError(f"{file} {what}", hint="it has the passphrase or the key")
    fd = os.memfd_create("secret", os.MFD_CLOEXEC)
    try:
        os.write(fd, secret)
        yield fd
    finally:
        os.close(fd)


_AGE = ("age1", "ssh-")
_AGE_HEAD = b"age-encryption.org/v1"
_GZIP, _TAR = ("gzip",), ("tar",)
_GPG = ("gpg", "--quiet", "--no-tty")
_ENCRYPTING = frozenset({"gpg", "age"})


def bytes_of(directory: Path) -> int:
    """Return the bytes that a backup of a home reads, holes not counted."""
    disk = directory / DISK
    if not disk.is_file():
        return 0
    with disk.open("rb") as file:
        return sum(end - start for start, end in data_ranges(file.fileno()))


async def back_up(
    directory: Path, record: str, target: Path, lock: Lock, count: Count
) -> None:
    """Write the home in ``directory`` and its record into one new file.

    The file appears when it is whole.  Raises RefusedError when it is there already,
    UpstreamError when a program fails.
    """
    room = directory / RECORD
    kind = DISK if (directory / DISK).is_file() else TREE
    make = ["tar", "--create", "--sparse", "--directory", str(directory)]
    try:
        # The descriptor of a file that no other program can name: the directory may be
        # one that others write to, and a passphrase takes its time.
        with whole_file(target, replace=False) as file:
            room.write_text(record, encoding="utf-8")
            words = [*make, "--", _META, RECORD, kind]
            commands = [words, ["gzip", "-1"], lock.close_words()]
            await _pipeline(commands, count, lock.secrets, output=file.fileno())
    except FileExistsError as error:
        raise RefusedError(f"{target} exists already") from error
    finally:
        room.unlink(missing_ok=True)


async def unpack(source: Path, prepared: Path, lock: Lock, count: Count) -> str:
    """Fill a prepared home from a backup; return its record's text.

    Raises RefusedError when it is no backup of a home, UpstreamError when it
    cannot be decrypted.
    """
    take = [*_TAR, "--extract", "--sparse", "--no-same-owner", "--no-same-permissions"]
    # guard: a backup changes no rights of our own directory
    take.append("--no-overwrite-dir")
    opened, untarred = [*_GZIP, "-d"], [*take, "--directory", str(prepared)]
    # Any process with the public key may have made it, and both programs read all of it.
    # guard: a backup is unpacked in a jail
    opened = [*jail_words(None), *opened]
    # guard: a backup's archive is read in a jail
    untarred = [*jail_words(prepared), *take, "--directory", ROOM]
    # The archive's own meta.json is read, not kept: the new home has its own.
    own = (prepared / _META).read_bytes()
    (prepared / _META).unlink()
    # Opened once: it may be a pipe, whose head cannot be read twice.
    with source.open("rb", buffering=0) as backup:
        head = backup.read(len(_AGE_HEAD))
        commands = [lock.open_words(head), opened, untarred]
        given = (head, os.dup(backup.fileno()))
        await _pipeline(commands, count, lock.secrets, given=given)
    untrusted_names = {path.name for path in prepared.iterdir()}
    if untrusted_names not in ({_META, RECORD, DISK}, {_META, RECORD, TREE}):
        raise RefusedError(f"{source} is not a backup of a sandbox")
    kind = DISK if DISK in untrusted_names else TREE
    _check_kind(prepared / kind, kind)
    meta = _read_small(prepared / _META)
    text = _read_small(prepared / RECORD).decode("utf-8", "replace")
    try:
        found = msgspec.json.decode(meta, type=HomeMeta)
    except ValueError as error:
        raise RefusedError(f"{source} is not a backup of a sandbox: {error}") from error
    if found.kind != kind:
        raise RefusedError(f"{source} is not a backup of a sandbox")
    (prepared / RECORD).unlink()
    (prepared / _META).unlink()
    fresh = msgspec.structs.replace(
        msgspec.json.decode(own, type=HomeMeta),
        kind=found.kind,
        encrypted=found.encrypted,
    )
    (prepared / _META).write_bytes(msgspec.json.encode(fresh))
    return text


def _check_kind(path: Path, kind: str) -> None:
    mode = path.lstat().st_mode
    # guard: an imported disk is a regular file
    if not (stat.S_ISREG(mode) if kind == DISK else stat.S_ISDIR(mode)):
        raise RefusedError(f"the backup's {kind} is not a {kind}")


def _read_small(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:  # a link, or one without the right to read it
        raise RefusedError(
            f"the backup's {path.name} cannot be read: {error.strerror}"
        ) from error
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise RefusedError(f"the backup's {path.name} is not a file")
        data = file.read(_RECORD_BYTES + 1)
    if len(data) > _RECORD_BYTES:
        raise RefusedError(f"the backup's {path.name} is too long")
    return data


async def _pipeline(
    commands: Sequence[Sequence[str]],
    count: Count,
    secrets: Sequence[int],
    *,
    given: tuple[bytes, int] | None = None,
    output: int = DEVNULL,
) -> None:
    """Run three commands, each one's output the next one's input.

    The bytes between the first two pass through us and are counted.  ``given``: what
    the first one reads, a head and a descriptor, which is closed.  Raises UpstreamError
    with the words of the one that failed.
    """
    async with AsyncExitStack() as undo:
        errors = [_error_file(undo) for _ in commands]
        children: list[Child] = []
        undo.push_async_callback(_end, children)
        zero_read, zero_write = _pipe() if given else (DEVNULL, -1)
        first_read, first_write = _pipe()
        second_read, second_write = _pipe()
        third_read, third_write = _pipe()
        wiring = (
            (zero_read, first_write),
            (second_read, third_write),
            (third_read, output),
        )
        ours = [first_write, second_read, third_write, third_read]
        ours += [zero_read] if given else []
        kept = [first_read, second_write, *([zero_write, given[1]] if given else [])]
        try:
            for words, (source, sink), error in zip(
                commands, wiring, errors, strict=True
            ):
                passed = secrets if words[0] in _ENCRYPTING else ()
                children.append(
                    spawn(
                        words, stdin=source, stdout=sink, stderr=error, pass_fds=passed
                    )
                )
        except BaseException:
            for fd in kept:
                os.close(fd)
            raise
        finally:
            for fd in ours:
                os.close(fd)
        async with trio.open_nursery() as nursery:
            if given:
                nursery.start_soon(_feed, given, zero_write)
            await _count(first_read, second_write, count)
        codes = [await child.wait() for child in children]
        _raise_first(commands, codes, errors)


def _raise_first(
    commands: Sequence[Sequence[str]], codes: Sequence[int], errors: Sequence[int]
) -> None:
    """Raise UpstreamError for the program that failed, if one has.

    Those before it end by SIGPIPE then, those after it for want of input.
    """
    failed = [number for number, code in enumerate(codes) if code != 0]
    causes = [number for number in failed if codes[number] != -signal.SIGPIPE]
    for number in causes or failed:
        said = _words_of(errors[number], codes[number])
        raise UpstreamError(f"{_name(commands[number])} failed: {said}")


async def _feed(given: tuple[bytes, int], sink: int) -> None:
    head, source = given
    open_fd = trio.lowlevel.FdStream
    async with open_fd(source) as reader, open_fd(sink) as writer:
        # A program that has failed reads no more, and says why.
        with suppress(trio.BrokenResourceError):
            await writer.send_all(head)
            while data := await reader.receive_some(_PIECE):
                await writer.send_all(data)


def _name(words: Sequence[str]) -> str:
    """Return the program's name, behind its jail."""
    return words[words.index("--") + 1] if words[0] == "bwrap" else words[0]


async def _count(source: int, sink: int, count: Count) -> None:
    total = 0
    open_fd = trio.lowlevel.FdStream
    async with open_fd(source) as reader, open_fd(sink) as writer:
        while data := await reader.receive_some(_PIECE):
            try:
                await writer.send_all(data)
            except trio.BrokenResourceError:
                return  # the reader has failed, and says so
            total += len(data)
            count(total)


def _pipe() -> tuple[int, int]:
    return os.pipe2(os.O_CLOEXEC)


def _error_file(undo: AsyncExitStack) -> int:
    fd = os.memfd_create("stderr", os.MFD_CLOEXEC)
    undo.callback(os.close, fd)
    return fd


def _words_of(fd: int, code: int) -> str:
    said = printable(os.pread(fd, _ERROR_BYTES, 0).strip(), _ERROR_BYTES)
    return said or f"code {code}"


async def _end(children: list[Child]) -> None:
    with trio.CancelScope(shield=True):
        for child in children:
            if child.returncode is None:
                child.kill()
            await child.wait()


def check_programs(lock: Lock) -> None:
    """Raise SetupError unless one of the programs is there."""
    import shutil

    words = lock.close_words()
    if shutil.which(words[0]) is None:
        raise SetupError(
            f"{words[0]} is not installed", hint=f"'sudo apt install {words[0]}'"
        )
