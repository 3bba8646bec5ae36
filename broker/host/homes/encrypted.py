"""Encrypted homes: LUKS (version 1) in the file, opened by QEMU.

The guest sees an ordinary disk: neither the passphrase nor the key is ever in it.  On
our disk only QEMU and ``qemu-img`` read the file.  They get the passphrase from a
pipe, so it is on no command line, in no file and in no log.

A new file system is made beside the file, empty, and written into it through
``qemu-io``: only what mke2fs wrote, so that the file stays sparse.

The host opens such a home for a start; ``brokerctl sandbox unlock`` tries a passphrase.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from broker.core import limits
from broker.core.distribution import install_hint
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.names import SandboxName
from broker.helpers.process.spawn import run_tool
from broker.host.homes import keyring
from broker.host.homes.disk import make_disk
from broker.host.homes.store import DISK, Home, HomeStore
from broker.ipc.in_thread import in_thread

LUKS_BYTES = 2 << 20
"""Bytes that the LUKS header takes in the file, rounded up."""
KEY = "homekey"
"""Name of the secret in QEMU."""
IO = ("qemu-io",)
_MEASURED_TIMES = 5
_PIECE = 16 << 20
_OPEN_MILLISECONDS = 1000
"""How long this machine takes to try one passphrase."""


def secret_args(fd: int) -> list[str]:
    """Return the words by which QEMU reads the passphrase from a descriptor."""
    return ["--object", f"secret,id={KEY},file=/proc/self/fd/{fd}"]


def passphrase_pipe(passphrase: bytes) -> int:
    """Return the end of a pipe that gives the passphrase once; the caller closes it.

    A pipe's memory is the kernel's own, which is never swapped out.  A program that
    inherits it has read it after that, and has no descriptor to read it again.
    """
    # guard: a passphrase on its way is not swapped out, and is read once
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(write, passphrase)
    except BaseException:
        os.close(read)
        raise
    finally:
        os.close(write)
    return read


def tool(name: str) -> str:
    """Return the path of a program of QEMU's.  Raises SetupError without it."""
    found = shutil.which(name)
    if found is None:
        raise SetupError(
            f"cannot create an encrypted home: {name} is not installed",
            hint=install_hint("qemu-utils"),
        )
    return found


# QEMU opens an encrypted home, not the guest. cryptsetup in the guest would need a
# larger image and modules, and the key would be in the memory that a hostile program
# attacks first. QEMU's LUKS leaves the guest an ordinary disk, of whatever image, and
# the passphrase on the side that is trusted already. The trusted prompt shows questions
# and takes no text, so the passphrase is typed at `brokerctl sandbox unlock` and kept
# by the kernel.
async def make_encrypted_disk(path: Path, size: int, passphrase: bytes) -> None:
    """Make an empty ext4 of ``size`` bytes within LUKS; the file is sparse.

    Raises SetupError without the programs, UpstreamError when one fails.
    """
    io = tool(IO[0])
    plain = path.with_name("plain")
    try:
        await make_disk(plain, size)
        await _make_luks(tool("qemu-img"), path, size, passphrase)
        path.chmod(0o600)
        await _write_all(io, plain, path, passphrase)
    finally:
        plain.unlink(missing_ok=True)


async def _make_luks(image: str, path: Path, size: int, passphrase: bytes) -> None:
    """Create the encrypted image file with qemu-img; retry if QEMU is too slow.

    "Unable to get accurate CPU usage": its thread got no processor time while it
    measured.  The next try measures again.
    """
    for attempt in range(_MEASURED_TIMES):
        key = passphrase_pipe(passphrase)
        try:
            await run_tool(
                [
                    *(image, "create", "-q", "-f", "luks"),
                    *secret_args(key),
                    *("-o", f"key-secret={KEY},iter-time={_OPEN_MILLISECONDS}"),
                    *(str(path), str(size)),
                ],
                pass_fds=(key,),
                deadline=limits.HOME_ENCRYPT_SECONDS,
            )
        except UpstreamError as error:
            if attempt + 1 == _MEASURED_TIMES or "CPU usage" not in str(error):
                raise
        else:
            return
        finally:
            os.close(key)


async def _write_all(io: str, plain: Path, path: Path, passphrase: bytes) -> None:
    """Write every piece of a file that is not a hole to the encrypted disk.

    In one run: to open the disk takes a second, by design.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as room:
        commands = await in_thread(_split, plain, Path(room))
        key = passphrase_pipe(passphrase)
        try:
            await run_tool(
                [io, *secret_args(key), "--image-opts", image_options(path), *commands],
                cwd=room,
                pass_fds=(key,),
                deadline=limits.HOME_ENCRYPT_SECONDS,
            )
        finally:
            os.close(key)


def image_options(disk: Path) -> str:
    """Return the words by which QEMU opens an encrypted disk with the secret ``KEY``."""
    name = str(disk).replace(",", ",,")  # the only character that means anything
    return f"driver=luks,key-secret={KEY},file.driver=file,file.filename={name}"


def _split(plain: Path, room: Path) -> list[str]:
    """Write each piece of data to a separate file.

    Return qemu-io's commands for them.
    """
    words = []
    for number, (offset, data) in enumerate(pieces(plain)):
        (room / str(number)).write_bytes(data)
        words += ["-c", f"write -q -s {number} {offset} {len(data)}"]
    return words


def pieces(plain: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the data of a sparse file with its offsets, at most 16 MiB at a time."""
    with plain.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        at = 0
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return  # ENXIO: nothing but a hole follows
            until = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            while at < until:
                data = os.pread(file.fileno(), min(_PIECE, until - at), at)
                yield at, data
                at += len(data)


async def ready_encrypted_disk(
    store: HomeStore, name: SandboxName, size: int, passphrase: bytes
) -> Home:
    """Return the encrypted home of a micro VM, made or grown to ``size`` bytes.

    The caller holds its lock.  Raises SetupError when the home is another one.
    """
    home = await in_thread(store.find, name)
    if home is None:
        with store.new(DISK, encrypted=True) as prepared:
            await make_encrypted_disk(prepared / DISK, size, passphrase)
            return await in_thread(store.publish, prepared, name)
    # guard: a home that is not encrypted is not passed off as one
    if home.meta.kind != DISK or not home.meta.encrypted:
        raise SetupError(
            f"the home of '{name}' is not encrypted, but its record sets encrypted = true",
            hint="set encrypted = false in [state]; to encrypt the files, copy them to a new sandbox (docs/state.md, 'An encrypted home')",
        )
    if home.size() < size + LUKS_BYTES:
        os.truncate(home.disk, size + LUKS_BYTES)
    return home


def require_passphrase(name: SandboxName) -> bytes:
    """Return the passphrase of a home from the keyring.

    Raises RefusedError if it is not there, SetupError without a keyring.
    """
    passphrase = keyring.read(name)
    # guard: a locked home is not opened
    if passphrase is None:
        raise RefusedError(
            f"the home of '{name}' is locked",
            hint=f"to unlock it, run 'brokerctl sandbox unlock {name}'",
        )
    return passphrase
