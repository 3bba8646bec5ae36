"""Tables of a record that say how its machine starts and which state it keeps."""

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
    Words,
)
from policy.records.kinds import MONITORS, kinds_with
from policy.records.patterns import (
    LIBVIRT_DOMAIN,
    MACHINE_NAME,
    NAME,
    PACKAGE,
    PATHS,
)
from policy.records.quantities import Bytes, YesNo

_VM, _EXTERNAL = kinds.MICROVM.name, kinds.EXTERNAL.name
_LIBVIRT, _VMSPAWN = kinds.LIBVIRT.name, kinds.VMSPAWN.name
_BWRAP, _PODMAN, _NSPAWN = kinds.BWRAP.name, kinds.PODMAN.name, kinds.NSPAWN.name
_SHARED, _FLATPAK = kinds.SHARED_BOX.name, kinds.FLATPAK.name
_BOOTS, _HOMES = kinds_with("boots"), kinds_with("homes")
_HOLDS, _NETWORK = kinds_with("holds"), kinds_with("network")
_OWN_COMMAND = kinds_with("own_command")
_OTHERS = 'start it yourself; its record has kind = "external" and [peer] {} (docs/{})'
_INSTEAD = {
    "libvirt": 'kind = "libvirt-qemu" makes a domain for a run; a domain that you start '
    'has kind = "external" and [peer] libvirt = "NAME" (docs/launchers/libvirt.md)',
    "libvirt-lxc": "libvirt starts containers as root only; kind "
    '= "nspawn" or "podman" runs them as you (docs/launchers/libvirt.md)',
    "libkrun": _OTHERS.format('hybrid = "PATH"', "launchers/vmm.md"),
}
"""Launchers that people know, which are not a separate kind here."""
FLATPAK_APP = Pattern(
    "an application ID as org.gnome.gedit",
    r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*){2,}",
    255,
)
_CONTAINER_IMAGE = Pattern(
    "a reference as localhost/debian:12, of at most 255 characters",
    "[a-z0-9][A-Za-z0-9./:@_-]*",
    255,
)


def _switch(key: str, only: str, text: str) -> Field:
    return Field(key, YesNo(), text, default=False, only=(only,))


def _bind(key: str, words: str) -> Field:
    text = f"Files and directories of the host's that it sees at the same path {words}"
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
                    kinds.FIRECRACKER.name: "a micro VM that Vitrail starts with Firecracker, "
                    "which needs KVM; no folders",
                    kinds.CLOUD_HYPERVISOR.name: "the same with Cloud Hypervisor",
                    kinds.CROSVM.name: "the same with crosvm",
                    _LIBVIRT: "a domain of your libvirt (qemu:///session), which "
                    "'brokerctl run' makes of the image and removes at the end; no "
                    "network, and libvirt's confinement instead of Vitrail's jail",
                    _VMSPAWN: "the same by systemd-vmspawn, without libvirt",
                    _BWRAP: "a box of namespaces by bubblewrap, with this machine's "
                    "own programs and a separate home",
                    _PODMAN: "a container of Podman: 'brokerctl run' starts it, or "
                    "'podman run --annotation io.vitrail.sandbox=NAME' with the hook "
                    "of 'brokerctl launcher install podman'",
                    _NSPAWN: "a container of systemd-nspawn, of the directory tree "
                    "`rootfs`; no network",
                    _FLATPAK: "an installed Flatpak application, whose display, sound, "
                    "X11 and files are replaced by what this record says",
                    _SHARED: "a box of toolbox or distrobox, which shares the home "
                    "directory and the host's sockets: its windows have a label, and "
                    "there is no boundary",
                    _EXTERNAL: "started by another program, which takes a lease with "
                    "'brokerctl lease acquire'; recognised by [peer]",
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
            only=_BOOTS,
        ),
        Field(
            "root",
            Choice(
                {
                    "image": "the one that `image` names",
                    "host": "this machine's own /usr, read-only, and a made /etc; "
                    "'brokerctl run' makes an image of it, and again when packages "
                    "change",
                }
            ),
            "Where the programs are from; with `host`, `image` has no meaning.",
            default="image",
            only=(_VM, *MONITORS),
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
            "Packages of the image besides the default ones; 'brokerctl run' builds "
            "that image and rebuilds it when this changes. The image is then this record's own: "
            "`image` names one that no other record uses.",
            default=[],
            only=(_VM, *MONITORS),
        ),
        Field(
            "host_files",
            Words(
                Choice(
                    {
                        "fonts": "the fonts that fontconfig has here for sans-serif, "
                        "serif, monospace and emoji, as the guest's defaults",
                        "locale": "the locale of the session that the broker runs in, "
                        "and `LANG`",
                        "certificates": "the root certificates that the host trusts, in "
                        "place of the image's; those added by hand also in Firefox",
                    }
                ),
                'an array of "fonts", "locale", "certificates"',
                0,
                3,
                unique=True,
            ),
            "Files of the host's that the guest gets at each start. They tell it "
            "something of the machine and of the user: an own certificate names a "
            "company.",
            default=[],
            only=(_VM, *MONITORS),
        ),
        Field(
            "memory",
            MemoryAmount(*limits.MEMORY_MIB),
            "Memory of the machine; of a container, where the user's control groups "
            "can limit it.",
            default=768,
            only=(_VM, *MONITORS, _LIBVIRT, _VMSPAWN, _PODMAN, _NSPAWN),
        ),
        Field(
            "cpus",
            Whole(*limits.CPUS),
            "Virtual processors.",
            default=1,
            only=_BOOTS,
        ),
        Field(
            "network",
            Choice(
                {
                    "none": "no network device at all",
                    "user": "the outside network through a user-space gateway; the "
                    "host's own addresses are closed off",
                    "rules": "the hosts that rules for `vitrail.Network` name",
                    "lan:NAME": "the sandboxes that name the same lan",
                    "through:NAME": "what the sandbox of that record lets through",
                }
            ),
            "The network that the sandbox can reach.",
            default="none",
            only=_NETWORK,
        ),
        Field(
            "provides_network",
            YesNo(),
            "Whether it is the network of the sandboxes that say `through:` and its name. "
            "Programs of such a micro VM have root's rights over the network of their "
            "machine (CAP_NET_ADMIN, CAP_NET_RAW, CAP_NET_BIND_SERVICE): they make tunnels "
            "and forward packets. Those of a box or container do not, and are proxies.",
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
                    "has separate pages only where it writes. Ten take little more "
                    "memory than three, and can learn from the processor's caches "
                    "which of these pages the others use",
                    "copy": "the memory of a booted machine is copied; a disposable "
                    "sandbox then starts in about a second",
                    "no": "each one boots",
                }
            ),
            "How a disposable sandbox comes up. Machines forked from one parent have "
            "the same addresses in the kernel; with `copy` they have no page in common. `shared` "
            "goes with no folder, no `huge_pages`, no `shared_image` and no `gpu`.",
            default="copy",
            only=(_VM,),
        ),
        Field(
            "folders",
            Whole(*limits.SHARED_FOLDERS),
            "Places for your folders that 'brokerctl share' gives it while it runs, "
            "beside those of [folders]. Each is a process (virtiofsd); a machine with a "
            "place boots and is not copied.",
            default=0,
            only=(_VM,),
        ),
        _switch(
            "huge_pages",
            _VM,
            "Whether the machine's memory is of pages of 2 MiB, which this machine must "
            "have set aside (`vm.nr_hugepages`). It is all in use from the start, and "
            "the machine boots: such memory is not copied.",
        ),
        _switch(
            "shared_image",
            _VM,
            "Whether all such machines map one image, instead of reading files of it into "
            "their memory. Each can learn from the processor's caches which pages of "
            "it the others use, of other records, too. The machine boots: it is not copied.",
        ),
        _switch(
            "pixel_arena",
            _VM,
            "Whether the pixels of its windows are left in memory that the machine shares "
            "with its broker, instead of being sent: docs/pixels.md. Experimental. On two "
            "machines they are sent all the same.",
        ),
        Field(
            "standby",
            Whole(0, 1),
            "Machines that are copied in advance and wait, paused, for a start of this "
            "disposable sandbox: a window then comes sooner, and the machine's memory "
            "is in use all the time.",
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
            "The image of the container, in the user's own store: it is never pulled.",
            default_words="none; 'brokerctl run' needs this or `rootfs`",
            only=(_PODMAN,),
        ),
        Field(
            "rootfs",
            SocketPath(limits.BIND_PATH_BYTES),
            "A directory that is the container's root, in place of an image; nothing is "
            "written to it.",
            default_words="none; a record of kind `nspawn` needs it",
            only=(_PODMAN, _NSPAWN),
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
            _FLATPAK,
            "Whether the application has the host's own network, where it has asked "
            "for it. Abstract sockets, an X server's among them, are reachable then.",
        ),
        _bind("bind_read_only", "and cannot change."),
        _bind("bind_read_write", "and can change."),
        Field(
            "pids",
            Whole(*limits.CONTAINER_PIDS),
            "Processes of the container, where the user's control groups can limit "
            "them.",
            default=512,
            only=(_PODMAN, _NSPAWN),
        ),
        Field(
            "open_files",
            Whole(*limits.OPEN_FILES),
            "Files that each of its programs may have open (`ulimit -n`). More than "
            "the default may be needed by a browser with very many tabs; a hostile "
            "program can then keep your other programs from passing descriptors, so that "
            "no further window opens until it ends.",
            default=limits.FEW_OPEN_FILES,
            only=_HOLDS,
        ),
        _switch(
            "user_namespaces",
            _BWRAP,
            "Whether programs of a box may make namespaces, and mounts in them. "
            "Browsers do for their sandbox (Chromium, Firefox); a hostile "
            "program has large parts of the kernel to attack then.",
        ),
        Field(
            "gpu",
            Choice(
                {
                    "none": "its programs draw with the processor",
                    "buffers": "they have this machine's render nodes "
                    "(`/dev/dri/renderD*`; a Flatpak application has all of `/dev/dri`), "
                    "and their windows may show what the GPU drew: each buffer is checked, "
                    "but the kernel's graphics driver is open to a hostile program "
                    "(docs/gpu.md)",
                    "render": "of a micro VM: a jailed process of this machine draws for "
                    "its programs with OpenGL, and the guest reads back what it drew, into "
                    "memory as of `pixel_arena` (docs/gpu.md)",
                }
            ),
            "Whether its programs draw with this machine's GPU. Experimental.",
            default="none",
            only=(_BWRAP, _PODMAN, _FLATPAK, _VM),
        ),
        Field(
            "required",
            YesNo(),
            "Whether a container that is started with this record's annotation, or the "
            "domain that `peer.libvirt` names, is stopped from starting when it cannot "
            "have its lease.  Otherwise it starts without display and sound.",
            default=False,
            only=(_PODMAN, _SHARED, _EXTERNAL),
        ),
    ),
)

STATE = Table(
    "state",
    "Data that a persistent sandbox keeps when it is stopped. Everything else it "
    "writes is gone then, as with a disposable one.",
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
            "The directories that are kept, on a disk of the sandbox's own.",
            default=["home"],
        ),
        Field(
            "disk_size",
            Bytes(*limits.HOME_BYTES),
            "The most that the disk holds; it takes only the written part. A larger "
            "value lengthens it with the next start, a smaller one does nothing.",
            default="10G",
        ),
        Field(
            "encrypted",
            YesNo(),
            "Whether the disk is encrypted (LUKS). 'brokerctl sandbox unlock' asks for "
            "the passphrase, before each first start after a login.",
            default=False,
        ),
    ),
    only=_HOMES,
)

PEER = Table(
    "peer",
    "How a sandbox that another program starts is recognised: exactly one of these.",
    (
        Field(
            "hybrid",
            SocketPath(limits.HYBRID_PATH_BYTES),
            "The machine's hybrid-vsock socket (Firecracker, Cloud Hypervisor, "
            "vhost-device-vsock), in a directory that only its launcher may write. "
            "Also beside `machine`, for a machine without a context id.",
        ),
        Field(
            "cid",
            Whole(3, 0xFFFFFFFE),
            "The machine's vsock context id.",
        ),
        Field(
            "libvirt",
            LIBVIRT_DOMAIN,
            "The name or the UUID of a libvirt domain; its hook takes the lease "
            "('brokerctl launcher install libvirt').",
        ),
        Field(
            "machine",
            MACHINE_NAME,
            "The name of a virtual machine that is registered with systemd-machined "
            "(`machinectl list`) with its vsock context id, or of a container of "
            "root's; it is leased when it is "
            "there, without a hook.",
        ),
        Field(
            "unix",
            SocketPath(limits.SOCKET_PATH_BYTES),
            "The directory of the container's sockets, which only it and its "
            "launcher can enter; the display service listens there at "
            "`vitrail.Display` for waypipe, and at `wayland-0` for Wayland itself.",
        ),
    ),
    only=(_EXTERNAL,),
    own=True,
)

LIMITS = Table(
    "limits",
    "Limits on resources held at one time; never above those of the broker.",
    (
        Field(
            "streams",
            Whole(*limits.STREAMS),
            "Open streams.",
            default=limits.STREAMS[1],
        ),
        Field(
            "wayland_clients",
            Whole(*limits.WAYLAND_CLIENTS),
            "Connections to the compositor.",
            default=limits.WAYLAND_CLIENTS[1],
        ),
        Field(
            "programs",
            Whole(*limits.PROGRAMS),
            "Programs started by us.",
            default=limits.PROGRAMS[1],
        ),
        Field(
            "standby_memory",
            MemoryAmount(*limits.MEMORY_MIB),
            "Memory that all waiting machines of the broker (`launch.standby`) may "
            "have together for one of this record to be among them.",
            default=2048,
            only=(_VM,),
        ),
    ),
)
