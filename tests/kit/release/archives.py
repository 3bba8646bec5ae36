"""Write and read archives of a release.

``python -m tests.kit.release.archives FILE.tar.gz DIRECTORY NAME EPOCH`` writes the tree as
``NAME/``: the same bytes from the same files, whoever builds them, and when.
"""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = {".deb": "dpkg-deb", ".rpm": "bsdtar", ".raw": "sqfs2tar"}
"""What unpacks a package, by the end of its name."""


def write_archive(target: Path, root: Path, name: str, epoch: int) -> None:
    """Write the files below ``root`` to a tar archive, sorted and without owners."""
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", mtime=epoch, fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(root.rglob("*"), key=lambda path: path.parts):
            member = archive.gettarinfo(path, f"{name}/{path.relative_to(root)}")
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = epoch
            executable = member.isdir() or member.mode & 0o100
            member.mode = 0o755 if executable else 0o644
            with path.open("rb") if member.isfile() else io.BytesIO() as content:
                archive.addfile(member, content)


def read_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the path and content of each file of a package; a link's is "-> TARGET".

    Runs dpkg-deb(1), bsdtar(1) or sqfs2tar(1) for the packages that they read.
    """
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for name in sorted(wheel.namelist()):
                yield name, wheel.read(name)
        return
    if path.suffix == ".deb":
        content = _run("dpkg-deb", "--fsys-tarfile", path)
    elif path.suffix == ".rpm":
        content = _run("bsdtar", "-cf", "-", f"@{path}")
    elif path.suffix == ".raw":
        content = _run("sqfs2tar", path)
    else:
        content = path.read_bytes()
    yield from read_tar(content)


def read_tar(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the path and content of each file and link of a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.issym():
                yield name, f"-> {member.linkname}".encode()
            elif file := archive.extractfile(member):
                yield name, file.read()


def missing_program(path: Path) -> str:
    """Return the program that would unpack this kind of package and is not installed."""
    program = PROGRAMS.get(path.suffix, "")
    return program if program and not shutil.which(program) else ""


def _run(*argv: str | Path, stdin: Path | None = None) -> bytes:
    with (stdin or Path("/dev/null")).open("rb") as file:
        return subprocess.run(
            argv, stdin=file, stdout=subprocess.PIPE, check=True
        ).stdout


if __name__ == "__main__":
    target, root, name, epoch = sys.argv[1:]
    write_archive(Path(target), Path(root), name, int(epoch))
