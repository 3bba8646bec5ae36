"""The image of a record that names its packages: built where it is missing."""

from __future__ import annotations

from broker.cli.run.progress import Steps
from broker.core.errors import RefusedError
from broker.core.paths import Paths
from broker.launch.image import store
from broker.launch.image.build import build_image
from broker.launch.image.store import ImageSpec
from policy.records.model import MicroVM, Record

_STEP = "build the image"


async def ensure_image(paths: Paths, record: Record, steps: Steps) -> None:
    """Build the record's image if it has other packages than the record names.

    Does nothing for a record without packages.  Raises RefusedError where the
    image would be another record's too, SetupError and UpstreamError as
    ``build_image`` does.
    """
    launch = record.host.launch
    if not isinstance(launch, MicroVM) or not launch.packages:
        return
    if launch.image == store.DEFAULT_NAME:
        raise RefusedError(
            "a record with packages needs an image of its own",
            where=record.where("launch.packages"),
            hint=f'add image = "{record.name}" to [launch]',
        )
    spec = ImageSpec(
        name=launch.image, packages=(*store.DEFAULT_PACKAGES, *launch.packages)
    )
    if _is_there(paths, spec):
        return
    async with steps.step(f"{_STEP} {spec.name}"):
        await build_image(paths, spec, steps.tell)


def _is_there(paths: Paths, spec: ImageSpec) -> bool:
    return any(
        image.name == spec.name and store.is_made_of(image.manifest, spec)
        for image in store.list_images(paths)
    )
