"""Guest images on disk: their files, finding and removing them.

An image is a directory with a kernel, an initramfs, a root file system (only
ever read by a machine) and ``manifest.json``.  ``images/NAME`` is a symbolic
link to it, so a rebuilt image takes the old one's place in one step, and
machines that run keep the files they have open.

The host finds the image of a start by this; brokerctl builds, lists and removes images,
and prepares machines that scripts or libvirt start.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from broker.core import limits
from broker.core.decoding import UNREADABLE
from broker.core.errors import RefusedError, SetupError, VitrailError
from broker.core.escape import printable
from broker.core.paths import Paths
from shims.bundle import guest_agent, with_constants

DEFAULT_NAME = "default"
HOST_IMAGE = "host"
"""The image of this machine's own programs, as records name it; no other has it."""
DEFAULT_SUITE = "trixie"
DEFAULT_KERNEL = "linux-image-cloud-amd64"
DEFAULT_PACKAGES = (
    "ca-certificates",
    "foot",
    "fonts-dejavu-core",
    "python3",
    "waypipe",
    "xkb-data",
)
GPU_PACKAGES = ("libegl1", "libgl1-mesa-dri", "libgles2")
"""What an image has beside them whose programs draw with a GPU."""
GPU_KERNEL = "linux-image-amd64"
"""And its kernel: the default one knows no GPU."""
REQUIRED_PACKAGES = ("python3", "waypipe")
"""Packages that the guest agent requires; added to every list."""

FORMAT = 1
"""Of the directory and its manifest; another one is built again."""
SHARED_IMAGE_ALIGN = 2 << 20
"""Sizes of root file systems are multiples of this: Linux maps memory devices in
parts of 2 MiB (``SUBSECTION_SIZE`` in include/linux/mmzone.h)."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_SUITE = re.compile(r"[a-z][a-z0-9-]{0,40}")
# apt-get(8) would remove the package whose name is followed by a dash.
# guard: no image removes a package
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{0,99}[a-z0-9+.]")


def take_image_name(name: str) -> str:
    """Validate an image's name and return it.  Raises RefusedError."""
    if _NAME.fullmatch(name):
        return name
    raise RefusedError(
        f"{printable(name, 60)!r} is not an image name",
        hint="use at most 31 characters of a-z, 0-9 and '-'; the first must be a letter",
    )


@dataclass(frozen=True)
class ImageSpec:
    """The inputs of an image.  Raises RefusedError for invalid values.

    ``size`` is the least size of the root file system in bytes; it grows to
    what the packages need.  ``mirror`` overrides the machine's own archive.
    """

    name: str = DEFAULT_NAME
    suite: str = DEFAULT_SUITE
    packages: tuple[str, ...] = DEFAULT_PACKAGES
    kernel: str = DEFAULT_KERNEL
    mirror: str = ""
    size: int = 0

    def __post_init__(self) -> None:
        """Validate each field, as they become arguments of apt and mmdebstrap."""
        take_image_name(self.name)
        if not _SUITE.fullmatch(self.suite):
            raise RefusedError(f"{printable(self.suite, 60)!r} is not a suite name")
        for word in (*self.packages, self.kernel):
            if not _PACKAGE.fullmatch(word):
                raise RefusedError(f"{printable(word, 60)!r} is not a package name")
        if len(self.packages) > limits.IMAGE_PACKAGES:
            raise RefusedError(f"an image has at most {limits.IMAGE_PACKAGES} packages")

    @property
    def all_packages(self) -> tuple[str, ...]:
        """The packages and what the agent needs, sorted, each once."""
        return tuple(sorted({*self.packages, *REQUIRED_PACKAGES}))


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``manifest.json``: an image's properties and sources."""

    format: int
    spec: ImageSpec
    kernel: str
    """Release of the kernel, as uname(1) prints it."""
    versions: dict[str, str]
    """Every installed package and its version."""
    built: float
    """Seconds since 1970; not part of the digest."""
    digest: str
    """SHA-256 over kernel, initramfs and root: equal inputs, equal digest."""
    agent: str
    """SHA-256 of the guest agent in the root file system."""
    recipe: str = ""
    """SHA-256 of our own scripts that made it; another recipe, another image."""
    source: str = ""
    """Where its root file system is from: "" for packages, "oci", "host:KEY"."""


@dataclass(frozen=True)
class Image:
    """An image that can be booted."""

    name: str
    directory: Path
    manifest: Manifest

    @property
    def kernel(self) -> Path:
        """The kernel, for QEMU's -kernel."""
        return self.directory / "kernel"

    @property
    def initrd(self) -> Path:
        """The initramfs without the newest agent: see ``write_initrd``."""
        return self.directory / "initrd"

    @property
    def root(self) -> Path:
        """The root file system: a raw disk, mounted as ext4, only ever read."""
        return self.directory / "root"

    @property
    def suite(self) -> str:
        """The Debian suite it was made from, or where else it is from."""
        return self.manifest.source.partition(":")[0] or self.manifest.spec.suite

    @property
    def waypipe(self) -> str:
        """The version of the guest's waypipe package."""
        return self.manifest.versions.get("waypipe", "none")

    def age(self, now: float | None = None) -> float:
        """Seconds since it was built, at ``now`` (s since 1970); never negative."""
        return max(0.0, (time.time() if now is None else now) - self.manifest.built)

    def disk_bytes(self) -> int:
        """Its size on disk, holes not counted."""
        files = (self.kernel, self.initrd, self.root)
        return sum(path.stat().st_blocks * 512 for path in files)

    def shared_bytes(self) -> int:
        """Return the size of its root file system for machines that map it as memory.

        Raises SetupError if they cannot: an image that an older version built has
        no driver for that, or a size that the guest's kernel refuses.
        """
        from broker.host.images import initramfs

        size = self.root.stat().st_size
        whole = size > 0 and size % SHARED_IMAGE_ALIGN == 0
        if not whole or not initramfs.shares_image(self.initrd.read_bytes()):
            raise SetupError(
                f"the image {self.name!r} cannot be shared as memory: an older version of Vitrail built it, or its kernel lacks virtio_pmem",
                hint=f"{self._again()}, or remove shared_image from the record",
            )
        return size

    def _again(self) -> str:
        """Return how to rebuild the image; an imported one has the kernel of another."""
        if self.manifest.source:
            return f"rebuild the image of its kernel with --force, then create {self.name!r} again"
        return f"run 'brokerctl image build {self.name} --force'"

    def arena_bytes(self) -> int:
        """Return the size of the arena for windows of its machines.

        Reads the initramfs.  Raises SetupError if it has no drivers for an arena.
        """
        from broker.host.images import initramfs
        from broker.host.vmm.arena import ARENA_BYTES

        if not initramfs.takes_arena(self.initrd.read_bytes()):
            raise SetupError(
                f"the image {self.name!r} has no drivers for a pixel arena: an older version of Vitrail built it, or its kernel lacks dax_pmem",
                hint=f"{self._again()}, or remove pixel_arena from the record",
            )
        return ARENA_BYTES

    def write_initrd(
        self,
        directory: Path,
        settings: Mapping[str, str] | None = None,
        *,
        folders: bool = False,
        network: bool = True,
        shared_image: bool = False,
        router: bool = False,
        arena: bool = False,
        gpu: bool = False,
    ) -> Path:
        """Return the initramfs to boot with; write a copy with our agent if needed.

        When the image was made with another agent, or the agent gets
        ``settings`` of this launch (see ``launch_settings``), a copy that
        brings them is written below ``directory``, readable for us alone; so a
        new agent needs no new image.

        ``folders``, ``network``, ``shared_image``, ``arena``, ``router``, ``gpu``: it loads
        what a machine with them needs; see ``modules_overlay``.  Raises SetupError if a
        router's or a GPU's modules are not in the image.
        """
        shim = guest_agent()
        same = hashlib.sha256(shim).hexdigest() == self.manifest.agent
        as_it_is = network and not (folders or shared_image or arena or router or gpu)
        if same and as_it_is and not settings:
            return self.initrd
        # The module that builds images is needed nowhere else in a broker.
        from broker.host.images import initramfs

        data = self.initrd.read_bytes()
        if router and not initramfs.has_router(data):
            raise SetupError(
                f"the image {self.name!r} cannot provide a network: an older version of Vitrail built it, or its kernel lacks nf_tables or tun",
                hint=self._again(),
            )
        if gpu and not initramfs.has_gpu(data):
            raise SetupError(
                f"the image {self.name!r} has no GPU driver",
                hint=f"to add the driver and Mesa, run 'brokerctl image build {self.name} --gpu'",
            )
        if settings and not initramfs.passes_settings(data):
            # The init of an older image: the agent has them in its source, and the
            # guest compiles it.
            shim = with_constants(shim.decode(), settings).encode()
            same, settings = False, {}
        data += initramfs.modules_overlay(
            data,
            folders=folders,
            network=network,
            shared_image=shared_image,
            router=router,
            arena=arena,
            gpu=gpu,
        )
        data += initramfs.agent_overlay(b"" if same else shim, settings or {})
        path = directory / "initrd"
        path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.write(data)
        return path


def launch_settings(secret: bytes, *, privileged: bool) -> dict[str, str]:
    """Return the agent's settings for one launch: its secret and its ports.

    In the initramfs, because a kernel's command line is in the VMM's, which
    every local user can read.  ``privileged``: whether the broker listens on
    the ports below 1024.
    """
    low = {"LAUNCH_LOW_PORTS": "yes"} if privileged else {}
    return {"LAUNCH_SECRET": secret.hex(), **low}


_MISSING = "there is no guest image"


def find_image(paths: Paths, name: str = DEFAULT_NAME) -> Image:
    """Return the image of a name.

    Raises SetupError when none exists of that name, or an image that this
    version cannot use; RefusedError for an invalid name.
    """
    take_image_name(name)
    link = paths.images / name
    try:
        return read_image(name, link.resolve(strict=True))
    except (OSError, *UNREADABLE, RefusedError) as error:
        missing = isinstance(error, FileNotFoundError)
        what = _MISSING if missing else "cannot use the guest image"
        raise SetupError(
            f"{what} {name!r}" if missing else f"{what} {name!r}: {error}",
            hint=f"to build it, run 'brokerctl image build {name}' (this takes a minute or two)",
        ) from error


def missing_image(error: VitrailError) -> str:
    """Return the name of the image that ``find_image`` did not find; else empty.

    Also of an error that a broker sent: it is a text then.
    """
    head, _, name = error.message.partition(f"{_MISSING} '")
    return name.removesuffix("'") if not head and name else ""


def read_image(name: str, directory: Path) -> Image:
    """Read an image's manifest; raises OSError or one of UNREADABLE if it is incomplete."""
    data = (directory / "manifest.json").read_bytes()
    manifest = msgspec.json.decode(data, type=Manifest)
    if manifest.format != FORMAT:
        raise msgspec.ValidationError(f"unsupported manifest format {manifest.format}")
    image = Image(name, directory, manifest)
    for path in (image.kernel, image.initrd, image.root):
        path.stat()
    return image
