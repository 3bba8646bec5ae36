"""The initramfs of a micro VM: busybox, the modules to find the disk, an init.

Pure: what a start adds to the archive is written here, in the
"newc" form of cpio (the kernel's Documentation/driver-api/early-userspace),
sorted and without times or owners, so equal inputs give equal bytes.

The host writes a start's archive, brokerctl that of an image that it builds.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

# In the order in which they are loaded; their dependencies come before
# them automatically.  One initramfs serves virtio over MMIO and over PCI.
MODULES = (
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "ext4",
    "overlay",
    "vmw_vsock_virtio_transport",
    "vsock_loopback",
    "virtio_rng",
    "virtio_balloon",
)
# What a machine with a network loads too.
NETWORK_MODULES = ("virtio_net", "af_packet")
# What a machine with folders loads beside these: ``modules_overlay``.
FOLDER_MODULES = ("fuse", "virtiofs")
# What a machine loads whose image is memory that it shares with others.
SHARED_IMAGE_MODULES = (
    "libnvdimm",
    "nd_virtio",
    "virtio_pmem",
    "nd_btt",
    "nd_pmem",
)
# What a machine loads that is the network of others: tunnels and address translation.
ROUTER_MODULES = (
    "wireguard",
    "tun",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_nat",
    "nft_redir",
    "nft_ct",
    "nft_reject_inet",
)
# What a machine loads that has an arena for its windows: the same, and a device of memory
# that a program can map.
ARENA_MODULES = (*SHARED_IMAGE_MODULES, "device_dax", "dax_pmem")
# What a machine loads that draws with a GPU.
GPU_MODULES = ("virtio_gpu",)
_DEPENDS = re.compile(rb"(?:^|\0)depends=([^\0]*)\0")
_TRAILER = "TRAILER!!!"
ORDER = "modules/order"
_SETTINGS = "agent/launch.json"
"""As in ``init``, and ``LAUNCH_FILE`` of ``shims/guest/launch.py``."""
_HEAD_BYTES = 110
_SIZE_AT = 54
"""Where the size of the content is in the head of an entry, as 8 digits."""


@dataclass(frozen=True)
class ArchiveEntry:
    """A file of the archive; a directory has no content."""

    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def write_cpio(entries: Mapping[str, ArchiveEntry]) -> bytes:
    """Return a newc archive of these entries, in the order of their names."""
    out = bytearray()
    for number, name in enumerate(sorted(entries), start=1):
        out += _record(number, name, entries[name])
    out += _record(0, _TRAILER, ArchiveEntry(0))
    return bytes(_padded(out, 512))


def _record(inode: int, name: str, entry: ArchiveEntry) -> bytes:
    """Encode one entry of the cpio archive."""
    encoded = name.encode() + b"\0"
    fields = (
        inode,
        entry.mode,
        0,  # uid
        0,  # gid
        2 if stat.S_ISDIR(entry.mode) else 1,
        0,  # mtime
        len(entry.content),
        0,  # device of the file itself
        0,
        *entry.device,
        len(encoded),
        0,  # checksum, unused in this form
    )
    head = bytearray(b"070701" + b"".join(b"%08X" % value for value in fields))
    head += encoded
    return bytes(_padded(head, 4) + _padded(bytearray(entry.content), 4))


def _padded(data: bytearray, unit: int) -> bytearray:
    return data + bytes(-len(data) % unit)


def agent_overlay(shim: bytes, settings: Mapping[str, str] | None = None) -> bytes:
    """Return an archive to append to the initramfs: another agent and its settings.

    Or none (``b""``); and the settings of this launch, for an init that
    ``passes_settings``.  Nothing where there is neither.
    """
    entries = {}
    if shim:
        entries["agent/vitrail_guest.py"] = ArchiveEntry(stat.S_IFREG | 0o644, shim)
    if settings:
        text = json.dumps(settings).encode()
        entries[_SETTINGS] = ArchiveEntry(stat.S_IFREG | 0o600, text)
    if not entries:
        return b""
    return write_cpio({"agent": ArchiveEntry(stat.S_IFDIR | 0o755), **entries})


def passes_settings(initramfs: bytes) -> bool:
    """Return whether its init gives the file of a launch's settings to the agent."""
    return f"/{_SETTINGS}".encode() in initramfs


def shares_image(initramfs: bytes) -> bool:
    """Return whether a machine with it can have its root file system as memory."""
    return b"vitrail.root=pmem" in initramfs and _has(initramfs, "virtio_pmem")


def has_router(initramfs: bytes) -> bool:
    """Return whether a machine with it can be the network of others."""
    return _has(initramfs, "nf_tables") and _has(initramfs, "tun")


def takes_arena(initramfs: bytes) -> bool:
    """Return whether a machine with it can have an arena for its windows."""
    return _has(initramfs, "virtio_pmem") and _has(initramfs, "dax_pmem")


def has_gpu(initramfs: bytes) -> bool:
    """Return whether a machine with it can draw with a GPU."""
    return _has(initramfs, "virtio_gpu")


def modules_overlay(
    initramfs: bytes,
    *,
    folders: bool,
    network: bool,
    shared_image: bool = False,
    router: bool = False,
    arena: bool = False,
    gpu: bool = False,
) -> bytes:
    """Return an archive to append to this one, by which it loads the modules needed.

    ``FOLDER_MODULES`` with ``folders``, ``SHARED_IMAGE_MODULES`` with
    ``shared_image``, ``ARENA_MODULES`` with ``arena``, ``ROUTER_MODULES`` with
    ``router``, ``GPU_MODULES`` with ``gpu``; without ``network`` none of
    ``NETWORK_MODULES`` and what only they depend on, which is a quarter of a second
    of an emulated boot.  Nothing where the archive does so as it is.  A kernel of
    Debian 13 has the folders' modules built in; a kernel that has neither is found by the
    guest's mount, whose error is shown.
    """
    if f"{ORDER}\0".encode() not in initramfs:
        return b""
    present = read_entry(initramfs, ORDER).decode().splitlines()
    order = [*present]
    if not network:
        _drop(order, NETWORK_MODULES, initramfs)
    if folders and _has(initramfs, "virtiofs"):
        order += FOLDER_MODULES
    if shared_image or arena:
        memory = ARENA_MODULES if arena else SHARED_IMAGE_MODULES
        order += [name for name in memory if _has(initramfs, name)]
    late = (*(ROUTER_MODULES if router else ()), *(GPU_MODULES if gpu else ()))
    wanted = in_order(late, lambda name: _find_module(initramfs, name))
    order += [name for name in wanted if name not in order]
    if order == present:
        return b""
    text = "".join(f"{name}\n" for name in order).encode()
    return write_cpio(
        {
            "modules": ArchiveEntry(stat.S_IFDIR | 0o755),
            ORDER: ArchiveEntry(stat.S_IFREG | 0o644, text),
        }
    )


def _drop(order: list[str], unwanted: Iterable[str], initramfs: bytes) -> None:
    """Remove modules from the loading order, with dependencies that only they had."""
    needs = {
        name: dependencies(read_entry(initramfs, module_entry(name))) for name in order
    }
    dropped = [name for name in unwanted if name in order]
    for name in dropped:
        order.remove(name)
        for one in needs[name]:
            wanted = one in MODULES or any(one in needs[other] for other in order)
            if one in order and not wanted:
                dropped.append(one)


def in_order(
    wanted: Iterable[str], find: Callable[[str], bytes | None]
) -> dict[str, None]:
    """Return the modules that exist and their dependencies, in loading order."""
    found: dict[str, None] = {}
    for name in wanted:
        content = find(name)
        if content is not None:
            found |= in_order(dependencies(content), find)
            found[name] = None
    return found


def _find_module(archive: bytes, name: str) -> bytes | None:
    return read_entry(archive, module_entry(name)) if _has(archive, name) else None


def module_entry(name: str) -> str:
    """Return the path of a module in the archive."""
    return f"modules/{name}.ko"


def _has(archive: bytes, name: str) -> bool:
    return f"{module_entry(name)}\0".encode() in archive


def read_entry(archive: bytes, name: str) -> bytes:
    """Return the content of a file in our cpio archive."""
    encoded = name.encode() + b"\0"
    at = archive.index(encoded)
    head = archive[at - _HEAD_BYTES : at]
    size = int(head[_SIZE_AT : _SIZE_AT + 8], 16)
    begin = at - _HEAD_BYTES + len(_padded(bytearray(head + encoded), 4))
    return archive[begin : begin + size]


def dependencies(content: bytes) -> list[str]:
    """Return the names in a module's ``depends=`` (its .modinfo section)."""
    found = _DEPENDS.search(content)
    if found is None:
        return []
    return [module_name(name) for name in found[1].decode("ascii").split(",") if name]


def module_name(file_name: str) -> str:
    """File name to module name, as modprobe(8) does it."""
    return file_name.partition(".ko")[0].replace("-", "_")
