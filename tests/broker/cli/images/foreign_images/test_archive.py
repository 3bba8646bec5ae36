"""OCI archives: digests, sizes, and everything a stranger may write into one."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile

import pytest

from broker.cli.images.foreign_images import archive as archives
from broker.cli.images.foreign_images import importing
from broker.cli.images.foreign_images.archive import ArchiveError, OciArchive
from broker.cli.images.foreign_images.importing import (
    import_image,
    merge_archive,
    save_from_podman,
)
from broker.cli.images.foreign_images.kernel_choice import KernelChoice
from broker.core.errors import SetupError, UpstreamError
from broker.core.paths import Paths
from broker.helpers.process.tool_jail import jail_words
from tests.kit.needs import NEEDS_JAIL

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def tar_of(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Oci:
    """An archive on its way: blobs by digest, and an index."""

    def __init__(self):
        self.files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def blob(self, data):
        digest = hashlib.sha256(data).hexdigest()
        self.files[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def document(self, **fields):
        return self.blob(json.dumps(fields).encode())

    def image(self, *layers):
        return self.document(
            config=self.blob(b"{}"), layers=[self.blob(layer) for layer in layers]
        )

    def index(self, *manifests):
        self.files["index.json"] = json.dumps({"manifests": [*manifests]}).encode()
        return self

    def data(self):
        return tar_of(self.files)


def image(*layers):
    oci = Oci()
    return oci.index(oci.image(*layers))


def opened(oci):
    return OciArchive(io.BytesIO(oci.data()))


def unpacked(oci, most=1 << 20):
    archive = opened(oci)
    _, manifest = archive.manifest("amd64")
    out = io.BytesIO()
    for digest in archive.layers(manifest):
        archive.unpack(digest, out, most)
    return out.getvalue()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_layer_is_unpacked(pack):
    assert unpacked(image(pack(b"tar" * 1000))) == b"tar" * 1000


def test_joined_gzip_streams_are_one():
    assert unpacked(image(gzip.compress(b"a") + gzip.compress(b"b"))) == b"ab"


def test_a_blob_with_another_digest_is_refused():
    oci = image(b"layer")
    for name in oci.files:
        if oci.files[name] == b"layer":
            oci.files[name] = b"other"
    with pytest.raises(ArchiveError, match="does not match its digest"):
        unpacked(oci)


def test_a_layer_that_grows_without_end_is_refused():
    bomb = gzip.compress(bytes(8 << 20))
    assert len(bomb) < 10_000
    with pytest.raises(ArchiveError, match="larger than 1 MiB"):
        unpacked(image(bomb))


@pytest.mark.parametrize(
    "damage",
    [b"\x1f\x8bnot gzip", gzip.compress(b"x" * 99, mtime=0)[:-9]],
    ids=["no gzip", "cut"],
)
def test_a_damaged_layer_is_refused(damage):
    with pytest.raises(ArchiveError, match=r"decompressed|truncated"):
        unpacked(image(damage))


def test_zstd_is_refused_with_what_to_do():
    with pytest.raises(ArchiveError, match="zstd"):
        unpacked(image(b"\x28\xb5\x2f\xfdxxxx"))


def test_the_image_of_this_architecture_is_taken():
    oci = Oci()
    ours, other = oci.image(b"ours"), oci.image(b"other")
    here = {"os": "linux", "architecture": "amd64"}
    there = {"os": "linux", "architecture": "arm64"}
    nested = oci.document(manifests=[ours | {"platform": here}, other | {"platform": there}])  # fmt: skip
    oci.index(nested | {"mediaType": archives._INDEX[0]})
    assert unpacked(oci) == b"ours"
    oci.index(ours, other)
    with pytest.raises(ArchiveError, match="2 of 2 images"):
        unpacked(oci)


@pytest.mark.parametrize(
    "index",
    [b"", b"[]", b"{}", b'{"manifests":[]}', b'{"manifests":[1]}', b"[" * 100_000,
     b'{"manifests":[{"digest":"sha256:../../etc/passwd"}]}',
     b'{"manifests":[{"digest":"md5:00"}]}', b'{"manifests":[{"digest":{}}]}'],
)  # fmt: skip
def test_an_index_that_is_none_is_refused(index):
    oci = Oci()
    oci.files["index.json"] = index
    with pytest.raises(ArchiveError):
        unpacked(oci)


@pytest.mark.parametrize("layers", [[], {}, None, [{}], [{"digest": 1}], [{}] * 200])
def test_a_manifest_without_layers_is_refused(layers):
    oci = Oci()
    oci.index(oci.document(layers=layers))
    with pytest.raises(ArchiveError):
        unpacked(oci)


def test_a_file_that_is_not_an_oci_archive_names_the_expected_format():
    with pytest.raises(ArchiveError, match="oci-archive"):
        OciArchive(io.BytesIO(tar_of({"manifest.json": b"[]"})))
    with pytest.raises(ArchiveError, match="not a tar archive"):
        OciArchive(io.BytesIO(b"\x1f\x8b" * 1000))


# -- the program in its jail -------------------------------------------------------

ROOT = {"usr/bin/python3": b"#!", "usr/bin/waypipe": b"#!", "etc/motd": b"hello"}


async def merge(tmp_path, data):
    path = tmp_path / "archive"
    path.write_bytes(data)
    work = tmp_path / "work"
    work.mkdir()
    merged = await merge_archive(path, work)
    return merged, work


@NEEDS_JAIL
async def test_an_archive_is_merged_in_a_jail(tmp_path):
    layers = gzip.compress(tar_of(ROOT)), tar_of({"etc/.wh.motd": b"", "etc/x": b"1"})
    merged, work = await merge(tmp_path, image(*layers).data())
    assert sorted(p.name for p in work.iterdir()) == ["root.tar"]
    with tarfile.open(work / "root.tar") as archive:
        found = archive.getnames()
    assert "./etc/x" in found
    assert "./usr/lib/vitrail/vitrail_guest.py" in found
    assert "./etc/motd" not in found
    assert merged.digest.startswith("sha256:")


@NEEDS_JAIL
@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({**ROOT, "../../escaped": b"x"}, "'..'"),
        ({"usr/bin/python3": b"", "etc/x": b""}, "does not contain waypipe"),
    ],
)
async def test_a_hostile_or_unfit_archive_leaves_nothing(tmp_path, files, error):
    with pytest.raises((SetupError, UpstreamError), match=error):
        await merge(tmp_path, image(tar_of(files)).data())
    assert not (tmp_path / "escaped").exists()
    left = sorted(p.name for p in (tmp_path / "work").iterdir())
    assert left == [], "no layer, no archive"


@NEEDS_JAIL
async def test_a_header_that_claims_gigabytes_takes_no_memory(tmp_path):
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    head = info.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(UpstreamError, match="cannot import the archive"):
        await merge(tmp_path, image(head + bytes(1 << 20)).data())


@NEEDS_JAIL
@pytest.mark.parametrize("link", ["root.tar", "kernel", "root", "manifest.json"])
async def test_a_merge_that_was_taken_over_leaves_no_link(tmp_path, monkeypatch, link):
    # It runs in the real jail, and has that directory to write to.
    program = f"""
import os
open("/work/root.tar", "wb").close()
if os.path.exists("/work/{link}"):
    os.unlink("/work/{link}")
os.symlink("{tmp_path}/outside", "/work/{link}")
os.mkdir("/work/closed", 0)
print("{{}}")
"""
    monkeypatch.setattr(importing, "_START", program)
    path, work = tmp_path / "archive", tmp_path / "work"
    path.write_bytes(b"")
    work.mkdir()
    if link == "root.tar":
        with pytest.raises(UpstreamError, match="is not a regular file"):
            await merge_archive(path, work)
        assert list(work.iterdir()) == []
        return
    await merge_archive(path, work)
    assert [p.name for p in work.iterdir()] == ["root.tar"]


def test_the_jail_has_no_home_and_no_network(tmp_path):
    words = jail_words(tmp_path, {tmp_path / "a": "/a"})
    assert "--unshare-all" in words
    assert "--share-net" not in words
    home = os.path.expanduser("~")
    shown = [w for n, w in enumerate(words) if words[n - 1].endswith("bind")]
    assert home not in shown
    assert "/" not in shown


@pytest.mark.parametrize("name", ["", "--output=/etc/x"])
async def test_a_podman_name_is_not_an_option(tmp_path, name):
    with pytest.raises(Exception, match="not a name of a Podman image"):
        await save_from_podman(name, tmp_path, print)


async def test_an_import_without_a_base_says_what_to_build(tmp_path):
    paths = Paths(tmp_path / "run", tmp_path / "state", tmp_path / "cache", ())
    path = tmp_path / "archive"
    path.write_bytes(image(tar_of(ROOT)).data())
    with pytest.raises(SetupError, match="no guest image"):
        await import_image(paths, "mine", path, KernelChoice(), print)
