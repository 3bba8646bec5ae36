"""The initramfs of an image, of a kernel's unpacked package."""

from __future__ import annotations

import ctypes
import gzip
import lzma
import stat
from collections.abc import Callable, Iterable, Mapping
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
MODULE_BYTES = 64 << 20
"""Size of a decompressed module, at most."""
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

    def read(name: str) -> bytes | None:
        path = files.get(name)
        return unpack_module(path.name, path.read_bytes()) if path else None

    builtin = (directory / "modules.builtin").read_text()
    return _collect(wanted, read, builtin)


def boot_modules(directory: Path) -> dict[str, bytes]:
    """Return what an image has; for USB where its kernel has that."""
    usb = any(directory.glob("kernel/**/vhci-hcd.ko*"))
    return read_modules(directory, _boot_names(usb=usb))


def select_modules(
    read: Callable[[str], bytes | None], builtin: str, *, usb: bool
) -> dict[str, bytes]:
    """Return the same, of a kernel whose modules ``read`` returns.

    ``builtin`` is its file modules.builtin.
    """
    return _collect(_boot_names(usb=usb), read, builtin)


def _boot_names(*, usb: bool) -> tuple[str, ...]:
    return (*MODULES, *NETWORK_MODULES, *(USB_MODULES if usb else ()), *_ON_DEMAND)


def _collect(
    names: Iterable[str], read: Callable[[str], bytes | None], builtin: str
) -> dict[str, bytes]:
    builtin_names = {module_name(Path(line).name) for line in builtin.splitlines()}
    loaded: dict[str, bytes] = {}
    for name in names:
        _add(name, read, builtin_names, loaded)
    return loaded


def _add(
    name: str,
    read: Callable[[str], bytes | None],
    builtin: set[str],
    loaded: dict[str, bytes],
) -> None:
    """Read a module after its dependencies, unless it is built in."""
    if name in loaded or name in builtin:
        return
    content = read(name)
    if content is None:
        if name in OPTIONAL:
            return
        raise UpstreamError(
            f"the kernel's packages do not contain the module {name}",
            hint="choose another kernel package with --kernel",
        )
    for dependency in (*_SOFT_DEPENDENCIES.get(name, ()), *dependencies(content)):
        _add(dependency, read, builtin, loaded)
    loaded[name] = content


def unpack_module(name: str, content: bytes) -> bytes:
    """Return a module decompressed, as busybox needs it."""
    if name.endswith(".ko"):
        return content
    if name.endswith(".xz"):
        return lzma.decompress(content)
    if name.endswith(".gz"):
        return gzip.decompress(content)
    if name.endswith(".zst"):
        return _unpack_zstd(content)
    raise UpstreamError(
        f"the compression of the kernel's module {name} is not supported",
        hint="choose another kernel package with --kernel",
    )


def _unpack_zstd(content: bytes) -> bytes:
    """Return the content of a zstd frame that has its size, as zstd(1) writes of a file."""
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError as error:
        raise UpstreamError(
            "cannot decompress the kernel's modules: libzstd.so.1 is not installed",
            hint="install zstd's library, which kmod and RPM use",
        ) from error
    library.ZSTD_getFrameContentSize.restype = ctypes.c_ulonglong
    library.ZSTD_decompress.restype = ctypes.c_size_t
    pointer, length = ctypes.c_char_p, ctypes.c_size_t
    library.ZSTD_getFrameContentSize.argtypes = [pointer, length]
    library.ZSTD_decompress.argtypes = [ctypes.c_void_p, length, pointer, length]
    size = library.ZSTD_getFrameContentSize(content, len(content))
    # Also refuses the two largest numbers, which mean an unknown size and an error.
    # guard: a module has a limit of bytes
    if size <= MODULE_BYTES:
        target = ctypes.create_string_buffer(size)
        if library.ZSTD_decompress(target, size, content, len(content)) == size:
            return target.raw
    raise UpstreamError(
        "cannot decompress the kernel's modules: invalid or too large zstd data",
        hint="choose another kernel with --kernel",
    )
