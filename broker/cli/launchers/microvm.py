"""Checks of ``brokerctl doctor`` of records of micro VMs."""

from __future__ import annotations

from collections.abc import Sequence

from broker.cli.doctor.finding import Context, Finding, warn
from broker.cli.images import x11_needs
from broker.cli.images.installed import list_images
from broker.cli.images.record_images import micro_vm_of
from broker.cli.launchers.interface import Launcher
from broker.core.errors import SetupError
from broker.host.gpu.gpu_renderer import find_renderer, own_node
from broker.host.images.initramfs import has_gpu
from broker.host.images.store import GPU_PACKAGES
from policy.records.model import MicroVM, Record


async def _check(context: Context, records: Sequence[Record]) -> list[Finding]:
    return [*_without_x11(context, records), *_without_gpu_support(context, records)]


def _without_x11(context: Context, records: Sequence[Record]) -> list[Finding]:
    """Warn of images that lack the Xwayland which their records need."""
    found = []
    for launch in _launches([r for r in records if r.viewer.window.x11]):
        if launch.root != "host" and x11_needs.lacks_x11(context.paths, launch.image):
            text = f"the image {launch.image} lacks Xwayland, which its records require"
            found.append(warn("launchers", text, x11_needs.addition(launch.image)))
    return found


def _without_gpu_support(context: Context, records: Sequence[Record]) -> list[Finding]:
    """Warn of what micro VMs with ``gpu = "render"`` lack.

    The renderer or a usable render node of the host, or GPU driver and Mesa of an image.
    """
    wanting = [one for one in _launches(records) if one.gpu == "render"]
    found = []
    for look in (find_renderer, own_node) if wanting else ():
        try:
            look()
        except SetupError as error:
            found.append(warn("launchers", error.message, error.hint or ""))
    images = {image.name: image for image in list_images(context.paths)}
    for name in sorted({launch.image for launch in wanting} & {*images}):
        lacks = {*GPU_PACKAGES} - {*images[name].manifest.versions}
        if lacks or not has_gpu(images[name].initrd.read_bytes()):
            text = f"the image {name} lacks a GPU driver or Mesa"
            mend = f"brokerctl image build {name} --gpu"
            found.append(warn("launchers", text, mend))
    return found


def _launches(records: Sequence[Record]) -> list[MicroVM]:
    return [launch for record in records if (launch := micro_vm_of(record))]


LAUNCHER = Launcher(check=_check)
