"""Where an import takes its kernel from: an image, the archive, packages, this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeAlias

from broker.cli.images.building.build_room import Progress, which
from broker.cli.images.foreign_images.kernel import is_static
from broker.cli.transfer.named_path import refuse_planted_link
from broker.core import limits
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.paths import Paths
from broker.helpers.process.spawn import run_tool
from broker.helpers.process.tool_jail import ROOM, jail_words
from broker.host.images import initramfs, store

_CHOICES = (
    "choose a kernel: '--kernel image' takes that of the archive, '--kernel host' that "
    "of this machine, '--kernel FILE' that of a package (.deb, .rpm, .tar, "
    ".pkg.tar.zst; "
    "several are allowed), and '--base NAME' that of a guest image"
)
_READERS = {
    ".deb": (
        ("dpkg-deb", 'dpkg-deb --fsys-tarfile "$1"'),
        ("bsdtar", 'bsdtar -xOf "$1" "data.tar*" | bsdtar -cf - @-'),
    ),
    ".rpm": (("bsdtar", 'bsdtar -cf - @"$1"'), ("rpm2archive", 'rpm2archive - <"$1"')),
    ".zst": (("zstd", 'zstd -dcq "$1"'),),
    ".tar": (("cat", 'cat "$1"'),),
    ".xz": (("xz", 'xz -dc "$1"'),),
    ".gz": (("gzip", 'gzip -dc "$1"'),),
}
"""Programs that write the files of a package as a tar archive, by its suffix."""

BootRequest: TypeAlias = tuple[Mapping[str, object], Mapping[Path, str]]
"""A merge's request for its kernel, "{}" for none, and files that its jail shows."""


@dataclass(frozen=True)
class KernelChoice:
    """A kernel to import with: ``source`` is "base", "image", "host" or "packages"."""

    source: str = "base"
    base: str = store.DEFAULT_NAME
    packages: tuple[Path, ...] = ()
    root: Path = Path("/")
    """The root of this machine."""
    release: str = ""
    """The release of this machine's kernel."""

    def description(self) -> str:
        """Return the source for people."""
        match self.source:
            case "base":
                return f"the guest image {self.base!r}"
            case "image":
                return "the archive"
            case "host":
                return f"this machine ({self.release})"
            case _:
                return ", ".join(printable(path.name, 100) for path in self.packages)


def choose_kernel(values: Sequence[str], base: str) -> KernelChoice:
    """Return the choice of the options --kernel and --base.  Raises RefusedError."""
    if not values:
        return KernelChoice(base=base)
    if "image" in values or "host" in values:
        if len(values) > 1:
            raise RefusedError("an image has one kernel", hint=_CHOICES)
        return KernelChoice(values[0], base, release=os.uname().release)
    packages = tuple(Path(value).absolute() for value in values)
    for path in packages:
        refuse_planted_link(path)
        if path.suffix not in _READERS or not path.is_file():
            raise RefusedError(
                f"{printable(str(path), 200)} is not a kernel package: "
                + ("unknown suffix" if path.is_file() else "no such file"),
                hint=_CHOICES,
            )
    return KernelChoice("packages", base, packages)


def kernel_error(choice: KernelChoice, untrusted_reason: str) -> SetupError:
    """Return the error of a kernel that cannot be used."""
    return SetupError(
        f"cannot use the kernel of {choice.description()}: "
        f"{printable(untrusted_reason, 400)}",
        hint=_CHOICES,
    )


async def prepare_kernel(
    paths: Paths, choice: KernelChoice, directory: Path, progress: Progress
) -> BootRequest:
    """Return the merge's request for its kernel, and the files that its jail shows.

    Converts packages to tar archives in ``directory``.  Raises SetupError if this machine's
    kernel cannot be read.
    """
    progress(f"using the kernel of {choice.description()}")
    files = _busybox(paths, choice.base, directory)
    request: dict[str, object] = {
        "packages": [],
        "directory": "",
        "busybox": next(iter(files.values()), ""),
        "init": f"{ROOM}/init",
        "limit": limits.IMAGE_IMPORT_BYTES,
    }
    init = (resources.files("broker") / "data/image/init").read_bytes()
    (directory / "init").write_bytes(init)
    if choice.source == "packages":
        for number, path in enumerate(choice.packages):
            await _convert(path, directory, f"kernel-{number}.tar")
        names = [f"{ROOM}/kernel-{n}.tar" for n in range(len(choice.packages))]
        request["packages"] = names
    elif choice.source == "host":
        request["directory"] = "/host"
        files |= _host_files(choice)
    return request, files


def _host_files(choice: KernelChoice) -> dict[Path, str]:
    """Return the files of this machine's kernel, and their paths in the jail."""
    release = choice.release
    modules = choice.root / "usr/lib/modules" / release
    if not modules.is_dir():
        modules = choice.root / "lib/modules" / release
    if not (modules / "modules.builtin").is_file():
        raise kernel_error(choice, f"{modules} has no modules")
    if (modules / "vmlinuz").is_file():
        kernel = modules / "vmlinuz"
    else:
        kernel = choice.root / "boot" / f"vmlinuz-{release}"
    if not kernel.is_file():
        raise kernel_error(choice, f"{kernel} does not exist")
    if not os.access(kernel, os.R_OK):
        raise SetupError(
            f"cannot use the kernel of {choice.description()}: only root can read "
            f"{kernel}",
            hint=f"to let every user read it, run 'sudo chmod a+r {kernel}'",
        )
    return {
        modules: f"/host/usr/lib/modules/{release}",
        kernel: f"/host/boot/vmlinuz-{release}",
    }


def _busybox(paths: Paths, base: str, directory: Path) -> dict[Path, str]:
    """Return a busybox for an image without one: the base image's, or this machine's."""
    try:
        data = store.find_image(paths, base).initrd.read_bytes()
    except SetupError:
        programs = [
            Path(path)
            for name in ("busybox", "busybox.static")
            if (path := which(name))
        ]
        static = [path for path in programs if is_static(path.read_bytes())]
        return dict.fromkeys(static[:1], "/busybox")
    borrowed = directory / "busybox"
    borrowed.write_bytes(initramfs.read_entry(data, "bin/busybox"))
    return {borrowed: "/busybox"}


async def _convert(package: Path, directory: Path, name: str) -> None:
    """Write the files of a package as a tar archive, in a jail.

    Raises SetupError if no program is installed that reads it.
    """
    readers = _READERS[package.suffix]
    commands = [command for program, command in readers if which(program)]
    if not commands:
        programs = " or ".join(program for program, _ in readers)
        raise SetupError(
            f"cannot read {printable(str(package), 200)}: {programs} is not installed",
            hint=f"install the program {programs}",
        )
    inside = f"/package{package.suffix}"
    # guard: the files of a kernel package have a limit
    limit = f"ulimit -f {limits.IMAGE_IMPORT_BYTES >> 9}"  # blocks of 512 bytes
    script = f"set -e; {limit}; {commands[0]} >{name}"
    # guard: a kernel package is read in a jail
    jail = jail_words(directory, {package: inside})
    argv = [*jail, "/usr/bin/sh", "-c", script, "sh", inside]
    try:
        await run_tool(argv, deadline=limits.IMAGE_BUILD_SECONDS)
    except UpstreamError as error:
        raise UpstreamError(
            f"cannot read {printable(str(package), 200)}: {error.message}",
            hint="name a complete kernel package with --kernel",
        ) from error


def find_base(paths: Paths, choice: KernelChoice) -> store.Image:
    """Return the guest image whose kernel is used.  Raises SetupError."""
    try:
        return store.find_image(paths, choice.base)
    except SetupError as error:
        raise SetupError(
            f"cannot use the kernel of {choice.description()}: {error.message}",
            hint=f"{error.hint}; or {_CHOICES}",
        ) from error
