"""A home in one encrypted file, and back.

``tar --sparse | gzip | gpg`` or ``age``: their formats are what people and other
programs can read in ten years.  The archive has these members:
``backup.json`` says of which sandbox it is and when it was made, ``meta.json`` what kind
of home, ``record.toml`` is the record, ``rules.policy`` the rules that name the sandbox,
if there are some, and ``disk`` or ``tree`` the home.

An imported archive is not trusted: only these members are taken, a disk must be a
regular file, and its content is the guest's to read.  gzip and tar read it in a jail.
"""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from broker.cli.homes.backups.gpg_errors import (
    asking_words,
    failed,
    understood_environment,
)
from broker.cli.homes.backups.gpg_status import GpgStatus
from broker.cli.transfer.named_path import opened_target
from broker.core.distribution import install_command
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.files.replace_file import whole_file
from broker.core.names import SandboxName, take_sandbox_name
from broker.helpers.process.popen import BUBBLEWRAP
from broker.helpers.process.spawn import DEVNULL, Child, spawn
from broker.helpers.process.tool_jail import ROOM, jail_words
from broker.host.homes.sparse import data_ranges
from broker.host.homes.store import DISK, TREE, Home, HomeMeta

RECORD = "record.toml"
RULES = "rules.policy"
_META = "meta.json"
_LABEL = "backup.json"
_PIECE = 1 << 18
_RECORD_BYTES = 65536
_ERROR_BYTES = 1000

_LAST_SECOND = 1 << 35
"""A time in the year 3058: localtime(3) fails for the largest numbers."""

Count = Callable[[int], None]
"""Called with the bytes that have passed."""


class BackupLabel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``backup.json``: what a user recognises a backup by."""

    name: str
    """The sandbox that it was made of."""
    made: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class Texts:
    """What a backup has beside the home: its record, and the rules that name it."""

    record: str
    rules: str = ""


@dataclass(frozen=True)
class Unpacked:
    """What a backup had beside the home."""

    untrusted_record: str
    untrusted_rules: str
    name: SandboxName | None
    """The sandbox that it was made of; None: it does not say."""
    made: float | None
    """When, in seconds since 1970."""
    meta: HomeMeta

    def describe(self) -> str:
        """Return the sandbox, the time and the kind, for a user who decides by them."""
        if self.name is None or self.made is None:
            whose = "a backup of an unnamed sandbox"
        else:
            when = time.strftime("%d %B %Y, %H:%M", time.localtime(self.made))
            whose = f"a backup of '{self.name}', written on {when}"
        kind = "a micro VM's disk" if self.meta.kind == DISK else "a directory"
        return f"{whose}: {kind}{', encrypted' * self.meta.encrypted}"


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
        return [*_GPG, *asking_words(), "--compress-algo", "none", *how]

    def open_words(self, head: bytes) -> list[str]:
        """Return the command that reads a backup with this head, and writes the archive.

        Raises RefusedError.
        """
        if self.identity is not None and self.passphrase is not None:
            raise RefusedError(
                "--passphrase-file and --identity cannot be used together",
                hint="use --identity for a backup that age encrypted, and "
                "--passphrase-file for one that gpg encrypted",
            )
        if head == _AGE_HEAD:
            if self.identity is None:
                raise RefusedError(
                    "cannot decrypt the backup without a key: age encrypted this "
                    "backup",
                    hint="specify the file with the key: --identity FILE",
                )
            return ["age", "--decrypt", "--identity", f"/proc/self/fd/{self.identity}"]
        # guard: with a key of age's a backup is age's
        if self.identity is not None:
            raise RefusedError(
                "cannot decrypt the backup with --identity: age did not encrypt "
                "this backup",
                hint="omit --identity, so that gpg decrypts the backup",
            )
        return [*_GPG, *asking_words(), *self._passphrase(), "--decrypt"]

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
        raise RefusedError(
            f"cannot read the passphrase or key in {file}: {error.strerror}",
            hint="specify a file that you can read",
        ) from error
    if not secret or len(secret) > _RECORD_BYTES:
        what = "is empty" if not secret else f"exceeds {_RECORD_BYTES >> 10} KiB"
        raise RefusedError(
            f"cannot use the passphrase or key in {file}: the file {what}",
            hint="write only the passphrase or the key to the file",
        )
    fd = os.memfd_create("secret", os.MFD_CLOEXEC)
    try:
        os.write(fd, secret)
        yield fd
    finally:
        os.close(fd)


_AGE = ("age1", "ssh-")
_AGE_HEAD = b"age-encryption.org/v1"
_GZIP, _TAR = ("gzip",), ("tar",)
_READ_ALL = (
    *(BUBBLEWRAP, "--unshare-user", "--cap-add", "CAP_DAC_READ_SEARCH"),
    *("--die-with-parent", "--ro-bind", "/", "/", "--"),
)
"""A user namespace in which a program can read all files of the user, also closed ones."""
_GPG = ("gpg", "--quiet", "--no-tty")
_ENCRYPTING = frozenset({"gpg", "age"})


def bytes_of(directory: Path) -> int:
    """Return how many bytes a backup of a home reads, holes not counted.

    0, unknown, for a home that is a folder.
    """
    disk = directory / DISK
    if not disk.is_file():
        return 0
    with disk.open("rb") as file:
        return sum(end - start for start, end in data_ranges(file.fileno()))


async def back_up(
    home: Home, texts: Texts, target: Path, lock: Lock, count: Count
) -> None:
    """Write a home, its record and its rules into one new encrypted file.

    The file appears when it is whole.  Raises RefusedError when it is there already,
    UpstreamError when a program fails.
    """
    if target.is_dir():
        raise RefusedError(
            f"cannot write the backup: {target} is a directory",
            hint=f"name a file in it, such as {target / f'{home.name}.backup'}",
        )
    directory = home.directory
    members = {RECORD: texts.record, **({RULES: texts.rules} if texts.rules else {})}
    label = directory / _LABEL
    kind = DISK if (directory / DISK).is_file() else TREE
    make = [*_TAR, "--create", "--sparse", "--directory", str(directory)]
    if kind == TREE:
        # guard: what is closed to its owner is in a backup
        make = [*_READ_ALL, *make]
    try:
        # The descriptor of a file that no other program can name: the directory may be
        # writable by others, and a passphrase takes its time.
        with (
            opened_target(target) as opened,
            whole_file(opened, replace=False) as file,
        ):
            for name, text in members.items():
                (directory / name).write_text(text, encoding="utf-8")
            made = BackupLabel(home.name, time.time())
            label.write_bytes(msgspec.json.encode(made))
            words = [*make, "--", _LABEL, _META, *members, kind]
            commands = [words, ["gzip", "-1"], lock.close_words()]
            await _pipeline(commands, count, lock.secrets, output=file.fileno())
    except FileExistsError as error:
        raise RefusedError(
            f"cannot write the backup: {target} already exists",
            hint="specify another file, or remove the existing one first",
        ) from error
    except OSError as error:
        if error.filename != str(target):
            raise
        raise RefusedError(
            f"cannot write the backup to {target}: {error.strerror}",
            hint="check that its directory exists, that its disk is connected, and "
            "that you may write there",
        ) from error
    finally:
        for name in members:
            (directory / name).unlink(missing_ok=True)
        label.unlink(missing_ok=True)


async def unpack(source: Path, prepared: Path, lock: Lock, count: Count) -> Unpacked:
    """Fill a prepared home from a backup; return what else it has.

    Raises RefusedError when it is not a backup of a home or no key has closed it,
    UpstreamError when it cannot be decrypted.
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
    # The archive's meta.json is read, not kept: the new home has another.
    own = (prepared / _META).read_bytes()
    (prepared / _META).unlink()
    # Opened once: it may be a pipe, whose head cannot be read twice.
    with source.open("rb", buffering=0) as backup:
        head = backup.read(len(_AGE_HEAD))
        words = lock.open_words(head)
        status = GpgStatus() if words[0] == _GPG[0] else None
        given = (head, os.dup(backup.fileno()))
        commands = [words, opened, untarred]
        try:
            await _pipeline(commands, count, lock.secrets, given=given, status=status)
        except UpstreamError as error:
            if status is None or not status.opens_nothing:
                raise
            raise RefusedError(
                f"cannot import {source}: the passphrase is wrong",
                hint="give the passphrase of that backup with --passphrase-file "
                "FILE, or without that option where gpg asks for it",
            ) from error
    if status is not None:
        why = status.why_not_closed(by_passphrase=lock.passphrase is not None)
        if why is not None:
            raise RefusedError(f"cannot import {source}: {why}")
    return _take_members(source, prepared, own)


def _take_members(source: Path, prepared: Path, own: bytes) -> Unpacked:
    """Check the unpacked files of a backup; replace its ``meta.json`` by one of our own.

    Removes other members than those of the home.
    """
    no_backup = f"{source} is not a backup of a sandbox"
    untrusted_names = {path.name for path in prepared.iterdir()}
    if untrusted_names - {_LABEL, RULES} not in (
        {_META, RECORD, DISK},
        {_META, RECORD, TREE},
    ):
        raise RefusedError(no_backup)
    kind = DISK if DISK in untrusted_names else TREE
    _check_kind(prepared / kind, kind)
    text, rules = (
        _read_small(prepared / name).decode("utf-8", "replace")
        if name in untrusted_names
        else ""
        for name in (RECORD, RULES)
    )
    name = made = None
    try:
        found = msgspec.json.decode(_read_small(prepared / _META), type=HomeMeta)
        if _LABEL in untrusted_names:
            label = msgspec.json.decode(
                _read_small(prepared / _LABEL), type=BackupLabel
            )
            name, made = take_sandbox_name(label.name), label.made
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"{no_backup}: {error}") from error
    if found.kind != kind or not 0 <= (made or 0) <= _LAST_SECOND:
        raise RefusedError(no_backup)
    for member in (RECORD, RULES, _META, _LABEL):
        (prepared / member).unlink(missing_ok=True)
    fresh = msgspec.structs.replace(
        msgspec.json.decode(own, type=HomeMeta),
        kind=found.kind,
        encrypted=found.encrypted,
    )
    (prepared / _META).write_bytes(msgspec.json.encode(fresh))
    return Unpacked(text, rules, name, made, fresh)


def _check_kind(path: Path, kind: str) -> None:
    mode = path.lstat().st_mode
    # guard: an imported disk is a regular file
    if not (stat.S_ISREG(mode) if kind == DISK else stat.S_ISDIR(mode)):
        what = "regular file" if kind == DISK else "directory"
        raise RefusedError(f"cannot import the backup: its home is not a {what}")


def _read_small(path: Path) -> bytes:
    """Read a small regular file of an unpacked backup.  Raises RefusedError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:  # a link, or one without the right to read it
        raise RefusedError(
            f"cannot import the backup: cannot read its {path.name}: {error.strerror}"
        ) from error
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise RefusedError(
                f"cannot import the backup: its {path.name} is not a regular file"
            )
        data = file.read(_RECORD_BYTES + 1)
    if len(data) > _RECORD_BYTES:
        raise RefusedError(
            f"cannot import the backup: its {path.name} has more than "
            f"{_RECORD_BYTES >> 10} KiB"
        )
    return data


async def _pipeline(
    commands: Sequence[Sequence[str]],
    count: Count,
    secrets: Sequence[int],
    *,
    given: tuple[bytes, int] | None = None,
    output: int = DEVNULL,
    status: GpgStatus | None = None,
) -> None:
    """Run three commands, each one's output the next one's input.

    The bytes between the first two pass through us and are counted.  ``given``: what
    the first one reads, a head and a descriptor, which is closed.  ``status``: receives
    the status lines of the first one, which is gpg.  Raises UpstreamError with the words
    of the program that failed.
    """
    async with AsyncExitStack() as undo:
        errors = [_error_file(undo) for _ in commands]
        children: list[Child] = []
        undo.push_async_callback(_end, children)
        zero_read, zero_write = _pipe() if given else (DEVNULL, -1)
        status_read, status_write = _pipe() if status else (-1, -1)
        first_read, first_write = _pipe()
        second_read, second_write = _pipe()
        third_read, third_write = _pipe()
        wiring = (
            (zero_read, first_write),
            (second_read, third_write),
            (third_read, output),
        )
        ours = [first_write, second_read, third_write, third_read]
        ours += [zero_read] * bool(given) + [status_write] * bool(status)
        kept = [first_read, second_write, *([zero_write, given[1]] if given else [])]
        kept += [status_read] * bool(status)
        if status:
            commands = [_reporting(commands[0], status_write), *commands[1:]]
            secrets = [*secrets, status_write]
        try:
            for words, (source, sink), error in zip(
                commands, wiring, errors, strict=True
            ):
                passed = secrets if words[0] in _ENCRYPTING else ()
                children.append(
                    spawn(
                        words,
                        env=understood_environment(),
                        stdin=source,
                        stdout=sink,
                        stderr=error,
                        pass_fds=passed,
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
            if status:
                nursery.start_soon(_watch, status_read, status)
            await _count(first_read, second_write, count)
        codes = [await child.wait() for child in children]
        _raise_first(commands, codes, errors)


def _reporting(words: Sequence[str], status: int) -> list[str]:
    """Return gpg's command with a descriptor for status lines only.

    On standard error the words of a file's author could be taken for them.
    """
    return [words[0], "--status-fd", str(status), *words[1:]]


async def _watch(source: int, status: GpgStatus) -> None:
    async with trio.lowlevel.FdStream(source) as reader:
        while data := await reader.receive_some(_PIECE):
            status.feed(data)


def _raise_first(
    commands: Sequence[Sequence[str]], codes: Sequence[int], errors: Sequence[int]
) -> None:
    """Raise an error for the program that failed first, if one has.

    Those before it end by SIGPIPE then, those after it for want of input.
    """
    ended = [number for number, code in enumerate(codes) if code != 0]
    causes = [number for number in ended if codes[number] != -signal.SIGPIPE]
    for number in causes or ended:
        said = _words_of(errors[number], codes[number])
        raise failed(_name(commands[number]), said)


async def _feed(read: tuple[bytes, int], sink: int) -> None:
    """Write the file's head, which was read already, and its rest into a program."""
    head, source = read
    open_fd = trio.lowlevel.FdStream
    async with open_fd(source) as reader, open_fd(sink) as writer:
        # A program that has failed reads no more, and says why.
        with suppress(trio.BrokenResourceError):
            await writer.send_all(head)
            while data := await reader.receive_some(_PIECE):
                await writer.send_all(data)


def _name(words: Sequence[str]) -> str:
    """Return the program's name, after its jail."""
    return words[words.index("--") + 1] if words[0] == BUBBLEWRAP else words[0]


async def _count(source: int, sink: int, count: Count) -> None:
    """Copy bytes from one pipe to another, and count them."""
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
    said = printable(
        b"; ".join(os.pread(fd, _ERROR_BYTES, 0).split(b"\n")).strip(b"; "),
        _ERROR_BYTES,
    )
    return said or (f"exit code {code}" if code >= 0 else f"killed by signal {-code}")


async def _end(children: list[Child]) -> None:
    with trio.CancelScope(shield=True):
        for child in children:
            await child.kill_and_wait()


def check_programs(lock: Lock) -> None:
    """Raise SetupError unless the program that encrypts is installed."""
    import shutil

    words = lock.close_words()
    if shutil.which(words[0]) is None:
        raise SetupError(
            f"cannot encrypt the backup: {words[0]} is not installed",
            hint=install_command(words[0]),
        )
