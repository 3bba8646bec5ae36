"""The initramfs of an image, of a kernel's unpacked package."""

from __future__ import annotations

import lzma
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from broker.core.errors import UpstreamError
from broker.host.images.initramfs import (
    ARENA_MODULES,
    FOLDER_MODULES,
    GPU_MODULES,
    MODULES,
    NETWORK_MODULES,
    ORDER,
    ROUTER_MODULES,
    ArchiveEntry,
    dependencies,
    in_order,
    module_entry,
    module_name,
    write_cpio,
)

# Modules with which a kernel with USB attaches devices over vsock (usbip) and uses
# them: the root file system has no modules that could be loaded later.  Debian's
# cloud kernel has no vhci_hcd, and such a kernel gets none of these modules.
USB_MODULES = (
    "vhci_hcd",
    "usb_storage",
    "uas",
    "sd_mod",
    "usbhid",
    "hid_generic",
    "evdev",
    "uhid",
    "snd_usb_audio",
    "uvcvideo",
    # The file systems of sticks, and the names in them.
    "vfat",
    "exfat",
    "nls_cp437",
    "nls_ascii",
)
_AT_ONCE = frozenset({*MODULES, *NETWORK_MODULES, *USB_MODULES})
_ON_DEMAND = (*FOLDER_MODULES, *ARENA_MODULES, *ROUTER_MODULES, *GPU_MODULES)
OPTIONAL = frozenset(
    {
        *("vsock_loopback", "virtio_rng", "virtio_balloon", "crc32c_generic"),
        *USB_MODULES,
        *_ON_DEMAND,
    }
)
_SOFT_DEPENDENCIES = {"ext4": ("crc32c_generic",)}
"""Modules that another module requests by the name of an algorithm, so that its
``depends=`` does not name them."""
_DIRECTORIES = (
    "agent",
    "bin",
    "dev",
    "layer",
    "lower",
    "modules",
    "proc",
    "root",
    "sys",
)


def build_initramfs(busybox: bytes, modules: Mapping[str, bytes], init: bytes) -> bytes:
    """Build the initramfs; ``modules`` in the order in which they are loaded."""
    entries = {name: ArchiveEntry(stat.S_IFDIR | 0o755) for name in _DIRECTORIES}
    entries["init"] = ArchiveEntry(stat.S_IFREG | 0o755, init)
    entries["bin/busybox"] = ArchiveEntry(stat.S_IFREG | 0o755, busybox)
    # init's standard streams, open before it has mounted anything.
    entries["dev/console"] = ArchiveEntry(stat.S_IFCHR | 0o600, device=(5, 1))
    late = in_order(_ON_DEMAND, modules.get)
    now = [name for name in modules if name not in late or name in _AT_ONCE]
    order = "".join(f"{name}\n" for name in in_order(now, modules.get))
    entries[ORDER] = ArchiveEntry(stat.S_IFREG | 0o644, order.encode())
    for name, content in modules.items():
        entries[module_entry(name)] = ArchiveEntry(stat.S_IFREG | 0o644, content)
    return write_cpio(entries)


def read_modules(directory: Path, wanted: Iterable[str] = MODULES) -> dict[str, bytes]:
    """Read modules, dependencies first, from one ``lib/modules/VERSION``.

    What the kernel has built in is left out.  Raises UpstreamError when a
    module is neither there nor built in, and not optional.
    """
    files = {module_name(path.name): path for path in directory.glob("kernel/**/*.ko*")}
    builtin = {
        module_name(Path(line).name)
        for line in (directory / "modules.builtin").read_text().splitlines()
    }
    loaded: dict[str, bytes] = {}
    for name in wanted:
        _add(name, files, builtin, loaded)
    return loaded


def boot_modules(directory: Path) -> dict[str, bytes]:
    """Return what an image has; for USB where its kernel has that."""
    usb = any(directory.glob("kernel/**/vhci-hcd.ko*"))
    more = (*NETWORK_MODULES, *(USB_MODULES if usb else ()), *_ON_DEMAND)
    return read_modules(directory, (*MODULES, *more))


def _add(
    name: str, files: Mapping[str, Path], builtin: set[str], loaded: dict[str, bytes]
) -> None:
    """Read a module after its dependencies, unless it is built in."""
    if name in loaded or name in builtin:
        return
    path = files.get(name)
    if path is None:
        if name in OPTIONAL:
            return
        raise UpstreamError(
            f"the kernel's packages do not contain the module {name}",
            hint="choose another kernel package with --kernel",
        )
    content = _unpacked(path)
    for dependency in (*_SOFT_DEPENDENCIES.get(name, ()), *dependencies(content)):
        _add(dependency, files, builtin, loaded)
    loaded[name] = content


def _unpacked(path: Path) -> bytes:
    """Read a module, decompressed, as busybox needs it."""
    content = path.read_bytes()
    if path.suffix == ".ko":
        return content
    if path.suffix == ".xz":
        return lzma.decompress(content)
    raise UpstreamError(
        f"the compression of the kernel's module {path.name} is not supported",
        hint="choose another kernel package with --kernel",
    )
