"""Tables of a record that say how its machine starts and which state it keeps.

The authority, session children and brokerctl run this when they read records.
"""

from __future__ import annotations

from policy import limits
from policy.records import kinds
from policy.records.field_types import (
    Argument,
    Choice,
    Field,
    MemoryAmount,
    Pattern,
    SocketPath,
    Table,
    Whole,
    WholeRange,
    Words,
)
from policy.records.kinds import kinds_with
from policy.records.patterns import (
    LIBVIRT_DOMAIN,
    MACHINE_NAME,
    NAME,
    PACKAGE,
    PATHS,
)
from policy.records.quantities import Bytes, YesNo

_CIDS = 3, 0xFFFFFFFE
_VM, _EXTERNAL = kinds.MICROVM.name, kinds.EXTERNAL.name
_LIBVIRT, _VMSPAWN = kinds.LIBVIRT.name, kinds.VMSPAWN.name
_BWRAP, _PODMAN, _NSPAWN = kinds.BWRAP.name, kinds.PODMAN.name, kinds.NSPAWN.name
_SHARED, _FLATPAK = kinds.SHARED_BOX.name, kinds.FLATPAK.name
_BOOTS, _HOMES = kinds_with("boots"), kinds_with("homes")
_HOLDS, _NETWORK = kinds_with("holds"), kinds_with("network")
_OWN_COMMAND = kinds_with("own_command")
_OTHERS = (
    'start it yourself, and set kind = "external" and [peer] {} in its record (docs/{})'
)
_INSTEAD = {
    "libvirt": 'set kind = "libvirt-qemu" to create a domain for each run, or kind = '
    '"external" and [peer] libvirt = "NAME" for a domain that you start '
    "(docs/launchers/libvirt.md)",
    "libvirt-lxc": 'set kind = "nspawn" or "podman" to run containers as you; libvirt '
    "runs them only as root (docs/launchers/libvirt.md)",
    **dict.fromkeys(
        ("cloud-hypervisor", "firecracker", "libkrun"),
        _OTHERS.format('hybrid = "PATH"', "launchers/vmm.md"),
    ),
    "crosvm": _OTHERS.format("cid = N", "launchers/vmm.md"),
}
"""Launchers that people know, which are not a separate kind here."""
FLATPAK_APP = Pattern(
    "an application ID such as org.gnome.gedit",
    r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*){2,}",
    255,
)
_CONTAINER_IMAGE = Pattern(
    "an image reference such as localhost/debian:12, of at most 255 characters",
    "[a-z0-9][A-Za-z0-9./:@_-]*",
    255,
)


def _switch(key: str, text: str, *only: str) -> Field:
    return Field(key, YesNo(), text, default=False, only=only)


def _bind(key: str, words: str) -> Field:
    text = f"Files and directories of the host that the sandbox sees at the same path {words}"
    return Field(key, PATHS, text, default=[], only=_HOLDS)


LAUNCH = Table(
    "launch",
    "How the host starts the sandbox.",
    (
        Field(
            "kind",
            Choice(
                {
                    _VM: "a micro VM that Vitrail starts",
                    _LIBVIRT: "a domain of your libvirt (qemu:///session), which "
                    "'brokerctl run' creates from the image and removes at the end; it "
                    "has no network, and libvirt's confinement replaces Vitrail's jail",
                    _VMSPAWN: "a machine that systemd-vmspawn starts from the image; it has no network",
                    _BWRAP: "a box of namespaces that bubblewrap creates, with the host's programs and a separate home directory",
                    _PODMAN: "a Podman container, which is started by 'brokerctl run', "
                    "or by 'podman run --annotation io.vitrail.sandbox=NAME' with the hook "
                    "of 'brokerctl launcher install podman'",
                    _NSPAWN: "a systemd-nspawn container of the directory tree `rootfs`; it has no network",
                    _FLATPAK: "an installed Flatpak application; this record replaces "
                    "its permissions for display, sound, X11 and files",
                    _SHARED: "a container of toolbox or distrobox, which shares the "
                    "home directory and the host's sockets: its windows are labelled, but it is not isolated",
                    _EXTERNAL: "a sandbox that another program starts, which acquires "
                    "a lease with 'brokerctl lease acquire'; [peer] identifies it",
                },
                _INSTEAD,
            ),
            "The launcher that starts the sandbox, and its settings.",
            default=_VM,
        ),
        Field(
            "image",
            NAME,
            "The guest image ('brokerctl image list').",
            default="default",
            only=(*_BOOTS, _EXTERNAL),
        ),
        Field(
            "root",
            Choice(
                {
                    "image": "the guest image that `image` names",
                    "host": "the host's /usr, read-only, and a generated /etc; "
                    "'brokerctl run' builds an image of them, and rebuilds it when packages change",
                }
            ),
            "The source of the sandbox's programs; with `host`, `image` has no effect.",
            default="image",
            only=(_VM,),
        ),
        Field(
            "packages",
            Words(
                PACKAGE,
                f"an array of 0 to {limits.PACKAGES} names of Debian packages",
                0,
                limits.PACKAGES,
                unique=True,
            ),
            "Packages of the image in addition to the default ones. 'brokerctl run' "
            "builds the image, and rebuilds it when this key changes. `image` must name an image that no other record uses.",
            default=[],
            only=(_VM,),
        ),
        Field(
            "host_files",
            Words(
                Choice(
                    {
                        "fonts": "the host's default fonts for sans-serif, serif, monospace and emoji, as the guest's defaults",
                        "locale": "the locale of the broker's session, and `LANG`",
                        "certificates": "the root certificates that the host trusts, "
                        "instead of the image's; Firefox also trusts those added by hand",
                    }
                ),
                'an array of "fonts", "locale", "certificates"',
                0,
                3,
                unique=True,
            ),
            "Files of the host that are copied into the guest at each start. They "
            "reveal something about the machine and the user: an added certificate may name a company.",
            default=[],
            only=(_VM,),
        ),
        Field(
            "memory",
            MemoryAmount(*limits.MEMORY_MIB),
            "Memory of the machine, or of a container if the user's control groups can limit it.",
            default=768,
            only=(_VM, _LIBVIRT, _VMSPAWN, _PODMAN, _NSPAWN, _EXTERNAL),
        ),
        Field(
            "cpus",
            Whole(*limits.CPUS),
            "Number of virtual processors.",
            default=1,
            only=_BOOTS,
        ),
        Field(
            "network",
            Choice(
                {
                    "none": "no network device",
                    "user": "the outside network through a user-space gateway; the "
                    "host's own addresses are not reachable",
                    "rules": "the hosts that rules for `vitrail.Network` name",
                    "lan:NAME": "the sandboxes whose records name the same LAN",
                    "through:NAME": "the network that the sandbox of the named record provides",
                }
            ),
            "The network that the sandbox can reach.",
            default="none",
            only=_NETWORK,
        ),
        Field(
            "provides_network",
            YesNo(),
            "Whether the sandbox provides the network of sandboxes whose records say "
            "`through:` and its name. Programs of such a micro VM have root's rights "
            "over its network; those of a box or container can only act as proxies "
            "(docs/network.md).",
            default=False,
            only=_NETWORK,
        ),
        Field(
            "command",
            Words(
                Argument(),
                f"an array of 1 to {limits.COMMAND_ARGUMENTS} strings: program and arguments",
                1,
                limits.COMMAND_ARGUMENTS,
                max_bytes=limits.COMMAND_BYTES,
            ),
            "The program to start when 'brokerctl run' names none.",
            default=["foot"],
            only=_OWN_COMMAND,
        ),
        Field(
            "fork",
            Choice(
                {
                    "shared": "the memory of a booted machine is shared: each sandbox "
                    "gets separate pages only where it writes. This saves memory, but "
                    "the processor's caches reveal which of these pages others use",
                    "copy": "the memory of a booted machine is copied; a disposable "
                    "sandbox then starts in about a second",
                    "no": "each sandbox boots",
                }
            ),
            "How a disposable sandbox is started. Machines of one parent have the same "
            "kernel addresses; with `copy`, they share no memory pages. `shared` cannot be "
            "combined with folders, `huge_pages`, `shared_image` or `gpu`.",
            default="copy",
            only=(_VM,),
        ),
        Field(
            "folders",
            Whole(*limits.SHARED_FOLDERS),
            "Maximum number of your folders that 'brokerctl share' can add while the "
            "sandbox runs, in addition to those of [folders]. Each needs a process "
            "(virtiofsd). If it is not 0, the machine always boots.",
            default=0,
            only=(_VM, _EXTERNAL),
        ),
        _switch(
            "huge_pages",
            "Whether the machine's memory uses pages of 2 MiB, which the host must "
            "have reserved (`vm.nr_hugepages`). All of the memory is in use from the "
            "start. The machine always boots.",
            _VM,
            _EXTERNAL,
        ),
        _switch(
            "shared_image",
            "Whether machines map one shared image instead of reading its files into "
            "their memory. Each machine can learn from the processor's caches which "
            "pages of the image others use, also those of other records. The machine always boots.",
            _VM,
            _EXTERNAL,
        ),
        Field(
            "image_file",
            SocketPath(limits.BIND_PATH_BYTES),
            "A root file system of your own that machines map with `shared_image`, "
            "instead of that of `image`; its size is a multiple of 2 MiB.",
            default_words="none; the root file system of `image`",
            only=(_EXTERNAL,),
        ),
        _switch(
            "pixel_arena",
            "Whether the pixels of windows stay in memory that the machine shares with "
            "the broker, instead of being sent (docs/pixels.md). Experimental. If host "
            "and viewer are separate machines, pixels are always sent.",
            _VM,
            _EXTERNAL,
        ),
        Field(
            "standby",
            Whole(0, 1),
            "Number of machines that are copied in advance and wait, paused, for a "
            "start of this disposable sandbox. Windows then open sooner, but the machines always use their memory.",
            default=0,
            only=(_VM,),
        ),
        Field(
            "boot_deadline",
            Whole(*limits.BOOT_SECONDS, unit="seconds"),
            "How long the guest's agent may take to answer.",
            default=90,
            only=_BOOTS,
        ),
        Field(
            "container_image",
            _CONTAINER_IMAGE,
            "The image of the container, from the user's local store; it is never pulled.",
            default_words="none; 'brokerctl run' needs this or `rootfs`",
            only=(_PODMAN,),
        ),
        Field(
            "rootfs",
            SocketPath(limits.BIND_PATH_BYTES),
            "A directory tree of a system that is used as the container's root instead of an "
            "image, and by a box instead of the host's `/usr` and `/etc`; nothing is written to it.",
            default_words="none; a record of kind `nspawn` needs it",
            only=(_BWRAP, _PODMAN, _NSPAWN),
        ),
        Field(
            "app",
            FLATPAK_APP,
            "The application to run.",
            default_words="none; a record of this kind needs it",
            only=(_FLATPAK,),
        ),
        _switch(
            "share_network",
            "Whether the application can use the host's network, if its Flatpak "
            "permissions request it. It can then reach abstract sockets, including those of an X server.",
            _FLATPAK,
        ),
        _bind(
            "bind_read_only",
            "and cannot change. It can lock them, without an end: bind no database "
            "that your own programs use (https://www.sqlite.org/lockingv3.html), but a copy.",
        ),
        _bind("bind_read_write", "and can change."),
        Field(
            "pids",
            Whole(*limits.CONTAINER_PIDS),
            "Maximum number of processes of the container, if the user's control groups can limit them.",
            default=512,
            only=(_PODMAN, _NSPAWN),
        ),
        Field(
            "open_files",
            Whole(*limits.OPEN_FILES),
            "Maximum number of files that each program may have open (`ulimit -n`). A "
            "browser with very many tabs may need more; a hostile program can then keep "
            "your other programs from passing descriptors: no further window opens until it ends.",
            default=limits.FEW_OPEN_FILES,
            only=_HOLDS,
        ),
        _switch(
            "by_files",
            "Whether the annotation of a file for pods (`podman kube play`, a Quadlet `.kube`), or of a "
            "program that uses Podman's socket, may name this record. Such a file may be a "
            "stranger's, with an image of its choice.",
            _PODMAN,
        ),
        _switch(
            "user_namespaces",
            "Whether programs of a box or container may create namespaces, and mounts in them. "
            "Browsers need this for their own sandbox (Chromium, Firefox), but a "
            "hostile program can then attack large parts of the kernel. A container that you start "
            "yourself has what its own filter permits.",
            _BWRAP,
            _PODMAN,
            _NSPAWN,
        ),
        Field(
            "gpu",
            Choice(
                {
                    "none": "programs draw with the CPU",
                    "buffers": "programs can use the host's render nodes (`/dev/dri/renderD*`; a Flatpak application has all of "
                    "`/dev/dri`), and windows may show GPU buffers: each buffer is "
                    "checked, but a hostile program can attack the kernel's graphics driver (docs/gpu.md)",
                    "render": "for a micro VM: a jailed process on the host draws for "
                    "its programs with OpenGL, and the guest reads the result back, "
                    "into memory as with `pixel_arena` (docs/gpu.md)",
                }
            ),
            "Whether programs draw with the host's GPU. Experimental.",
            default="none",
            only=(_BWRAP, _PODMAN, _FLATPAK, _VM),
        ),
        Field(
            "required",
            YesNo(),
            "Whether a container with this record's annotation, or the domain that "
            "`peer.libvirt` names, fails to start if it cannot acquire its lease.  Otherwise it starts without display and sound.",
            default=False,
            only=(_PODMAN, _SHARED, _EXTERNAL),
        ),
        Field(
            "rootful",
            YesNo(),
            "Whether root is taken for a program of the box, too: boxes of root's Podman, such as "
            "`sudo podman` and `sudo toolbox` start.  Otherwise only your own processes are.",
            default=False,
            only=(_SHARED,),
        ),
    ),
)

STATE = Table(
    "state",
    "Data that a persistent sandbox keeps when it stops. All other data that it writes is deleted, as for a disposable one.",
    (
        Field(
            "keep",
            Words(
                Choice(
                    {
                        "home": "`/home`",
                    }
                ),
                'an array of "home"',
                0,
                1,
                unique=True,
            ),
            "The directories to keep, on a separate disk of the sandbox.",
            default=["home"],
        ),
        Field(
            "disk_size",
            Bytes(*limits.HOME_BYTES),
            "Maximum size of the disk; only written parts use space. A larger value "
            "enlarges the disk at the next start; a smaller value has no effect.",
            default="10G",
        ),
        Field(
            "encrypted",
            YesNo(),
            "Whether the disk is encrypted (LUKS). Run 'brokerctl sandbox unlock', "
            "which asks for the passphrase, before the first start after each login.",
            default=False,
        ),
    ),
    only=(*_HOMES, _EXTERNAL),
    if_set=(_EXTERNAL,),
)

PEER = Table(
    "peer",
    "How Vitrail identifies a sandbox that another program starts; set exactly one of these keys.",
    (
        Field(
            "hybrid",
            SocketPath(limits.HYBRID_PATH_BYTES),
            "The machine's hybrid-vsock socket (Firecracker, Cloud Hypervisor, "
            "vhost-device-vsock), in a directory that only its launcher can write to. "
            "It may be set together with `machine`, for a machine without a context ID.",
        ),
        Field(
            "hybrid_directory",
            SocketPath(limits.HYBRID_PATH_BYTES),
            "A directory of such sockets, in which only your launcher can write: each "
            "machine with a socket there, or in its own directory there, is a separate sandbox. "
            'Needs class = "disposable".',
        ),
        Field("cid", Whole(*_CIDS), "The machine's vsock context ID."),
        Field(
            "cids",
            WholeRange(*_CIDS),
            "The first and the last context ID of several machines, each of which is a "
            'separate sandbox. Needs class = "disposable".',
        ),
        Field(
            "libvirt",
            LIBVIRT_DOMAIN,
            "The name or UUID of a libvirt domain; libvirt's hook acquires the lease "
            "('brokerctl launcher install libvirt').",
        ),
        Field(
            "machine",
            MACHINE_NAME,
            "The name of a virtual machine that is registered with systemd-machined "
            "(`machinectl list`) and has a vsock context ID, or of a system container. "
            "Vitrail leases it when it is registered; no hook is needed.",
        ),
        Field(
            "unix",
            SocketPath(limits.SOCKET_PATH_BYTES),
            "The directory of the container's sockets, which only the container and "
            "its launcher can enter; the display service listens there on "
            "`vitrail.Display` for waypipe, and on `wayland-0` for Wayland.",
        ),
    ),
    only=(_EXTERNAL,),
    own=True,
)

LIMITS = Table(
    "limits",
    "Limits on resources in use at one time; they cannot exceed the broker's own limits.",
    (
        Field(
            "streams",
            Whole(*limits.STREAMS),
            "Maximum number of open streams.",
            default=limits.STREAMS[1],
        ),
        Field(
            "wayland_clients",
            Whole(*limits.WAYLAND_CLIENTS),
            "Maximum number of connections to the compositor.",
            default=limits.WAYLAND_CLIENTS[1],
        ),
        Field(
            "programs",
            Whole(*limits.PROGRAMS),
            "Maximum number of programs that Vitrail starts.",
            default=limits.PROGRAMS[1],
        ),
        Field(
            "standby_memory",
            MemoryAmount(*limits.MEMORY_MIB),
            "Maximum memory of all waiting machines of the broker (`launch.standby`); above it, no machine of this record waits.",
            default=2048,
            only=(_VM,),
        ),
    ),
)
