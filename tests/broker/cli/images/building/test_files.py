from __future__ import annotations

import io
import os
import subprocess
import tarfile

import pytest

from broker.cli.images.building import build_room
from broker.cli.images.building import files as image_files
from broker.core.errors import UpstreamError
from broker.host.images.store import SHARED_IMAGE_ALIGN
from tests.kit.needs import requires

needs_tools = requires("genext2fs")


def put_tar(path, files, *, directories=("./",)):
    """A tar archive as mmdebstrap makes it: owners, modes, one time."""
    with tarfile.open(path, "w") as archive:
        for name in directories:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.mtime = (
                tarfile.DIRTYPE,
                0o755,
                1_600_000_000,
            )
            archive.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1_600_000_000
            member.uid, member.gid, member.mode = 1000, 42, 0o4750
            archive.addfile(member, io.BytesIO(content))


def debugfs(image, command):
    done = subprocess.run(
        [build_room.which("debugfs"), "-R", command, str(image)],
        capture_output=True,
        check=True,
        timeout=20,
    )
    return done.stdout


@needs_tools
async def test_root_has_owners_modes_and_contents(tmp_path):
    put_tar(
        tmp_path / "root.tar", {"./file": b"content", "./ü": b"", "./big": bytes(70000)}
    )
    await image_files.make_root(tmp_path, 0)
    assert debugfs(tmp_path / "root", "cat /file") == b"content"
    said = debugfs(tmp_path / "root", "stat /file").decode()
    assert "Mode:  04750" in said
    assert "User:  1000   Group:    42" in said
    assert b"xc3" in debugfs(tmp_path / "root", "ls /"), "not only ASCII"
    assert not (tmp_path / "root.tar").exists()
    assert (tmp_path / "root").stat().st_size % SHARED_IMAGE_ALIGN == 0


@needs_tools
async def test_equal_archives_give_equal_file_systems(tmp_path):
    made = []
    for name in ("one", "two"):
        work = tmp_path / name
        work.mkdir()
        put_tar(
            work / "root.tar", {f"./f{n}": os.fsencode(str(n)) * n for n in range(300)}
        )
        await image_files.make_root(work, 0)
        made.append((work / "root").read_bytes())
    assert made[0] == made[1]


@pytest.mark.slow
@needs_tools
async def test_many_small_files_and_large_ones_fit(tmp_path):
    """The measure must not be too small for what ext2 adds to the contents."""
    files = {f"./d/{n:05}{'x' * 200}": b"." for n in range(6000)}
    files["./large"] = bytes(100) + os.urandom(1 << 16) * 600
    put_tar(tmp_path / "root.tar", files, directories=("./", "./d"))
    await image_files.make_root(tmp_path, 0)
    assert b"Size: 39321700" in debugfs(tmp_path / "root", "stat /large")


@needs_tools
async def test_least_size_is_kept_as_a_hole(tmp_path):
    put_tar(tmp_path / "root.tar", {"./file": b"x"})
    await image_files.make_root(tmp_path, 256 << 20)
    status = (tmp_path / "root").stat()
    assert status.st_size == 256 << 20
    assert status.st_blocks * 512 < 16 << 20


def test_missing_kernel_is_named(tmp_path):
    with pytest.raises(UpstreamError, match="boot/vmlinuz"):
        image_files._make_initrd(tmp_path, tmp_path)


def test_versions(tmp_path):
    (tmp_path / "packages").write_text("a\t1:2-3\nb\t4\n")
    assert image_files.read_versions(tmp_path / "packages") == {"a": "1:2-3", "b": "4"}
