"""Guest images as brokerctl lists, replaces and removes them; see ``host.images.store``."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import msgspec

from broker.cli.images.describe import age_text
from broker.core.decoding import UNREADABLE
from broker.core.errors import RefusedError, SetupError
from broker.core.paths import Paths
from broker.host.images.store import (
    DEFAULT_KERNEL,
    DEFAULT_NAME,
    Image,
    ImageSpec,
    Manifest,
    find_image,
    read_image,
    take_image_name,
)

SIGNED = "signed:"
"""How the source of a signed image begins; the key's fingerprint follows."""


def recipe(kernel: str = DEFAULT_KERNEL) -> str:
    """Return the digest of the scripts that an image is made with.

    With another kernel than the default also of the modules that it may need: an image
    of an older Vitrail, which does not boot with it, is built again.
    """
    total = hashlib.sha256()
    if kernel != DEFAULT_KERNEL:
        from broker.cli.images.building.initramfs_build import USB_MODULES
        from broker.host.images.initramfs import MODULES, NETWORK_MODULES

        names = (*MODULES, *NETWORK_MODULES, *USB_MODULES)
        total.update("\n".join(names).encode())
    for name in ("customize.sh", "init"):
        data = (resources.files("broker") / "data/image" / name).read_bytes()
        total.update(hashlib.sha256(data).digest())
    return total.hexdigest()


def list_images(paths: Paths) -> list[Image]:
    """Return every image that can be used, by name."""
    found = []
    for link in sorted(paths.images.glob("[a-z]*")):
        try:
            found.append(find_image(paths, link.name))
        except (SetupError, RefusedError):
            continue  # 'image list' shows what can be booted; build replaces it
    return found


def previous_image(paths: Paths, name: str) -> Image | None:
    """Return the image that the present one replaced, if it is still there."""
    take_image_name(name)
    try:
        return read_image(name, _previous(paths, name).resolve(strict=True))
    except (OSError, *UNREADABLE):
        return None


def keep_previous(paths: Paths, name: str) -> None:
    """Remember the image in use as the previous one: it is about to be replaced."""
    link = paths.images / name
    if link.is_symlink():
        point(_previous(paths, name), link.readlink().name)


def roll_back(paths: Paths, name: str) -> Image:
    """Exchange the present image and the previous image.

    Machines that run keep the files that they have open.  The build's lock is
    held.  Raises SetupError when there is no previous image.
    """
    present = find_image(paths, name)
    previous = previous_image(paths, name)
    if previous is None or previous.directory == present.directory.resolve():
        raise SetupError(
            f"cannot roll back the guest image {name!r}: there is no earlier version",
            hint="first replace the image with 'brokerctl image build --force' or "
            "'brokerctl image import': both keep this version",
        )
    point(paths.images / name, previous.directory.name)
    point(_previous(paths, name), present.directory.resolve().name)
    return find_image(paths, name)


def _previous(paths: Paths, name: str) -> Path:
    return paths.images / f".{name}.previous"


def point(link: Path, target: str) -> None:
    """Replace a symbolic link atomically."""
    fresh = link.with_name(f"{link.name.removeprefix('.')}.link")
    fresh = fresh.with_name(f".{fresh.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.rename(link)


def unused_versions(paths: Paths, name: str) -> list[Path]:
    """Return the directories that are neither the present nor the previous image."""
    links = (paths.images / name, _previous(paths, name))
    used = {link.resolve() for link in links}
    return [
        directory
        for directory in versions(paths, name)
        if not directory.is_symlink() and directory.resolve() not in used
    ]


def remove_image(paths: Paths, name: str) -> None:
    """Remove an image and its incomplete download.  Machines that run keep running.

    Raises SetupError when none exists, RefusedError for an invalid name.
    """
    take_image_name(name)
    link = paths.images / name
    partial = download_path(paths, name)
    incomplete = partial.exists()
    for path in (partial, download_note(partial)):
        path.unlink(missing_ok=True)
    if not link.is_symlink():
        if incomplete:
            return
        raise SetupError(
            f"there is no guest image {name!r}",
            hint="to list the images, run 'brokerctl image list'",
        )
    link.unlink()
    _previous(paths, name).unlink(missing_ok=True)
    for directory in versions(paths, name):
        shutil.rmtree(directory)


def download_path(paths: Paths, name: str) -> Path:
    """Return the path of an image's incomplete download."""
    return paths.images / f".{name}.download"


def download_note(path: Path) -> Path:
    """Return the path of an incomplete download's note."""
    return path.with_name(f"{path.name}-note")


def refuse_downgrade(paths: Paths, name: str, signer: str, built: float) -> None:
    """Raise RefusedError if an import would replace a signed image by a lesser one.

    ``signer`` is the source in the manifest of the new image, ``built`` its date.
    """
    try:
        present = find_image(paths, name).manifest
    except SetupError:
        return
    if not present.source.startswith(SIGNED):
        return
    hint = f"to replace it nevertheless, first run 'brokerctl image remove {name}'"
    # guard: a signed image is replaced by one of the same key
    if present.source != signer:
        key = signer.removeprefix(SIGNED)
        other = f"signed by the key {key}" if signer != key else "not signed"
        raise RefusedError(
            f"the image {name!r} is signed by the key "
            f"{present.source.removeprefix(SIGNED)}, but the new image is {other}",
            hint=hint,
        )
    # guard: an older signed image does not replace a newer one
    if built < present.built:
        raise RefusedError(
            f"the new image was built {age_text(present.built - built)} before the "
            f"present image {name!r}",
            hint=hint,
        )


def versions(paths: Paths, name: str) -> list[Path]:
    """Return the directories of an image: in use, previous, and left-overs."""
    return sorted(paths.images.glob(f".{name}.*/"))


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the manifest as it is stored: sorted and indented."""
    encoded = msgspec.json.encode(manifest, order="sorted")
    return msgspec.json.format(encoded, indent=1) + b"\n"


def is_made_of(manifest: Manifest, spec: ImageSpec) -> bool:
    """Return whether a build of ``spec`` would make the same image again.

    Names, the order of packages and the archive's state do not matter.
    """
    same = _canonical(manifest.spec) == _canonical(spec) and not manifest.source
    return same and manifest.recipe == recipe(spec.kernel)


def renamed(spec: ImageSpec, name: str) -> ImageSpec:
    """Return the same under another name.  Raises RefusedError for an invalid one."""
    return replace(spec, name=name)


def _canonical(spec: ImageSpec) -> ImageSpec:
    return replace(spec, name=DEFAULT_NAME, packages=spec.all_packages)
