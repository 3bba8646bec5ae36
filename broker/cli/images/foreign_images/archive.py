"""An OCI image in an archive: its index, manifest and layers, each by its digest.

Source: the OCI image layout and manifest specifications.  Standard library only; the
archive is a stranger's, and this runs in a jail.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

JSON_BYTES = 4 << 20
LAYERS = 128
MEMBERS = 4096
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_CHUNK = 1 << 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_INDEX = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_NESTED = 4


class ArchiveError(Exception):
    """The archive is not an OCI image, or Vitrail cannot use it."""


class OciArchive:
    """An image in an uncompressed tar archive (``podman save --format oci-archive``)."""

    def __init__(self, file: IO[bytes]) -> None:
        try:
            self._tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (kept open)
            self._members = self._list()
        except tarfile.TarError as error:
            raise ArchiveError(f"the file is not a tar archive: {error}") from error
        if "index.json" not in self._members:
            raise ArchiveError(
                "index.json is missing; use an OCI archive "
                "('podman save --format oci-archive', 'skopeo copy … oci-archive:FILE')"
            )

    def _list(self) -> dict[str, tarfile.TarInfo]:
        found: dict[str, tarfile.TarInfo] = {}
        for count, info in enumerate(self._tar):
            if count >= MEMBERS:
                raise ArchiveError(f"the archive contains more than {MEMBERS} files")
            if info.isreg():
                found[info.name.removeprefix("./")] = info
        return found

    def manifest(self, architecture: str) -> tuple[str, dict[str, Any]]:
        """Return digest and content of the image's manifest.

        Raises ArchiveError if none exists, or several of that architecture.
        """
        index = self._json("index.json")
        for _ in range(_NESTED):
            digest, kind = _choose(index, architecture)
            document = json_of(self.blob(digest))
            if kind not in _INDEX and "manifests" not in document:
                return digest, document
            index = document
        raise ArchiveError("the indexes are nested too deeply")

    def layers(self, manifest: dict[str, Any]) -> list[str]:
        """Return the digests of the layers, the lowest first.  Raises ArchiveError."""
        layers = manifest.get("layers")
        if not isinstance(layers, list) or not 0 < len(layers) <= LAYERS:
            raise ArchiveError(f"the manifest does not list 1 to {LAYERS} layers")
        return [_digest(layer) for layer in layers]

    def blob(self, digest: str) -> bytes:
        """Return a small blob, its digest checked."""
        return b"".join(self._blob(digest, JSON_BYTES))

    def unpack(self, digest: str, out: IO[bytes], most: int) -> int:
        """Write a layer, decompressed and verified; return its size.

        Raises ArchiveError for another digest than its name's, or more bytes.
        """
        written = 0
        for data in decompressed(self._blob(digest, most)):
            written += len(data)
            # guard: a layer that grows without end is refused
            if written > most:
                raise ArchiveError(f"a layer is larger than {most >> 20} MiB")
            out.write(data)
        return written

    def _json(self, name: str) -> dict[str, Any]:
        return json_of(b"".join(self._read(name, JSON_BYTES)))

    def _blob(self, digest: str, most: int) -> Iterator[bytes]:
        found = _DIGEST.fullmatch(digest)
        if found is None:
            raise ArchiveError("a digest is not SHA-256")
        total = hashlib.sha256()
        for data in self._read(f"blobs/sha256/{found[1]}", most):
            total.update(data)
            yield data
        # guard: a blob has its own digest
        if total.hexdigest() != found[1]:
            raise ArchiveError("a blob does not match its digest")

    def _read(self, name: str, most: int) -> Iterator[bytes]:
        info = self._members.get(name)
        if info is None:
            raise ArchiveError(f"{name} is missing")
        if info.size > most:
            raise ArchiveError(f"{name} is larger than {most >> 20} MiB")
        file = self._tar.extractfile(info)
        if file is None:
            raise ArchiveError(f"{name} is not a regular file")
        with file:
            while data := file.read(_CHUNK):
                yield data


def json_of(data: bytes) -> dict[str, Any]:
    """Decode a JSON object.  Raises ArchiveError."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"a JSON file is malformed: {error}") from error
    if not isinstance(found, dict):
        raise ArchiveError("a JSON file does not contain an object")
    return found


def _digest(untrusted: object) -> str:
    digest = untrusted.get("digest") if isinstance(untrusted, dict) else None
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        raise ArchiveError("a descriptor has no SHA-256 digest")
    return digest


def _choose(index: dict[str, Any], architecture: str) -> tuple[str, str]:
    """Return digest and kind of the index's image for an architecture."""
    entries = index.get("manifests")
    if not isinstance(entries, list) or not entries:
        raise ArchiveError("the index does not list an image")
    fitting = [e for e in entries if _fits(e, architecture)]
    if len(fitting) != 1:
        raise ArchiveError(
            f"{len(fitting)} of {len(entries)} images in the archive are for "
            f"linux/{architecture}, but exactly one is required"
        )
    kind = fitting[0].get("mediaType")
    return _digest(fitting[0]), kind if isinstance(kind, str) else ""


def _fits(untrusted: object, architecture: str) -> bool:
    """Return whether an index's entry is for this architecture."""
    if not isinstance(untrusted, dict):
        return False
    platform = untrusted.get("platform")
    if not isinstance(platform, dict):
        return True
    return (
        platform.get("os") == "linux" and platform.get("architecture") == architecture
    )


def decompressed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the bytes of a gzip or an uncompressed stream, in bounded pieces.

    Raises ArchiveError.
    """
    first = next(chunks, b"")
    if first.startswith(_ZSTD):
        raise ArchiveError(
            "the layers are compressed with zstd, which is not supported; convert them "
            "with 'skopeo copy --dest-compress-format gzip'"
        )
    if not first.startswith(_GZIP):
        yield first
        yield from chunks
        return
    yield from _inflate(first, chunks)


def _inflate(first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the decompressed pieces of a gzip stream.  Raises ArchiveError."""
    unpacker = zlib.decompressobj(wbits=31)
    data = first
    while True:
        try:
            piece = unpacker.decompress(data, _CHUNK)
        except zlib.error as error:
            raise ArchiveError(f"a layer cannot be decompressed: {error}") from error
        if piece:
            yield piece
        data = unpacker.unconsumed_tail
        if unpacker.eof:
            # gzip(1) reads one archive after the other as one.
            data = unpacker.unused_data or next(chunks, b"")
            if not data:
                return
            unpacker = zlib.decompressobj(wbits=31)
        elif not data and not piece:
            data = next(chunks, b"")
            if not data:
                raise ArchiveError("a layer is truncated")
