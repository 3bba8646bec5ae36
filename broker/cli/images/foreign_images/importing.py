"""Making a guest image of another root file system: kernel and initramfs are borrowed.

A container image has no kernel.  So an import takes both from an image that was
built here, and its root file system from the archive.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from broker.cli.images import installed
from broker.cli.images.building import files, initramfs_build
from broker.cli.images.building.build import put_in_place
from broker.cli.images.building.build_room import (
    Progress,
    disk_full_explained,
    need_space,
    needed_container,
    only_build,
)
from broker.cli.images.building.build_tools import open_tools
from broker.cli.images.foreign_images.kernel_choice import (
    BootRequest,
    KernelChoice,
    find_base,
    kernel_error,
    prepare_kernel,
)
from broker.core import errors, limits
from broker.core.decoding import UNREADABLE
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.files.trees import remove_tree
from broker.core.paths import Paths
from broker.helpers.process.jail_libraries import python_words
from broker.helpers.process.spawn import run_tool
from broker.helpers.process.tool_jail import ROOM, jail_words
from broker.host.images import initramfs, store
from broker.host.images.store import Image, ImageSpec, Manifest
from broker.ipc.in_thread import in_thread
from shims.bundle import guest_agent

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parents[3]
_CODE = (
    _PACKAGE,
    Path(initramfs_build.__file__),
    Path(initramfs.__file__),
    Path(errors.__file__),
)
"""Our code that a merge imports: it needs the standard library alone."""
_START = (
    "import sys; sys.path.insert(0, '/code'); "
    "from broker.cli.images.foreign_images.merge import main; sys.exit(main())"
)


class Merged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The report of the merge in the jail."""

    digest: str = ""
    entries: int = 0
    versions: dict[str, str] = {}
    dropped: dict[str, int] = {}
    error: str = ""
    missing: str = ""
    kernel: str = ""
    kernel_error: str = ""


@dataclass(frozen=True)
class RootSource:
    """Where a root file system comes from: ``source`` is kept in the manifest.

    ``write`` makes ``root.tar`` in a directory and returns the packages in it, and the
    release of the kernel if it makes ``kernel`` and ``initrd`` as well.
    """

    source: str
    write: Callable[[Path], Awaitable[tuple[dict[str, str], str]]]


async def import_image(
    paths: Paths, name: str, origin: Path, choice: KernelChoice, progress: Progress
) -> Image:
    """Make the guest image ``name`` of an OCI archive and a kernel.

    Raises SetupError when this machine or the archive lacks something,
    UpstreamError for an archive that is not one.
    """
    store.take_image_name(name)
    progress(f"reading {printable(str(origin), 200)}")
    if not origin.is_file():
        raise SetupError(
            f"cannot import {printable(str(origin), 200)}: "
            + ("not a regular file" if origin.exists() else "no such file"),
            hint="specify an OCI archive, or a Podman image as podman:IMAGE",
        )

    base = find_base(paths, choice) if choice.source == "base" else None

    async def write(work: Path) -> tuple[dict[str, str], str]:
        async def prepare(directory: Path) -> BootRequest:
            boot: BootRequest = ({}, {})
            if base is None:
                boot = await prepare_kernel(paths, choice, directory, progress)
            progress("merging the layers")
            return boot

        merged = await merge_archive(origin, work, prepare)
        if merged.kernel_error:
            raise kernel_error(choice, merged.kernel_error)
        for what, count in sorted(merged.dropped.items()):
            progress(f"skipped {count} {printable(what, 40)}")
        return merged.versions, merged.kernel

    return await make_foreign(paths, name, RootSource("oci", write), base, progress)


async def save_from_podman(reference: str, directory: Path, progress: Progress) -> Path:
    """Write an image of this user's podman as an archive.  Raises UpstreamError."""
    if not reference or reference.startswith("-"):
        raise RefusedError(
            f"cannot import {printable(reference, 100)!r}: not a name of a Podman "
            "image",
            hint="to list the names, run 'podman images'",
        )
    target = directory / "image.tar"
    progress(f"saving from podman: {printable(reference, 100)}")
    await run_tool(
        [
            *("podman", "save", "--quiet", "--format", "oci-archive"),
            *("--output", str(target), "--", reference),
        ],
        env=dict(os.environ),
        deadline=limits.IMAGE_BUILD_SECONDS,
    )
    return target


async def make_foreign(
    paths: Paths,
    name: str,
    origin: RootSource,
    base: Image | None,
    progress: Progress,
) -> Image:
    """Make an image with the root of ``origin``, and its kernel or that of ``base``."""
    container = needed_container("genext2fs", "e2fsck")
    paths.images.mkdir(parents=True, exist_ok=True)
    async with only_build(paths.images / f".{name}.lock", progress):
        # guard: an import checks the image that is present when its turn comes
        installed.refuse_downgrade(paths, name, origin.source, time.time())
        need_space(paths.images, "the image")
        async with image_room(paths, name) as work:
            with disk_full_explained(paths.images):
                versions, release = await origin.write(work)
                progress("creating the root file system")
                async with open_tools(container, progress) as tools:
                    await files.make_root(work, 0, tools)
                progress("computing the digest")
                if base is not None:
                    await in_thread(_borrow_kernel, base, work)
                manifest = await _manifest(name, origin, base, work)
                if base is None:
                    manifest = msgspec.structs.replace(
                        manifest, kernel=printable(release, 100)
                    )
                full = msgspec.structs.replace(manifest, versions=versions)
                (work / "manifest.json").write_bytes(installed.manifest_bytes(full))
                return put_in_place(paths, name, work)


def _borrow_kernel(image: Image, work: Path) -> None:
    for file in ("kernel", "initrd"):
        shutil.copyfile(image.directory / file, work / file)


async def _manifest(
    name: str, origin: RootSource, base: Image | None, work: Path
) -> Manifest:
    """Return the manifest of an imported image."""
    spec = base.manifest.spec if base else ImageSpec()
    return Manifest(
        format=store.FORMAT,
        spec=replace(installed.renamed(spec, name), packages=()),
        kernel=base.manifest.kernel if base else "",
        versions={},
        built=time.time(),
        digest=await in_thread(files.digest, work),
        agent=hashlib.sha256(guest_agent()).hexdigest(),
        recipe=base.manifest.recipe if base else installed.recipe(),
        source=origin.source,
    )


@contextlib.asynccontextmanager
async def image_room(paths: Paths, name: str) -> AsyncIterator[Path]:
    """Yield a directory in which an image is made; remove it after a failure."""
    for left in installed.unused_versions(paths, name):
        shutil.rmtree(left)
    work = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=paths.images))
    try:
        yield work
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


async def _no_kernel(directory: Path) -> BootRequest:
    del directory
    return {}, {}


async def merge_archive(
    archive: Path,
    work: Path,
    prepare: Callable[[Path], Awaitable[BootRequest]] = _no_kernel,
) -> Merged:
    """Merge an archive's layers into ``work/root.tar``, in a jail.

    ``prepare`` returns the request for a kernel, and writes files for it. With such a
    request, ``work`` also gets ``kernel`` and ``initrd``.  Raises SetupError when the image lacks a
    program or this machine cannot jail, UpstreamError for everything that is wrong with
    the archive.
    """
    # A separate directory: a merge that was taken over can leave other files beside
    # its result (a link named "kernel"), and later steps write to ``work``.
    room = Path(tempfile.mkdtemp(prefix="merge-", dir=work))
    try:
        boot, files_in_jail = await prepare(room)
        merged = await _merged(archive, room, boot, files_in_jail)
        if merged.kernel_error:
            return merged
        for name in ("root.tar", *(("kernel", "initrd") if boot else ())):
            made = room / name
            # guard: a merge gives a file, and no link to one
            if not stat.S_ISREG(made.lstat().st_mode):
                raise UpstreamError(
                    "cannot merge the archive's layers: the result is not a regular file"
                )
            made.rename(work / made.name)
    except FileNotFoundError as error:
        raise UpstreamError(
            "cannot merge the archive's layers: the merge did not write a file"
        ) from error
    finally:
        remove_tree(room)
    return merged


async def _merged(
    archive: Path,
    work: Path,
    boot: Mapping[str, object],
    files_in_jail: Mapping[Path, str],
) -> Merged:
    """Run the merging program in its jail; return its result."""
    machine = os.uname().machine
    agent = work / "agent.py"
    agent.write_bytes(guest_agent())
    request = {
        "archive": "/archive",
        "work": ROOM,
        "agent": f"{ROOM}/agent.py",
        "architecture": ARCHITECTURES.get(machine, machine),
        "limit": limits.IMAGE_IMPORT_BYTES,
        "boot": dict(boot),
    }
    # A hole in the tar reader must find no home, no network and no session.
    code = {path: f"/code/{path.relative_to(_CHECKOUT)}" for path in _CODE}
    jail = jail_words(work, {**code, archive: "/archive", **files_in_jail})
    words = [*jail, *python_words(), "-c", _START, json.dumps(request)]
    out = await run_tool(
        words, deadline=limits.IMAGE_BUILD_SECONDS, output_limit=16 << 20
    )
    try:
        merged = msgspec.json.decode(out, type=Merged)
    except UNREADABLE as error:
        raise UpstreamError(f"cannot merge the archive's layers: {error}") from error
    if merged.missing:
        raise SetupError(
            "cannot import the image: it does not contain "
            f"{printable(merged.missing, 60)}",
            hint="add these packages to the image with a Containerfile: 'RUN "
            "apt-get update && apt-get install -y python3 waypipe'",
        )
    if merged.error:
        raise UpstreamError(
            f"cannot import the archive: {printable(merged.error, 400)}",
            hint="import an archive that 'podman save --format oci-archive -o FILE "
            "IMAGE' wrote",
        )
    return merged
