"""Guest images as one signed file: made on one machine, checked and used on another.

A tar archive with, in this order, ``manifest.json``, ``signature``, ``kernel``,
``initrd`` and ``root``, the last compressed by gzip.  The signature is Ed25519 (RFC
8032) over ``CONTEXT`` and the manifest's bytes; the manifest has the digest of the
other three.  So nothing of the file is parsed before it is known who made it, but for
the headers of two small members.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from typing_extensions import override

from broker.cli import render
from broker.cli.images import installed
from broker.cli.images.building import files
from broker.cli.images.building.build import put_in_place
from broker.cli.images.building.build_room import Progress, need_space, only_build
from broker.cli.images.foreign_images.importing import image_room
from broker.core import limits
from broker.core.decoding import UNREADABLE
from broker.core.errors import IntegrityError, SetupError, UpstreamError
from broker.core.paths import Paths
from broker.host.images import store
from broker.host.images.store import Image, Manifest
from broker.ipc.in_thread import in_thread

CONTEXT = b"vitrail guest image 1\n"
"""Signed before the manifest: no signature for another purpose is one for an image."""
_MANIFEST, _SIGNATURE = "manifest.json", "signature"
_FILES = ("kernel", "initrd", "root")
_MANIFEST_BYTES = 4 << 20
_SIGNATURE_BYTES = 64
BEGIN_BYTES = _MANIFEST_BYTES + _SIGNATURE_BYTES + 4 * tarfile.BLOCKSIZE
"""Size of the largest manifest and its signature in a file, in bytes."""
_CHUNK = 1 << 20
_HINT = (
    "specify an unencrypted key in PEM format; to create one, run 'openssl genpkey -algorithm "
    "ed25519 -out KEY'; to write its public key, run 'openssl pkey -in KEY -pubout -out PUBLIC'"
)
_VERSION_HINT = (
    "export the image again with the version of Vitrail that this machine has"
)
_PUBLIC_HINT = (
    "specify the public key of the image's exporter, which 'openssl pkey -in KEY -pubout -out "
    "PUBLIC' wrote"
)
_ARCHIVE_HINT = "with --key, specify a file that 'brokerctl image export' wrote"


class _RegularMember(tarfile.TarInfo):
    """A member with one header of 512 bytes.

    ``tarfile`` reads the other headers (long names, pax, sparse maps) into memory.
    """

    @classmethod
    @override
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        regular = member.type in {tarfile.REGTYPE, tarfile.AREGTYPE}
        # guard: a signed image has regular files only
        if not regular or member.size < 0:
            raise UpstreamError(
                "the archive is not a signed image: it has a member that is not a "
                "regular file",
                hint=_ARCHIVE_HINT,
            )
        return member


@dataclass(frozen=True)
class ImageOrigin:
    """The signer of an image, and the digest of its manifest, "" for any."""

    key: Ed25519PublicKey
    digest: str = ""


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 private key from a PEM file.  Raises SetupError."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SetupError(
            f"cannot read the private key {path}: {render.cause(error)}",
            hint=_HINT,
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SetupError(f"the private key {path} is not an Ed25519 key", hint=_HINT)
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Read the public part of an Ed25519 key (PEM).  Raises SetupError."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise SetupError(
            f"cannot read the public key {path}: {render.cause(error)}",
            hint=_PUBLIC_HINT,
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise SetupError(
            f"the public key {path} is not an Ed25519 key",
            hint=_PUBLIC_HINT,
        )
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return 16 hex digits by which people tell keys apart."""
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def export_image(image: Image, target: Path, key: Ed25519PrivateKey) -> None:
    """Write a signed image to a new file.  Blocks; raises OSError."""
    manifest = installed.manifest_bytes(image.manifest)
    try:
        with (
            target.open("xb") as out,
            # This format has no further header for a size over 8 GiB.
            tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar,
        ):
            _add(tar, _MANIFEST, manifest)
            _add(tar, _SIGNATURE, key.sign(CONTEXT + manifest))
            for name in _FILES[:2]:
                _add(tar, name, (image.directory / name).read_bytes())
            with _packed(image.root, target) as packed:
                info = tarfile.TarInfo(_FILES[2])
                info.size = packed.seek(0, io.SEEK_END)
                packed.seek(0)
                tar.addfile(info, packed)
    except FileExistsError:
        raise
    except BaseException:
        target.unlink(missing_ok=True)
        raise


@contextmanager
def _packed(source: Path, beside: Path) -> Iterator[IO[bytes]]:
    """Yield an unnamed file with a compressed copy, as tar wants its size first."""
    fd = os.open(beside.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w+b") as packed:
        with (
            gzip.GzipFile("", "wb", 1, packed, mtime=0) as out,
            source.open("rb") as file,
        ):
            shutil.copyfileobj(file, out, _CHUNK)
        yield packed


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


async def import_signed(
    paths: Paths, name: str, archive: Path, origin: ImageOrigin, progress: Progress
) -> Image:
    """Make the image ``name`` of a signed file.

    Raises IntegrityError when ``origin``'s key did not sign it or its files are others,
    RefusedError if it would replace a newer image or one of another key, UpstreamError
    when it is not such a file.
    """
    store.take_image_name(name)
    paths.images.mkdir(parents=True, exist_ok=True)
    async with only_build(paths.images / f".{name}.lock", progress):
        need_space(paths.images, "the image")
        return await import_locked(paths, name, archive, origin, progress)


async def import_locked(
    paths: Paths, name: str, archive: Path, origin: ImageOrigin, progress: Progress
) -> Image:
    """Do the same as ``import_signed``, with the lock of the image's builds held."""
    async with image_room(paths, name) as work:
        progress("checking the signature")
        return await in_thread(_import, paths, name, archive, origin, work)


def verify_begin(paths: Paths, name: str, archive: Path, origin: ImageOrigin) -> None:
    """Check the manifest of a file that may be incomplete.

    Raises as ``import_signed``.
    """
    with _members_of(archive) as (tar, members):
        _accepted_manifest(paths, name, _manifest(tar, members, origin.key), origin)


def _accepted_manifest(
    paths: Paths, name: str, manifest: Manifest, origin: ImageOrigin
) -> Manifest:
    """Return the manifest with its source, if it may become the image ``name``."""
    # guard: a signed image has the digest that was named
    if origin.digest and manifest.digest != origin.digest:
        raise IntegrityError(
            f"the image has the digest {manifest.digest}, not {origin.digest}",
            hint="compare the digest with the one that 'brokerctl image export' "
            "printed, or 'brokerctl image list --json' where the image was built",
        )
    source = f"{installed.SIGNED}{fingerprint(origin.key)}"
    installed.refuse_downgrade(paths, name, source, manifest.built)
    spec = installed.renamed(manifest.spec, name)
    return msgspec.structs.replace(manifest, source=source, spec=spec)


@contextmanager
def _members_of(
    archive: Path,
) -> Iterator[tuple[tarfile.TarFile, Iterator[tarfile.TarInfo]]]:
    """Yield the archive and its members.  Raises UpstreamError if it cannot be read."""
    try:
        with (
            archive.open("rb") as file,
            tarfile.open(fileobj=file, mode="r|", tarinfo=_RegularMember) as tar,
        ):
            yield tar, iter(tar)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UpstreamError(f"{archive} is not a signed image: {error}") from error


def _import(
    paths: Paths, name: str, archive: Path, origin: ImageOrigin, work: Path
) -> Image:
    """Unpack, verify and install a signed image."""
    with _members_of(archive) as (tar, members):
        manifest = _manifest(tar, members, origin.key)
        manifest = _accepted_manifest(paths, name, manifest, origin)
        _unpack(tar, members, work)
    # guard: a signed image has the files that were signed
    if files.digest(work) != manifest.digest:
        raise IntegrityError(
            f"cannot import {archive}: its files differ from the signed files",
            hint="copy the archive again from the machine that exported the image",
        )
    (work / _MANIFEST).write_bytes(installed.manifest_bytes(manifest))
    return put_in_place(paths, name, work)


def _manifest(
    tar: tarfile.TarFile, members: Iterator[tarfile.TarInfo], key: Ed25519PublicKey
) -> Manifest:
    """Read the manifest and verify its signature.  Raises UpstreamError."""
    data = _small(tar, members, _MANIFEST, _MANIFEST_BYTES)
    signature = _small(tar, members, _SIGNATURE, _SIGNATURE_BYTES)
    try:
        # guard: an image is signed by the key that was named
        key.verify(signature, CONTEXT + data)
    except InvalidSignature as error:
        raise IntegrityError(
            f"cannot import the image: it is not signed by the key {fingerprint(key)}",
            hint="with --key, specify the public key of the exporter of the image",
        ) from error
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except UNREADABLE as error:
        raise UpstreamError(
            f"cannot read the archive's manifest: {error}",
            hint=_VERSION_HINT,
        ) from error
    if manifest.format != store.FORMAT:
        raise UpstreamError(
            f"the archive has format {manifest.format}; this version reads format "
            f"{store.FORMAT}",
            hint=_VERSION_HINT,
        )
    return manifest


def _small(
    tar: tarfile.TarFile, members: Iterator[tarfile.TarInfo], name: str, most: int
) -> bytes:
    """Read the next small member of the archive, which must have this name."""
    info = next(members, None)
    if info is None or info.name != name or not info.isreg() or info.size > most:
        raise UpstreamError(
            f"the archive is not a signed image: member '{name}' is missing, out of "
            "order or too large",
            hint=_ARCHIVE_HINT,
        )
    file = tar.extractfile(info)
    return b"" if file is None else file.read(most)


def _unpack(
    tar: tarfile.TarFile, members: Iterator[tarfile.TarInfo], work: Path
) -> None:
    """Unpack the image's files in their order."""
    for name in _FILES:
        info = next(members, None)
        if info is None or info.name != name or not info.isreg():
            raise UpstreamError(
                f"the archive is not a signed image: member '{name}' is missing or "
                "out of order",
                hint=_ARCHIVE_HINT,
            )
        file = tar.extractfile(info)
        assert file is not None  # isreg()
        # Names are ours, from the list; those in the archive are compared only.
        with (work / name).open("xb") as out:
            source = gzip.GzipFile(fileobj=file) if name == "root" else file
            _copy(source, out, name)


def _copy(source: gzip.GzipFile | IO[bytes], out: IO[bytes], name: str) -> None:
    """Copy a stream into a sparse file.

    Raises UpstreamError over ``IMAGE_IMPORT_BYTES``.
    """
    total = 0
    while data := source.read(_CHUNK):
        total += len(data)
        if total > limits.IMAGE_IMPORT_BYTES:
            raise UpstreamError(
                f"cannot import the image: the archive's file '{name}' has more "
                f"than {limits.IMAGE_IMPORT_BYTES >> 20} MiB"
            )
        if data.count(0) == len(data):
            out.seek(len(data), io.SEEK_CUR)
        else:
            out.write(data)
    out.truncate()
