"""Build the image of a record if its packages differ."""

from __future__ import annotations

from collections.abc import Iterable

from broker.cli import render
from broker.cli.images import installed, x11_needs
from broker.cli.images.building.build import build_image
from broker.cli.images.record_images import micro_vm_of, spec_of
from broker.cli.policy.records import example_text
from broker.cli.run.progress import Steps
from broker.core.errors import RefusedError
from broker.core.paths import Paths
from broker.host.images import store
from broker.host.images.store import ImageSpec
from policy.records.loader import FOLDER
from policy.records.model import MicroVM, Record

_STEP = "build the image"


async def ensure_image(paths: Paths, record: Record, steps: Steps) -> None:
    """Build the record's image if it has other packages than the record names.

    Of a record without packages only the default image is built, where it is missing,
    and that of this machine's programs, when packages change.  Raises RefusedError
    where the image would be another record's too, SetupError and UpstreamError as
    ``build_image`` does.
    """
    launch = micro_vm_of(record)
    if launch is None:
        return
    if launch.root == "host":
        await _ensure_host_image(paths, steps)
        return
    if not launch.packages:
        if launch.image == store.DEFAULT_NAME:
            await _ensure_default(paths, steps)
        _tell_x11(paths, record, launch)
        return
    if launch.image == store.DEFAULT_NAME:
        raise RefusedError(
            f"cannot install the packages of '{record.name}' in the image "
            f"'{store.DEFAULT_NAME}', which other records use",
            where=record.where("launch.packages"),
            hint=f'add image = "{record.name}" to [launch] of the record',
        )
    spec = spec_of(record)
    if spec is not None and not _is_there(paths, spec):
        async with steps.step(f"{_STEP} {spec.name}"):
            await build_image(paths, spec, steps.tell)
    _tell_x11(paths, record, launch)


def _tell_x11(paths: Paths, record: Record, launch: MicroVM) -> None:
    """Print a note if a program cannot show a window without X11."""
    directory = paths.images / launch.image
    text = x11_needs.sentence(next(iter(launch.command), ""), directory)
    if record.viewer.window.x11 and x11_needs.lacks_x11(paths, launch.image):
        text = (
            f"{record.where('window.x11')}: the image {launch.image} has no X server; "
            f"to add one, run '{x11_needs.addition(launch.image)}'"
        )
    if text:
        render.note(f"note: {text}")


async def _ensure_default(paths: Paths, steps: Steps) -> None:
    """Build the default image if there is none."""
    if any(image.name == store.DEFAULT_NAME for image in installed.list_images(paths)):
        return
    async with steps.step(f"{_STEP} {store.DEFAULT_NAME}"):
        await build_image(paths, ImageSpec(), steps.tell)


async def _ensure_host_image(paths: Paths, steps: Steps) -> None:
    """Build the image of this machine's programs if it is outdated."""
    # Late: few records have such a root.
    from broker.cli.images.foreign_images.hostroot import build_host_image, is_current

    present = {image.name: image for image in installed.list_images(paths)}
    host = present.get(store.HOST_IMAGE)
    if host is not None and is_current(host):
        return
    await _ensure_default(paths, steps)
    async with steps.step("create an image of this machine's programs"):
        await build_host_image(paths, store.DEFAULT_NAME, steps.tell)


def record_of_host(paths: Paths, known: Iterable[str]) -> str:
    """Return the name of the record for programs of this machine.

    If it is not ``known``, write the record that Vitrail ships.
    """
    if store.HOST_IMAGE not in known:
        target = paths.config[0] / FOLDER / f"{store.HOST_IMAGE}.toml"
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(example_text(target.stem))
        render.note(f"wrote {target}")
    return store.HOST_IMAGE


def _is_there(paths: Paths, spec: ImageSpec) -> bool:
    return any(
        image.name == spec.name and installed.is_made_of(image.manifest, spec)
        for image in installed.list_images(paths)
    )
