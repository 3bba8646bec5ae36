"""The image of a record with packages."""

from __future__ import annotations

from collections.abc import Iterable

from broker.cli.images.x11_needs import X_SERVER
from broker.cli.policy.records import is_micro_vm
from broker.host.images import store
from broker.host.images.store import ImageSpec
from policy.records.model import MicroVM, Record


def micro_vm_of(record: Record) -> MicroVM | None:
    """Return how the record's machine starts; None for a kind without our images."""
    launch = record.host.launch
    return launch if is_micro_vm(launch) else None


def spec_of(record: Record) -> ImageSpec | None:
    """Return what the record's image is made of; None if it names no packages."""
    launch = micro_vm_of(record)
    if launch is None or not launch.packages:
        return None
    packages = (*store.DEFAULT_PACKAGES, *launch.packages)
    if record.viewer.window.x11 and X_SERVER not in packages:
        packages = (*packages, X_SERVER)
    return ImageSpec(name=launch.image, packages=packages)


def packages_of(name: str, records: Iterable[Record]) -> tuple[str, ...]:
    """Return the packages of the first record that has the image of this name."""
    specs = (spec_of(record) for record in records)
    return next((spec.packages for spec in specs if spec and spec.name == name), ())
