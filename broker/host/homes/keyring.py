"""Passphrases of encrypted homes, in the kernel's keyring of this user.

The kernel keeps them in its memory, never on a disk and not in swap, until they
expire, are removed, or the user's last process has ended.  Every program of the same
user can read them, as it could read the memory of a broker that kept them.

Sources: keyrings(7), add_key(2), keyctl(2), user-keyring(7).

``brokerctl sandbox unlock`` and ``lock`` store and remove them.  The host reads them
when it opens a home; brokerctl reads them for a machine that it starts by a script.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform

from broker.core.errors import SetupError
from broker.core.names import SandboxName

_NUMBERS = {"x86_64": (248, 250), "aarch64": (217, 219)}
"""add_key(2) and keyctl(2), for which the C library has no functions."""
_USER_KEYRING = -4
_PROCESS_KEYRING = -2
_UNLINK, _LINK, _SEARCH, _READ, _SET_TIMEOUT = 9, 8, 10, 11, 15
_GONE = frozenset({errno.ENOKEY, errno.EKEYEXPIRED, errno.EKEYREVOKED})
_KIND = b"user"
PASSPHRASE_BYTES = range(8, 1025)


def _call(which: int, *arguments: object) -> int:
    """Make one of the keyring's two system calls; return its result.

    Raises OSError, SetupError without a keyring.
    """
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None:
        raise SetupError(f"encrypted homes are not supported on {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result = int(libc.syscall(ctypes.c_long(numbers[which]), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        if code in {errno.ENOSYS, errno.EPERM}:
            raise SetupError(f"cannot use the kernel's keyring: {os.strerror(code)}")
        raise OSError(code, os.strerror(code))
    return result


def _keyctl(operation: int, *numbers: int) -> int:
    return _call(1, ctypes.c_int(operation), *map(ctypes.c_long, numbers))


def _name(sandbox: SandboxName) -> bytes:
    return f"vitrail:home:{sandbox}".encode("ascii")


def _link_user_keyring() -> None:
    """Get the owner's rights to keys in the user's keyring, also in a service.

    A session that PAM has made leads to that keyring; one of systemd's may not.
    """
    _keyctl(_LINK, _USER_KEYRING, _PROCESS_KEYRING)


def store(sandbox: SandboxName, passphrase: bytes, seconds: int = 0) -> None:
    """Store a passphrase in the user's keyring; the kernel drops it after ``seconds``, if any.

    Called by ``brokerctl sandbox unlock``; the broker reads it later.  Raises SetupError
    if the kernel has no keyring for us, OSError when the user's quota is used up.
    """
    _link_user_keyring()
    size = ctypes.c_size_t(len(passphrase))
    where = ctypes.c_int(_USER_KEYRING)
    number = _call(0, _KIND, _name(sandbox), passphrase, size, where)
    _keyctl(_SET_TIMEOUT, number, seconds)


def _find(sandbox: SandboxName) -> int | None:
    """Return the keyring's number of a sandbox's passphrase; None without one.

    Links the user's keyring into this process's keyring first.
    """
    _link_user_keyring()
    keyring = ctypes.c_long(_USER_KEYRING)
    search = ctypes.c_int(_SEARCH)
    try:
        return _call(1, search, keyring, _KIND, _name(sandbox), ctypes.c_long(0))
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


def read(sandbox: SandboxName) -> bytes | None:
    """Return the passphrase of a sandbox's home from the user's keyring; None without one.

    Links that keyring into this process's keyring first, for the right to read.  Raises
    SetupError if the kernel has no keyring for us, OSError.
    """
    number = _find(sandbox)
    if number is None:
        return None
    room = ctypes.create_string_buffer(PASSPHRASE_BYTES[-1])
    size = ctypes.c_size_t(len(room))
    read_words = ctypes.c_int(_READ), ctypes.c_long(number), room, size
    try:
        length = _call(1, *read_words)
    except OSError as error:
        if error.errno in _GONE:  # it expired after it was found
            return None
        raise
    return room.raw[: min(length, len(room))]


def forget(sandbox: SandboxName) -> bool:
    """Remove a home's passphrase from the user's keyring; return whether there was one.

    Links that keyring into this process's keyring first, as ``read`` does.
    """
    number = _find(sandbox)
    if number is None:
        return False
    try:
        _keyctl(_UNLINK, number, _USER_KEYRING)
    except OSError as error:
        if error.errno not in {*_GONE, errno.ENOENT}:
            raise
    return True
