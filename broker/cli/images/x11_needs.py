"""Find programs that need X11, and tell the user at build, start and end.

A program's libraries tell: it needs libX11 or libxcb, directly or by another library,
and nothing that speaks Wayland.  Libraries that are loaded while it runs (plugins of Qt,
SDL) are not in its file, so toolkits count as Wayland where the image has their plugin.
"""

from __future__ import annotations

import posixpath
import shutil
import struct
import sys
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from broker.cli.images.installed import list_images
from broker.core.escape import printable
from broker.core.paths import Paths
from broker.host.images.store import REQUIRED_PACKAGES

X_SERVER = "xwayland"
"""The package by which an image shows X11 programs (docs/x11.md)."""

FILE = "x11-programs"
"""Beside an image's manifest: a name a line; none where it is missing."""

_X11 = frozenset({"libX11.so.6", "libxcb.so.1", "libXt.so.6"})
_WAYLAND = ("libwayland-client.so", "libgtk-3.so", "libgtk-4.so", "libSDL2-", "libSDL3")
_QT = ("libQt5Gui.so", "libQt6Gui.so")
_QT_PLUGIN = "/platforms/libqwayland"
_PROGRAMS = ("usr/bin", "usr/games", "bin")
_LIBRARIES = ("usr/lib", "lib")
_MOST_BYTES = 1 << 20
"""Of one table of a file."""


def x11_programs(archive: Path, packages: Iterable[str]) -> list[str]:
    """Return the programs of packages in ``root.tar`` that need X11, sorted.

    Raises OSError and tarfile.TarError where the archive cannot be read.
    """
    with tarfile.open(archive) as tar:
        files = {_plain(member.name): member for member in tar if not member.isdir()}
        libraries = {
            posixpath.basename(name): name
            for name in files
            if ".so" in name and name.startswith(_LIBRARIES)
        }
        image = _Image(tar, files, libraries)
        return sorted(
            posixpath.basename(name)
            # The agent's own show no windows: waypipe 0.8 needs libX11 by libva only.
            for name in _programs_of(tar, files, {*packages} - {*REQUIRED_PACKAGES})
            if image.needs_x11(name)
        )


def note_x11(directory: Path, names: Iterable[str]) -> None:
    """Keep the names beside an image's manifest."""
    (directory / FILE).write_text("".join(f"{name}\n" for name in names))


def sentence(program: str, directory: Path) -> str:
    """Return the note to print before a program of an image starts, or ""."""
    try:
        names = (directory / FILE).read_text(encoding="utf-8").split()
    except OSError:
        return ""
    name = posixpath.basename(program)
    return needs_x11_text([name], directory.name) if name in names else ""


def needs_x11_text(names: Iterable[str], image: str) -> str:
    """Return the sentence about programs that need X11."""
    shown = ", ".join(names)
    return (
        f"the image {image} lacks X11, which these programs need: {shown}; "
        f"to add X11, run '{addition(image)}'"
    )


def addition(image: str) -> str:
    """Return the command that adds X11 to an image."""
    return f"brokerctl image build {image} --x11"


def lacks_x11(paths: Paths, image: str) -> bool:
    """Return whether an image is there and has no X server."""
    found = (each for each in list_images(paths) if each.name == image)
    return any(X_SERVER not in each.manifest.spec.all_packages for each in found)


def tell_failed(program: str) -> None:
    """Print a note if a failed program of a box without X11 needs X11.

    Its own words name a variable, and no way out.
    """
    try:
        with Path(shutil.which(program) or program).open("rb") as file:
            direct = needed_libraries(file)
    except (OSError, ValueError, OverflowError, struct.error):
        return
    if direct & _X11 and not any(one.startswith(_WAYLAND) for one in direct):
        name = printable(posixpath.basename(program), 60)
        sys.stderr.write(
            f"{name} needs X11, which this box lacks; run 'brokerctl run --bwrap "
            f"--x11 -- {name}' instead\n"
        )


class _Image:
    """The ELF files of an archive, and their needs."""

    def __init__(
        self,
        tar: tarfile.TarFile,
        files: Mapping[str, tarfile.TarInfo],
        libraries: Mapping[str, str],
    ) -> None:
        self._tar = tar
        self._files = files
        self._libraries = libraries
        self._direct: dict[str, frozenset[str]] = {}
        self._qt_speaks = any(_QT_PLUGIN in name for name in files)

    def needs_x11(self, program: str) -> bool:
        """Return whether a program's libraries speak X11 and not Wayland."""
        found = self._all(program)
        wayland = _WAYLAND + (_QT if self._qt_speaks else ())
        return bool(found & _X11) and not any(one.startswith(wayland) for one in found)

    def _all(self, program: str) -> set[str]:
        """Return all libraries that a program needs, directly or not."""
        found: set[str] = set()
        waiting = [program]
        while waiting:
            for library in self._needed(waiting.pop()) - found:
                found.add(library)
                if library in self._libraries:
                    waiting.append(self._libraries[library])
        return found

    def _needed(self, name: str) -> frozenset[str]:
        if name not in self._direct:
            self._direct[name] = self._read(name)
        return self._direct[name]

    def _read(self, name: str) -> frozenset[str]:
        """Read which libraries a file needs."""
        member = self._files.get(_followed(name, self._files))
        file = self._tar.extractfile(member) if member and member.isreg() else None
        if file is None:
            return frozenset()
        try:
            return needed_libraries(file)
        except (struct.error, ValueError, OverflowError):
            return frozenset()  # no ELF file, or of another architecture


def needed_libraries(file: IO[bytes]) -> frozenset[str]:
    """Return DT_NEEDED of a 64-bit little-endian ELF file, elf(5).

    Raises ValueError, OverflowError and struct.error for another file.
    """
    head = file.read(64)
    if head[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (offset,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<2H", head, 54)
    segments = []
    for number in range(count):
        file.seek(offset + number * size)
        kind, _, at, address, _, length, _, _ = struct.unpack("<2I6Q", file.read(56))
        segments.append((kind, at, address, length))
    dynamic = next((s for s in segments if s[0] == 2), None)
    if dynamic is None:
        return frozenset()
    entries = list(struct.iter_unpack("<qQ", _part(file, dynamic[1], dynamic[3])))
    strings = dict(entries).get(5, 0)
    length = dict(entries).get(10, 0)
    start = next(
        (at + strings - base for kind, at, base, size in segments
         if kind == 1 and base <= strings < base + size),
        0,
    )  # fmt: skip
    text = _part(file, start, length)
    names = [
        text[value : text.index(b"\0", value)] for tag, value in entries if tag == 1
    ]
    return frozenset(name.decode("utf-8", "replace") for name in names)


def _part(file: IO[bytes], offset: int, length: int) -> bytes:
    if length > _MOST_BYTES:
        raise ValueError(f"a table has an invalid size of {length} bytes")
    file.seek(offset)
    return file.read(length)


def _programs_of(
    tar: tarfile.TarFile, files: Mapping[str, tarfile.TarInfo], packages: Iterable[str]
) -> set[str]:
    """Return the programs that dpkg's lists of these packages name."""
    found: set[str] = set()
    for package in packages:
        for suffix in ("", ":amd64", ":arm64"):
            member = files.get(f"var/lib/dpkg/info/{package}{suffix}.list")
            file = tar.extractfile(member) if member is not None else None
            if file is None:
                continue
            names = (
                _plain(line)
                for line in file.read().decode(errors="replace").splitlines()
            )
            found |= {n for n in names if posixpath.dirname(n) in _PROGRAMS}
    return {name for name in found if name in files}


def _followed(name: str, files: Mapping[str, tarfile.TarInfo]) -> str:
    """Return the target of symbolic links of the archive."""
    for _ in range(8):
        member = files.get(name)
        if member is None or not member.issym():
            return name
        name = _plain(posixpath.join(posixpath.dirname(name), member.linkname))
    return name


def _plain(name: str) -> str:
    return posixpath.normpath(name).lstrip("/")
