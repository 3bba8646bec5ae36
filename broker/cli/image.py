"""``brokerctl image``: make, list and remove guest images."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import rich_click as click
import trio
from rich.console import Console

from broker.cli import render
from broker.core.errors import SetupError
from broker.core.paths import Paths, find_paths
from broker.launch.image import store
from broker.launch.image.build import build_image
from broker.launch.image.build_room import only_build
from broker.launch.image.store import Image, ImageSpec


@click.group("image")
def command() -> None:
    """Make, list and remove guest images."""


_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Steps:
    """Shows each step of a build, and on a terminal how long it has taken."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status("")
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        """Begin to show."""
        if not self._quiet and self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal clean."""
        self._status.stop()

    def step(self, text: str) -> None:
        """Show that a step begins."""
        if self._quiet:
            return
        spent = render.seconds(time.monotonic() - self._began)
        self._console.print(f"[{spent:>7}] {text}", markup=False, soft_wrap=True)
        self._status.update(text)


@command.command()
@click.argument("name", default=store.DEFAULT_NAME)
@click.option("--suite", default=store.DEFAULT_SUITE, show_default=True)
@click.option(
    "-p", "--package", "packages", multiple=True, help="A package besides the default."
)
@click.option(
    "--packages-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Package names instead of the default ones, separated by space; # comments.",
)
@click.option("--kernel", default=store.DEFAULT_KERNEL, show_default=True)
@click.option("--mirror", default="", help="An archive instead of this machine's own.")
@click.option("--size", default=0, metavar="MIB", help="Least size of the root.")
@click.option("--force", is_flag=True, help="Build even if the image is there.")
@_JSON
def build(
    name: str,
    *,
    suite: str,
    packages: Sequence[str],
    packages_file: Path | None,
    kernel: str,
    mirror: str,
    size: int,
    force: bool,
    as_json: bool,
) -> None:
    """Make the guest image NAME from packages of a Debian suite.

    Needs no root.  An image that is made of the same already is kept, unless
    --force asks for a new one with the packages of today.
    """
    base = read_packages(packages_file) if packages_file else store.DEFAULT_PACKAGES
    spec = ImageSpec(
        name=name,
        suite=suite,
        packages=(*base, *packages),
        kernel=kernel,
        mirror=mirror,
        size=size << 20,
    )
    paths = find_paths()
    with Steps(quiet=as_json) as steps:
        image = trio.run(lambda: build_image(paths, spec, steps.step, force=force))
    if as_json:
        render.json_line(describe(image))
    else:
        age = render.seconds(image.age())
        render.note(f"image {image.name}: {image.suite}, built {age} ago")


def read_packages(path: Path) -> tuple[str, ...]:
    """Return the words of a package list.  Raises SetupError when unreadable."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(
            f"cannot read the package list {path}: {error}",
            hint="it is a text file of package names",
        ) from error
    return tuple(word for line in lines for word in line.partition("#")[0].split())


@command.command(name="list")
@_JSON
def list_(*, as_json: bool) -> None:
    """List the images that can be booted, with their age."""
    found = store.list_images(find_paths())
    if as_json:
        render.json_line([describe(image) for image in found])
        return
    if not found:
        render.note("there are no images; 'brokerctl image build' makes one")
        return
    columns = ("IMAGE", "SUITE", "AGE", "SIZE", "WAYPIPE", "KERNEL", "PACKAGES")
    render.table(columns, [_row(image) for image in found])


def _row(image: Image) -> list[str]:
    return [
        image.name,
        image.suite,
        age_text(image.age()),
        render.size(image.disk_bytes()),
        image.waypipe,
        image.manifest.kernel,
        str(len(image.manifest.versions)),
    ]


def age_text(seconds: float) -> str:
    """An age as people count it: days once it is more than two."""
    return (
        f"{seconds / 86400:.0f} days" if seconds > 172800 else render.seconds(seconds)
    )


def describe(image: Image) -> dict[str, object]:
    """Return what JSON output says of an image."""
    manifest = image.manifest
    return {
        "name": image.name,
        "suite": image.suite,
        "built": manifest.built,
        "age_seconds": image.age(),
        "bytes": image.disk_bytes(),
        "waypipe": image.waypipe,
        "kernel": manifest.kernel,
        "digest": manifest.digest,
        "packages": list(manifest.spec.all_packages),
        "directory": str(image.directory),
    }


@command.command()
@click.argument("names", nargs=-1, required=True)
@_JSON
def remove(names: Sequence[str], *, as_json: bool) -> None:
    """Remove images.  Machines that run on one go on."""
    paths = find_paths()
    for name in names:
        store.remove_image(paths, name)
    if as_json:
        render.json_line({"removed": list(names)})


@command.command()
@_JSON
def rebuild(*, as_json: bool) -> None:
    """Build every image again, from the current packages.

    This is what the user timer vitrail-image-rebuild.timer runs.
    """
    paths = find_paths()
    done = [_rebuild(paths, image, quiet=as_json) for image in store.list_images(paths)]
    if as_json:
        render.json_line([describe(image) for image in done])


@command.command()
@click.argument("name", default=store.DEFAULT_NAME)
@_JSON
def rollback(name: str, *, as_json: bool) -> None:
    """Use the version of NAME that was there before it was last built.

    A second rollback returns to the newer one.  Machines that run keep what
    they were started with.
    """
    paths = find_paths()

    async def swap() -> Image:
        # Without an image there is no directory for the lock's file either.
        store.find_image(paths, name)
        lock = paths.images / f".{name}.lock"
        async with only_build(lock, render.note):
            return store.roll_back(paths, name)

    image = trio.run(swap)
    if as_json:
        render.json_line(describe(image))
        return
    render.note(f"'{image.name}' is the version built {age_text(image.age())} ago")


def _rebuild(paths: Paths, image: Image, *, quiet: bool) -> Image:
    spec = image.manifest.spec
    with Steps(quiet=quiet) as steps:
        steps.step(f"image {image.name}")
        return trio.run(lambda: build_image(paths, spec, steps.step, force=True))


@command.command()
@click.argument("state", type=click.Choice(["on", "off", "status"]))
def timer(state: str) -> None:
    """Switch the weekly rebuild of all images on or off."""
    from broker.launch.image.rebuild_timer import (
        switch_timer,  # needs systemd, rarely used
    )

    text = trio.run(switch_timer, state)
    sys.stdout.write(text + "\n")
