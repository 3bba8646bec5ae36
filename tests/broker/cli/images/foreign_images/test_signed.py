"""Signed images: whole on the other side, and nothing else than was signed."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from broker.cli.images import installed
from broker.cli.images.building import files
from broker.cli.images.foreign_images import signed
from broker.core.errors import IntegrityError, SetupError, UpstreamError
from broker.core.paths import Paths
from broker.host.images import store
from broker.host.images.store import FORMAT, ImageSpec, Manifest

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "run", tmp_path / "state", tmp_path / "cache", ())


def image(place: Path):
    """An image of a few bytes, its root with holes."""
    place.mkdir()
    (place / "kernel").write_bytes(b"kernel")
    (place / "initrd").write_bytes(b"initrd" * 1000)
    with (place / "root").open("wb") as root:
        root.seek(3 << 20)
        root.write(b"root")
        root.truncate(9 << 20)
    manifest = Manifest(FORMAT, ImageSpec(), "6.1", {"foot": "1"}, 1.0, files.digest(place), "a")  # fmt: skip
    (place / "manifest.json").write_bytes(installed.manifest_bytes(manifest))
    return store.read_image("default", place)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    target = tmp_path / "image"
    signed.export_image(image(tmp_path / "made"), target, KEY)
    return target


def take(paths: Paths, archive: Path, key=KEY):
    origin = signed.ImageOrigin(key.public_key())
    return trio.run(signed.import_signed, paths, "tools", archive, origin, print)


def rewritten(archive: Path, change) -> Path:
    """The same archive, with its members changed by ``change(name, data)``."""
    out = io.BytesIO()
    with tarfile.open(archive) as old, tarfile.open(fileobj=out, mode="w") as new:
        for info in old:
            name, data = change(info.name, old.extractfile(info).read())
            member = tarfile.TarInfo(name)
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    archive.write_bytes(out.getvalue())
    return archive


def nothing_is_left(paths: Paths) -> bool:
    return [p.name for p in paths.images.iterdir()] == [".tools.lock"]


def test_an_image_is_whole_on_the_other_side(paths, archive, tmp_path):
    found = take(paths, archive)
    assert found.manifest.source == f"signed:{signed.fingerprint(KEY.public_key())}"
    assert (found.name, found.manifest.spec.name) == ("tools", "tools")
    for name in ("kernel", "initrd", "root"):
        assert (found.directory / name).read_bytes() == (tmp_path / "made" / name).read_bytes()  # fmt: skip
    assert found.root.stat().st_blocks * 512 < 4 << 20, "holes stay"
    assert store.find_image(paths, "tools").manifest.digest == found.manifest.digest


def test_another_key_is_refused_before_anything_is_read(paths, archive):
    with pytest.raises(IntegrityError, match="is not signed by the key"):
        take(paths, archive, OTHER)
    assert nothing_is_left(paths)


@pytest.mark.parametrize("member", ["manifest.json", "signature"])
def test_a_changed_byte_of_manifest_or_signature_is_refused(paths, archive, member):
    def change(name, data):
        return name, bytes([data[0] ^ 1]) + data[1:] if name == member else data

    with pytest.raises(IntegrityError, match="is not signed by the key"):
        take(paths, rewritten(archive, change))


@pytest.mark.parametrize("member", ["kernel", "initrd"])
def test_a_file_that_was_not_signed_is_refused(paths, archive, member):
    def change(name, data):
        return name, data + b"x" if name == member else data

    with pytest.raises(IntegrityError, match="differ from the signed files"):
        take(paths, rewritten(archive, change))
    assert nothing_is_left(paths)


@pytest.mark.parametrize("to", ["../../escaped", "/etc/passwd", "manifest.json"])
def test_names_in_the_archive_are_compared_and_never_used(paths, archive, to, tmp_path):
    def change(name, data):
        return (to if name == "kernel" else name), data

    with pytest.raises(UpstreamError, match="'kernel' is missing"):
        take(paths, rewritten(archive, change))
    assert not (tmp_path / "escaped").exists()


def test_a_root_that_grows_without_end_is_refused(paths, archive, monkeypatch):
    monkeypatch.setattr("broker.core.limits.IMAGE_IMPORT_BYTES", 1 << 20)
    with pytest.raises(UpstreamError, match="has more than 1 MiB"):
        take(paths, archive)
    assert nothing_is_left(paths)


@pytest.mark.parametrize("data", [b"", b"x" * 5000, bytes(10240)])
def test_something_else_is_refused(paths, tmp_path, data):
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(UpstreamError):
        take(paths, path)


def test_a_cut_file_is_refused(paths, archive):
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises((UpstreamError, IntegrityError)):
        take(paths, archive)
    assert nothing_is_left(paths)


def test_an_export_never_overwrites(archive, tmp_path):
    found = store.read_image("default", tmp_path / "made")
    before = archive.read_bytes()
    with pytest.raises(FileExistsError):
        signed.export_image(found, archive, KEY)
    assert archive.read_bytes() == before


def test_keys_are_ed25519_in_pem(tmp_path):
    private, public = tmp_path / "key", tmp_path / "pub"
    pem = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    private.write_bytes(KEY.private_bytes(*pem))
    public.write_bytes(
        KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    read = signed.read_private_key(private).public_key()
    assert signed.fingerprint(read) == signed.fingerprint(
        signed.read_public_key(public)
    )
    private.write_bytes(X25519PrivateKey.generate().private_bytes(*pem))
    for path, reader in ((private, signed.read_private_key), (tmp_path / "no", signed.read_public_key)):  # fmt: skip
        with pytest.raises(SetupError, match="key"):
            reader(path)


@pytest.mark.parametrize(
    "kind", [b"L", b"K", b"x", b"g", b"S", b"V"], ids=lambda kind: kind.decode()
)
def test_header_that_tar_reads_into_memory_is_refused(paths, archive, kind):
    header = tarfile.TarInfo("manifest.json")
    header.type, header.size = kind, 64 << 20
    block = header.tobuf(tarfile.GNU_FORMAT)
    archive.write_bytes(block + bytes(64 << 20) + archive.read_bytes())
    tracemalloc.start()
    try:
        with pytest.raises(UpstreamError, match="not a regular file"):
            take(paths, archive)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert nothing_is_left(paths)


def test_many_long_names_are_refused(paths, archive):
    header = tarfile.TarInfo("name")
    header.type = tarfile.GNUTYPE_LONGNAME
    archive.write_bytes(header.tobuf(tarfile.GNU_FORMAT) * 2000)
    with pytest.raises(UpstreamError, match="not a regular file"):
        take(paths, archive)


def test_member_of_negative_size_is_refused(paths, archive):
    header = tarfile.TarInfo("manifest.json")
    header.size = -512
    archive.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + archive.read_bytes())
    with pytest.raises(UpstreamError, match="not a regular file"):
        take(paths, archive)


def test_export_has_one_header_for_a_large_member(archive):
    assert archive.read_bytes()[257:265] == b"ustar  \0"
