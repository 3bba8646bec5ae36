"""Ed25519 (RFC 8032): who signed a note of the log, by the libcrypto that Python's hashlib uses.

Not by the package ``cryptography``, which loads all its algorithms, X.509 and a copy of
OpenSSL into the process: 7 MiB, for three functions.

The authority signs by this; brokerctl and a fleet's ingest service check signatures.
"""

from __future__ import annotations

import _hashlib
import ctypes
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from broker.authority.audit.proof.note import SIGNATURE_BYTES, Note, key_id
from broker.core.errors import InternalError

KEY_BYTES = 32
"""Of a seed, which is the private key, and of a public key."""
_ED25519 = 1087
"""EVP_PKEY_ED25519 of <openssl/evp.h>."""
_DONE = 1


def _functions() -> ctypes.CDLL:
    # dlsym(3) looks into what a library depends on, too, so this is the libcrypto of
    # this Python, whatever its number.  A built-in module has no file.
    library = ctypes.CDLL(getattr(_hashlib, "__file__", "libcrypto.so.3"))
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    octets, size_at = ctypes.c_char_p, ctypes.POINTER(ctypes.c_size_t)
    shapes: dict[str, tuple[object, list[object]]] = {
        "EVP_PKEY_new_raw_private_key": (pointer, [number, pointer, octets, size]),
        "EVP_PKEY_new_raw_public_key": (pointer, [number, pointer, octets, size]),
        "EVP_PKEY_get_raw_public_key": (number, [pointer, octets, size_at]),
        "EVP_PKEY_free": (None, [pointer]),
        "EVP_MD_CTX_new": (pointer, []),
        "EVP_MD_CTX_free": (None, [pointer]),
        "EVP_DigestSignInit": (number, [pointer] * 5),
        "EVP_DigestSign": (number, [pointer, octets, size_at, octets, size]),
        "EVP_DigestVerifyInit": (number, [pointer] * 5),
        "EVP_DigestVerify": (number, [pointer, octets, size, octets, size]),
    }
    for name, (result, arguments) in shapes.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


_lib = _functions()


class _Key:
    """A key as OpenSSL has it, which erases it when it is freed."""

    def __init__(self, load: Callable[..., int | None], raw: bytes) -> None:
        self._free = _lib.EVP_PKEY_free
        self.at = load(_ED25519, None, raw, len(raw))
        if self.at is None:
            raise _failed()

    def __del__(self) -> None:
        self._free(self.at)  # nothing for NULL


class PrivateKey:
    """A private key; its seed is all of it."""

    def __init__(self, seed: bytes) -> None:
        self.seed = seed
        self._key = _Key(_lib.EVP_PKEY_new_raw_private_key, seed)

    @classmethod
    def generate(cls) -> PrivateKey:
        """Make a new key."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def public(self) -> bytes:
        """Return the 32 bytes of its public half."""
        out, size = ctypes.create_string_buffer(KEY_BYTES), ctypes.c_size_t(KEY_BYTES)
        _check(_lib.EVP_PKEY_get_raw_public_key(self._key.at, out, size))
        return out.raw

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature (64 bytes) over a message."""
        out = ctypes.create_string_buffer(SIGNATURE_BYTES)
        size = ctypes.c_size_t(SIGNATURE_BYTES)
        with _context() as context:
            _check(_lib.EVP_DigestSignInit(context, None, None, None, self._key.at))
            _check(_lib.EVP_DigestSign(context, out, size, message, len(message)))
        return out.raw


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether the holder of a public key signed the message."""
    if len(public) != KEY_BYTES:
        return False
    key = _Key(_lib.EVP_PKEY_new_raw_public_key, public)
    with _context() as context:
        _check(_lib.EVP_DigestVerifyInit(context, None, None, None, key.at))
        result = _lib.EVP_DigestVerify(
            context, signature, len(signature), message, len(message)
        )
    # 0 is no, and less an error.
    # guard: a signature is good if OpenSSL accepts it
    return bool(result == _DONE)


def is_signed_by(note: Note, key: bytes) -> bool:
    """Return whether a note has a signature of this key over its text."""
    wanted = key_id(note.checkpoint.origin, key)
    return any(
        found == wanted and verify(key, signature, note.text.encode())
        for found, signature in note.signatures
    )


@contextmanager
def _context() -> Iterator[int]:
    context = _lib.EVP_MD_CTX_new()
    if context is None:
        raise _failed()
    try:
        yield context
    finally:
        _lib.EVP_MD_CTX_free(context)


def _check(result: int) -> None:
    if result != _DONE:
        raise _failed()


def _failed() -> InternalError:
    return InternalError("OpenSSL refuses Ed25519")
