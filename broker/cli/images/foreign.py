"""``brokerctl image import``: guest images from elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
import trio

from broker.cli import render
from broker.cli.completion import images
from broker.cli.images.building.build_room import Progress, scratch_base
from broker.cli.images.describe import describe
from broker.cli.images.steps import BuildSteps
from broker.cli.transfer.named_path import (
    NamedPath,
    opened_target,
    refuse_planted_link,
)
from broker.core import limits
from broker.core.errors import RefusedError, SetupError
from broker.core.escape import printable
from broker.core.paths import Paths, find_paths
from broker.host.images import store
from broker.host.images.store import Image

if TYPE_CHECKING:
    from broker.cli.images.foreign_images.kernel_choice import KernelChoice

_PODMAN = "podman:"


_FILE = NamedPath(exists=True, dir_okay=False, path_type=Path)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("export")
@click.argument("name", shell_complete=images)
@click.argument("target", metavar="FILE", type=NamedPath(path_type=Path))
@click.option(
    "--key", type=_FILE, required=True, help="Private Ed25519 key in PEM format."
)
@_JSON
def export(name: str, target: Path, *, key: Path, as_json: bool) -> None:
    """Write the guest image NAME to FILE, with a signature.

    To import the file on another machine, run
    'brokerctl image import FILE NAME --key PUBLIC'.
    """
    from broker.cli.images.foreign_images import signed

    image = store.find_image(find_paths(), name)
    private = signed.read_private_key(key)
    with BuildSteps(quiet=as_json) as steps:
        steps.step(f"writing {target}")
        try:
            with opened_target(target) as opened:
                signed.export_image(image, opened, private)
        except OSError as error:
            raise SetupError(f"cannot write {target}: {error.strerror}") from error
    mark = signed.fingerprint(private.public_key())
    digest = image.manifest.digest
    if as_json:
        render.json_line(
            {"file": str(target), "key": mark, "name": name, "digest": digest}
        )
        return
    render.note(
        f"wrote image {name} with the digest {digest} to {target}, signed with the key "
        f"{mark}"
    )


@click.command("import")
@click.argument("origin", metavar="ARCHIVE|podman:IMAGE")
@click.argument("name")
@click.option(
    "--base",
    default=store.DEFAULT_NAME,
    show_default=True,
    help="Guest image whose kernel is used.",
)
@click.option(
    "--kernel",
    "kernels",
    multiple=True,
    metavar="image|host|FILE",
    help="Use the kernel of the OCI image, of this machine, or of a kernel package "
    "(.deb, .rpm, .tar, .pkg.tar.zst), not that of a guest image.",
)
@click.option(
    "--key",
    type=_FILE,
    help="Public key of the signer of ARCHIVE, which 'image export' wrote.",
)
@_JSON
def import_(
    origin: str,
    name: str,
    *,
    base: str,
    kernels: Sequence[str],
    key: Path | None,
    as_json: bool,
) -> None:
    """Create the guest image NAME from an OCI image or a signed file.

    ARCHIVE is a file that 'podman save --format oci-archive' wrote; podman:IMAGE reads
    an image of the user's podman.  The image must contain python3 and waypipe.  No
    program of the image runs on this machine, and its device files are skipped.

    With --key, ARCHIVE is a whole guest image that 'image export' wrote on another
    machine and signed with that key.
    """
    refuse_host(name)
    paths = find_paths()
    if key is not None and kernels:
        raise RefusedError(
            "--kernel is not for a signed image, which has its kernel",
            hint="leave out --kernel, or --key",
        )
    with BuildSteps(quiet=as_json) as steps:
        if key is None:
            # Late: none of it is needed to list images.
            from broker.cli.images.foreign_images.kernel_choice import choose_kernel

            choice = choose_kernel(kernels, base)
            image = trio.run(_import, paths, origin, name, choice, steps.step)
        else:
            image = _import_signed(paths, _archive(origin), name, key, steps.step)
    _show_imported(image, as_json=as_json)


@click.command("fetch")
@click.argument("url")
@click.argument("name")
@click.option(
    "--key", type=_FILE, required=True, help="Public key of the image's signer."
)
@click.option(
    "--digest", default="", metavar="HEX", help="Accept only the image of this digest."
)
@click.option(
    "--max-size",
    type=click.IntRange(min=1),
    default=limits.IMAGE_DOWNLOAD_BYTES >> 20,
    show_default=True,
    metavar="MIB",
    help="Maximum size of the download.",
)
@_JSON
def fetch(
    url: str, name: str, *, key: Path, digest: str, max_size: int, as_json: bool
) -> None:
    """Download the guest image NAME from URL, which 'image export' wrote elsewhere.

    The image is used only if the key signed it.  A download that was interrupted
    continues when the same command runs again.  A signed image is never replaced by
    an older one, or by one of another key.
    """
    from broker.cli.images.foreign_images import download, signed

    refuse_host(name)
    origin = signed.ImageOrigin(signed.read_public_key(key), digest.lower())
    limit = max_size << 20
    with BuildSteps(quiet=as_json) as steps:
        run = partial(download.fetch_image, limit=limit, progress=steps.step)
        image = trio.run(run, find_paths(), name, url, origin)
    _show_imported(image, as_json=as_json)


def _show_imported(image: Image, *, as_json: bool) -> None:
    """Print what image was made, and how a record uses it."""
    if as_json:
        render.json_line(describe(image))
    else:
        render.note(f"imported image {image.name} with kernel {image.manifest.kernel}")
        render.note(
            f'to use it, set image = "{image.name}" in the [launch] section of a record'
        )


def refuse_host(name: str) -> None:
    """Raise RefusedError for the name of the image of this machine's programs."""
    if name == store.HOST_IMAGE:
        raise RefusedError(
            f"cannot create an image '{name}': the name is reserved for the image "
            "of this machine's programs",
            hint="choose another name; to create the reserved image, run 'brokerctl "
            "run --root host COMMAND'",
        )


def _archive(origin: str) -> Path:
    """Return the path of an archive.  Raises RefusedError for a sandbox's link."""
    refuse_planted_link(Path(origin))
    return Path(origin).absolute()


def _import_signed(
    paths: Paths, archive: Path, name: str, key: Path, progress: Progress
) -> Image:
    """Import a signed image, after checking its signature."""
    from broker.cli.images.foreign_images.signed import (
        ImageOrigin,
        import_signed,
        read_public_key,
    )

    origin = ImageOrigin(read_public_key(key))
    if not archive.is_file():
        raise SetupError(
            f"cannot import {printable(str(archive), 200)}: "
            + ("not a regular file" if archive.exists() else "no such file"),
            hint="with --key, specify a file that 'brokerctl image export' wrote",
        )
    return trio.run(import_signed, paths, name, archive, origin, progress)


async def _import(
    paths: Paths, origin: str, name: str, choice: KernelChoice, progress: Progress
) -> Image:
    """Import an image of an OCI archive, of podman, or of this machine."""
    # Late: none of it is needed to list images.
    from broker.cli.images.foreign_images.importing import (
        import_image,
        save_from_podman,
    )

    if not origin.startswith(_PODMAN):
        return await import_image(paths, name, _archive(origin), choice, progress)
    with tempfile.TemporaryDirectory(dir=scratch_base(), prefix="vitrail-") as scratch:
        saved = await save_from_podman(
            origin.removeprefix(_PODMAN), Path(scratch), progress
        )
        return await import_image(paths, name, saved, choice, progress)


def renewed(paths: Paths, image: Image, progress: Progress) -> Image:
    """Build an image again where that is possible; an imported one stays."""
    from broker.cli.images.foreign_images.hostroot import build_host_image

    if image.name != store.HOST_IMAGE:
        progress("skipped an imported image; to renew it, import it again")
        return image
    return trio.run(build_host_image, paths, store.DEFAULT_NAME, progress)
