"""Programs that make a file system of an image's root, after its archive took them over."""

from __future__ import annotations

import socket
import tarfile

import pytest

from broker.cli.images.building import files
from broker.core.errors import UpstreamError
from tests.kit.needs import requires
from tests.kit.taken_over import taken_over

pytestmark = requires("genext2fs", "bwrap")


def _archive(path):
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("./")
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(info)


def _take_over(monkeypatch, *words):
    monkeypatch.setattr(files, "_GENEXT2FS", words)
    monkeypatch.setattr(files, "_E2FSCK", ("true",))


async def test_taken_over_genext2fs_reads_no_home_and_reaches_no_session(
    tmp_path, monkeypatch
):
    work = tmp_path / "work"
    work.mkdir()
    _archive(work / "root.tar")
    secret, outside = tmp_path / "key", tmp_path / "bashrc"
    secret.write_text("key")
    name = f"vitrail-test-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX) as session:
        session.bind("\0" + name)
        session.listen()
        _take_over(monkeypatch, *taken_over("root", secret, outside, name))
        await files.make_root(work, 0)
    assert (work / "root").read_bytes().rstrip(b"\0") == b"nothing"
    assert not outside.exists()


async def test_taken_over_genext2fs_makes_no_file_of_the_persons_a_disk(
    tmp_path, monkeypatch
):
    work = tmp_path / "work"
    work.mkdir()
    _archive(work / "root.tar")
    (tmp_path / "key").write_text("key")
    program = f"import os; os.symlink({str(tmp_path / 'key')!r}, 'root')"
    _take_over(monkeypatch, "/usr/bin/python3", "-c", program)
    with pytest.raises(UpstreamError, match="did not write a regular file"):
        await files.make_root(work, 0)
    assert list(work.iterdir()) == []


async def test_header_of_root_that_claims_gigabytes_takes_no_memory(tmp_path):
    # A merge that was taken over writes root.tar, a sparse file.
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 3 << 30
    with (tmp_path / "root.tar").open("wb") as out:
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        out.truncate(4 << 30)
    with pytest.raises(UpstreamError, match="needs more memory than allowed"):
        await files.make_root(tmp_path, 0)
