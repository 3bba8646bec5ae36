"""This machine's own ``/usr`` as the root file system of a guest.

Programs that are installed here run in a micro VM without an image.
``/usr`` is taken whole, and of ``/etc`` a list of files that programs need to start: no
password, no key, no host name, nothing of a home.

An image made of it, and not ``/usr`` itself over virtiofs: a machine that shares
memory with a virtiofsd cannot be copied from a parent, an update of packages would
change files under running programs, and one process less parses the requests of a guest.
The image costs disk; it is made again when packages change.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from broker.cli.images import installed
from broker.cli.images.building.build_room import Progress
from broker.cli.images.foreign_images.furnish import (
    MissingError,
    furnish,
    versions,
    write,
)
from broker.cli.images.foreign_images.importing import RootSource, make_foreign
from broker.cli.images.foreign_images.layers import write_tree
from broker.cli.images.foreign_images.tree import FileTree, HostFile, Node, TreeError
from broker.core import limits
from broker.core.distribution import install_command
from broker.core.errors import SetupError
from broker.core.paths import Paths
from broker.host.images import store
from broker.host.images.store import HOST_IMAGE, Image
from broker.ipc.in_thread import in_thread
from shims.bundle import guest_agent

_FORMAT = 1
_MERGED = ("bin", "sbin", "lib", "lib64", "lib32")
_LEFT_OUT = frozenset(
    {
        *("usr/share/doc", "usr/share/man", "usr/share/info", "usr/src"),
        *("usr/include", "usr/lib/debug", "usr/lib/modules", "usr/lib/firmware"),
        *("usr/lib/vitrail",),
    }
)
"""Documents, sources, and the parts of this machine's kernel."""
_ETC = (
    *("alternatives", "fonts", "xdg", "gtk-2.0", "gtk-3.0", "terminfo", "glvnd"),
    *("ssl/certs", "ca-certificates", "ca-certificates.conf", "mime.types", "magic"),
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias", "localtime"),
    *("services", "protocols", "shells", "debian_version", "os-release", "vulkan"),
    *("java-17-openjdk", "java-21-openjdk", "libreoffice", "firefox-esr", "firefox"),
    *("chromium", "chromium.d", "python3", "perl", "vim", "openal", "mpv"),
    *("bash.bashrc", "profile", "profile.d", "environment.d", "X11/xkb"),
)
_NSSWITCH = b"passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
_PASSWD = (
    b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n"
)
_GROUP = b"root:x:0:\ntty:x:5:\naudio:x:29:\nvideo:x:44:\nnogroup:x:65534:\n"
_DATABASES = ("var/lib/dpkg/status", "var/lib/rpm/rpmdb.sqlite", "var/lib/pacman/local")


def package_state(root: Path = Path("/")) -> str:
    """Return 16 hex digits that change when a package is installed or removed.

    Of the databases only times and sizes, because reading them takes longer than
    a start; ``/usr/local``'s own directories stand for programs without a package.
    """
    total = hashlib.sha256(f"vitrail host root {_FORMAT}\n".encode())
    total.update(installed.recipe().encode())
    places = (*_DATABASES, "usr", "usr/bin", "usr/lib", "usr/local/bin")
    for place in places:
        try:
            found = (root / place).stat()
        except OSError:
            continue
        total.update(f"{place} {found.st_mtime_ns} {found.st_size}\n".encode())
    return total.hexdigest()[:16]


def is_current(image: Image, root: Path = Path("/")) -> bool:
    """Return whether an image was made of the packages that are installed now."""
    return image.manifest.source == f"host:{package_state(root)}"


async def build_host_image(
    paths: Paths, base: str, progress: Progress, *, root: Path = Path("/")
) -> Image:
    """Make the image ``host``, or return the one there is if no package changed.

    Kernel and initramfs are those of ``base``.  Raises SetupError when this machine
    lacks something.
    """
    present = {image.name: image for image in installed.list_images(paths)}
    if HOST_IMAGE in present and is_current(present[HOST_IMAGE], root):
        return present[HOST_IMAGE]

    async def make(work: Path) -> tuple[dict[str, str], str]:
        progress("reading /usr")
        return await in_thread(_write_root, root, work), ""

    origin = RootSource(f"host:{package_state(root)}", make)
    kernel = store.find_image(paths, base)
    return await make_foreign(paths, HOST_IMAGE, origin, kernel, progress)


def _write_root(root: Path, work: Path) -> dict[str, str]:
    """Write ``root.tar`` of this machine's programs; return package versions."""
    try:
        tree = host_tree(root)
        furnish(tree, guest_agent())
    except TreeError as error:
        raise SetupError(
            f"cannot create an image of this machine's programs: {error}"
        ) from error
    except MissingError as error:
        raise SetupError(
            f"cannot create an image of this machine's programs: {error} is not "
            "installed",
            hint=install_command("waypipe", "python3"),
        ) from error
    with (work / "root.tar").open("xb") as out:
        write_tree(tree, out)
    return versions(tree)


def host_tree(root: Path) -> FileTree:
    """Read the file tree of the machine at ``root``.  Raises SetupError."""
    tree = FileTree(limits.IMAGE_IMPORT_BYTES)
    for name in _MERGED:
        path = root / name
        if path.is_symlink():
            tree.put(name, Node("link", 0o777, target=str(path.readlink())))
        elif path.exists():
            raise SetupError(
                f"cannot create an image of this machine's programs: /{name} is a "
                "directory, not a link into /usr",
                hint=f"to create the link, run '{install_command('usrmerge')}'",
            )
    _add(tree, root, "usr")
    tree.put("etc", Node("dir"))
    for name in _ETC:
        if os.path.lexists(root / "etc" / name):
            _add(tree, root, f"etc/{name}")
    write(tree, "etc/nsswitch.conf", _NSSWITCH)
    write(tree, "etc/passwd", _PASSWD)
    write(tree, "etc/group", _GROUP)
    return tree


def _add(tree: FileTree, root: Path, name: str) -> None:
    """Add a directory and all below it to the tree."""
    todo = [name]
    while todo:
        at = todo.pop()
        node = _node(root / at)
        if node is None or at in _LEFT_OUT:
            continue
        tree.put(at, node)
        if node.kind == "dir":
            todo += (f"{at}/{entry}" for entry in _listed(root / at))


def _listed(path: Path) -> Iterator[str]:
    try:
        with os.scandir(path) as entries:
            yield from sorted(entry.name for entry in entries)
    except PermissionError:
        return  # unreadable for the user, and so for the guest


def _node(path: Path) -> Node | None:
    """Return a node of the root, without set-user-ID bits; None if unreadable."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None  # removed meanwhile
    # guard: no program of the host's has a set-user-ID bit in a guest
    mode = found.st_mode & 0o777
    if stat.S_ISDIR(found.st_mode):
        return Node("dir", mode)
    if stat.S_ISLNK(found.st_mode):
        return Node("link", 0o777, target=str(path.readlink()))
    if stat.S_ISREG(found.st_mode) and os.access(path, os.R_OK):
        return Node("file", mode, size=found.st_size, content=HostFile(path))
    return None
