"""``brokerctl image``: make, list and remove guest images."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import rich_click as click
import trio

from broker.cli import render
from broker.cli.completion import images
from broker.cli.images import foreign, installed
from broker.cli.images.building.build import build_image
from broker.cli.images.building.build_room import CONTAINER, only_build
from broker.cli.images.describe import age_text, describe
from broker.cli.images.record_images import micro_vm_of, packages_of
from broker.cli.images.steps import BuildSteps
from broker.cli.images.x11_needs import X_SERVER
from broker.cli.late_group import LateGroup
from broker.cli.policy.records import read_records
from broker.cli.transfer.named_path import NamedPath
from broker.core.errors import RefusedError, SetupError
from broker.core.parts.absent import require
from broker.core.paths import Paths, find_paths
from broker.host.images import store
from broker.host.images.store import Image, ImageSpec
from policy.records.model import Record


@click.group("image", cls=LateGroup)
def command() -> None:
    """Build, list and remove guest images."""


_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@command.command()
@click.argument("name", default=store.DEFAULT_NAME, shell_complete=images)
@click.option(
    "--suite",
    default=store.DEFAULT_SUITE,
    show_default=True,
    help="Debian suite of the packages.",
)
@click.option(
    "-p",
    "--package",
    "packages",
    multiple=True,
    help="Install this package in addition to the default ones.",
)
@click.option(
    "--packages-file",
    type=NamedPath(exists=True, dir_okay=False, path_type=Path),
    help="Install the packages named in this file ('#' starts a comment), not the default ones.",
)
@click.option("--x11", is_flag=True, help="Add support for X11 programs (docs/x11.md).")
@click.option(
    "--gpu", is_flag=True, help="Add support for drawing with a GPU (docs/gpu.md)."
)
@click.option(
    "--kernel", default="", help=f"Kernel package [default: {store.DEFAULT_KERNEL}]."
)
@click.option(
    "--mirror", default="", help="Package archive to use instead of this machine's."
)
@click.option(
    "--size", default=0, metavar="MIB", help="Minimum size of the root file system."
)
@click.option("--force", is_flag=True, help="Build even if the image exists.")
@click.option(
    "--container",
    default="",
    metavar="IMAGE",
    help="Build in a Podman container of this Debian image.  This is done by itself, "
    f"in {CONTAINER}, on a system without mmdebstrap.",
)
@_JSON
def build(
    name: str,
    *,
    suite: str,
    packages: Sequence[str],
    packages_file: Path | None,
    x11: bool,
    gpu: bool,
    kernel: str,
    mirror: str,
    size: int,
    force: bool,
    container: str,
    as_json: bool,
) -> None:
    """Build the guest image NAME from packages of a Debian suite.

    Root is not required.  Without --package and --packages-file, the packages of the
    first record with this image are installed.  An existing image of the same packages
    is kept; to build it again with current packages, pass --force.
    """
    foreign.refuse_host(name)
    if x11:
        require("x11", "--x11")
    base = read_packages(packages_file) if packages_file else store.DEFAULT_PACKAGES
    if not packages and not packages_file:
        records = read_records(find_paths()).records
        _refuse_record_name(name, records)
        base = packages_of(name, records.values()) or base
    spec = ImageSpec(
        name=name,
        suite=suite,
        packages=(
            *(*base, *packages),
            *([X_SERVER] if x11 else []),
            *(store.GPU_PACKAGES if gpu else ()),
        ),
        kernel=kernel or (store.GPU_KERNEL if gpu else store.DEFAULT_KERNEL),
        mirror=mirror,
        size=size << 20,
    )
    paths = find_paths()
    with BuildSteps(quiet=as_json) as steps:
        run = partial(build_image, force=force, container=container)
        image = trio.run(run, paths, spec, steps.step)
    if as_json:
        render.json_line(describe(image))
    else:
        age = render.seconds(image.age())
        render.note(f"image '{image.name}' is ready: {image.suite}, built {age} ago")


def _refuse_record_name(name: str, records: Mapping[str, Record]) -> None:
    """Refuse the name of a record that has another image: nothing would use the result."""
    images = {
        key: launch.image
        for key, record in records.items()
        if (launch := micro_vm_of(record)) is not None
    }
    if name in images and name not in images.values():
        raise RefusedError(
            f"no record has the image '{name}': the image of the record '{name}' is "
            f"'{images[name]}'",
            hint=f"run 'brokerctl image build {images[name]}'",
        )


def read_packages(path: Path) -> tuple[str, ...]:
    """Return the words of a package list.  Raises SetupError when unreadable."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(
            f"cannot read the package list {path}: {render.cause(error)}",
            hint="specify a text file with package names separated by spaces; '#' "
            "starts a comment",
        ) from error
    return tuple(word for line in lines for word in line.partition("#")[0].split())


@command.command(name="list")
@_JSON
def list_(*, as_json: bool) -> None:
    """List the images that can be booted, with their age."""
    found = installed.list_images(find_paths())
    if as_json:
        render.json_line([describe(image) for image in found])
        return
    if not found:
        render.note("there are no images; to build one, run 'brokerctl image build'")
        return
    columns = ["IMAGE", "SUITE", "AGE", "SIZE", "WAYPIPE", "KERNEL", "PACKAGES"]
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


@command.command()
@click.argument("names", nargs=-1, required=True, shell_complete=images)
@_JSON
def remove(names: Sequence[str], *, as_json: bool) -> None:
    """Remove images.  Running machines continue to use them."""
    paths = find_paths()
    for name in names:
        installed.remove_image(paths, name)
    if as_json:
        render.json_line({"removed": list(names)})


@command.command()
@_JSON
def rebuild(*, as_json: bool) -> None:
    """Build every image again from current packages.

    Imported images are not changed; import them again instead.  The user timer
    vitrail-image-rebuild.timer runs this command.
    """
    paths = find_paths()
    done = [
        _rebuild(paths, image, quiet=as_json) for image in installed.list_images(paths)
    ]
    if as_json:
        render.json_line([describe(image) for image in done])


@command.command()
@click.argument("name", default=store.DEFAULT_NAME, shell_complete=images)
@_JSON
def rollback(name: str, *, as_json: bool) -> None:
    """Use the version of NAME that the last build replaced.

    A second rollback restores the newer version.  Running machines are not affected.
    """
    paths = find_paths()

    async def swap() -> Image:
        # Without an image there is no directory for the lock's file either.
        store.find_image(paths, name)
        lock = paths.images / f".{name}.lock"
        async with only_build(lock, render.note):
            return installed.roll_back(paths, name)

    image = trio.run(swap)
    if as_json:
        render.json_line(describe(image))
        return
    render.note(f"'{image.name}' is now the version built {age_text(image.age())} ago")


def _rebuild(paths: Paths, image: Image, *, quiet: bool) -> Image:
    """Build an image again with its former settings, and show progress."""
    spec = image.manifest.spec
    with BuildSteps(quiet=quiet) as steps:
        steps.step(f"image {image.name}")
        if image.manifest.source:
            return foreign.renewed(paths, image, steps.step)
        return trio.run(lambda: build_image(paths, spec, steps.step, force=True))


command.add_command(foreign.import_)
command.add_command(foreign.export)
command.add_command(foreign.fetch)


@command.command()
@click.argument("state", type=click.Choice(["on", "off", "status"]))
def timer(state: str) -> None:
    """Enable or disable the weekly rebuild of all images."""
    from broker.cli.images.building.rebuild_timer import (
        switch_timer,  # needs systemd, rarely used
    )

    text = trio.run(switch_timer, state)
    sys.stdout.write(text + "\n")
