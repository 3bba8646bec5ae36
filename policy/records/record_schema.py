"""The format of a record: every table and key of ``sandboxes.d/NAME.toml``.

The one description of the format: the checks, the JSON Schema and the
reference in ``docs/policy.md`` come from it.  What the values become is in
``model``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from policy import limits
from policy.records.field_types import (
    Argument,
    Choice,
    Colour,
    Field,
    MemoryAmount,
    Pattern,
    SocketPath,
    Table,
    Title,
    Whole,
    Words,
)
from policy.records.quantities import Bytes, GlobalName, Seconds, YesNo

PACKAGE = Pattern(
    f"a Debian package's name of 2 to {limits.PACKAGE_CHARS} characters",
    # apt-get(8) would remove the package whose name is followed by a dash.
    "[a-z0-9][a-z0-9+.-]*[a-z0-9+.]",
    limits.PACKAGE_CHARS,
)
NAME = Pattern("1 to 31 of a-z, 0-9 and '-', beginning with a-z", "[a-z][a-z0-9-]*", 31)
"""Sandboxes, tags and images; the same rule as ``broker.core.names``."""

LIBVIRT_DOMAIN = Pattern(
    "a domain's name or UUID as libvirt has it",
    r"[A-Za-z0-9_.+:@-][A-Za-z0-9_.+:@ -]*",
    100,
)
"""libvirt itself forbids only '/' and line ends in names."""

MACHINE_NAME = Pattern(
    "a machine's name as systemd-machined has it: a host name",
    r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?",
    64,
)

MIME = Pattern(
    "a type as text/plain or image/*",
    r"[a-z0-9][a-z0-9.+-]{0,62}/(?:\*|[a-z0-9][a-z0-9.+-]{0,62})",
    127,
)
"""A type of data, without parameters, or all of a kind."""

PALETTE: Mapping[str, str] = MappingProxyType(
    {
        "orange": "#e69f00",
        "sky": "#56b4e9",
        "green": "#009e73",
        "yellow": "#f0e442",
        "blue": "#0072b2",
        "red": "#d55e00",
        "purple": "#cc79a7",
        "grey": "#555555",
    }
)
"""Named colours that stay apart for people who confuse red and green or blue
and yellow: the eight of Okabe and Ito (2008), a dark grey in place of black.  A test
simulates the three kinds of colour blindness and measures the distances."""

TOP = Table(
    "",
    "Identity and permissions of the sandbox.",
    (
        Field(
            "name",
            NAME,
            "The sandbox's name.  May be left out; otherwise it must be the "
            "file's base name.",
            default_words="the file's base name",
            own=True,
        ),
        Field(
            "inherits",
            NAME,
            "Another record, from which every key comes that this one does not "
            "set.  Each sandbox's own are `name`, `class`, `label.name`, "
            "`window.title_prefix` and `[peer]`.",
            own=True,
        ),
        Field(
            "class",
            Choice(
                {
                    "persistent": "one sandbox of this name, which runs until it is stopped "
                    "and keeps what [state] says",
                    "disposable": "a fresh sandbox under a fresh name for each "
                    "start, and nothing of it is left afterwards",
                    "template": "what other sandboxes will be made from; started "
                    "only to be maintained",
                }
            ),
            "How long a sandbox of this record lives.",
            required=True,
            own=True,
        ),
        Field(
            "tags",
            Words(
                NAME,
                f"an array of up to {limits.TAGS} names",
                0,
                limits.TAGS,
                unique=True,
            ),
            "Names by which rules can mean several sandboxes at once.",
            default=[],
        ),
        Field(
            "display",
            Choice(
                {
                    "none": "no windows",
                    "allow": "windows, in the default way of the installed version",
                    "waypipe-client": "windows through a waypipe client of the "
                    "sandbox's own, in a jail",
                }
            ),
            "Whether the sandbox may show windows.",
            default="none",
        ),
        Field(
            "timezone",
            Choice(
                {
                    "utc": "UTC; the time zone tells roughly where you are",
                    "desktop": "that of the machine with the screen, in TZ of each "
                    "program that is started by Vitrail",
                }
            ),
            "The time zone of its programs.",
            default="utc",
        ),
        Field(
            "default_disposable",
            NAME,
            "The record of which a fresh sandbox is made when this one calls "
            "`@dispvm` in a rule.",
        ),
    ),
)

LABEL = Table(
    "label",
    "How a person distinguishes the sandbox's windows from others.",
    (
        Field(
            "name",
            Title(limits.LABEL_CHARS),
            "The name shown to people.",
            default_words="the sandbox's name",
            own=True,
        ),
        Field("colour", Colour(PALETTE), "The colour of its frames.", default="grey"),
    ),
)

_VM = "microvm"
_EXTERNAL = "external"
_LIBVIRT = "libvirt-qemu"
_VMSPAWN = "vmspawn"
_OTHERS = 'start it yourself; its record has kind = "external" and [peer] {} (docs/{})'
_INSTEAD = {
    "libvirt": 'kind = "libvirt-qemu" makes a domain for a run; a domain that you start '
    'has kind = "external" and [peer] libvirt = "NAME" (docs/launchers/libvirt.md)',
    "libvirt-lxc": "libvirt starts containers as root only; kind "
    '= "nspawn" or "podman" runs them as you (docs/launchers/libvirt.md)',
    "libkrun": _OTHERS.format('hybrid = "PATH"', "launchers/vmm.md"),
}
"""Launchers that people know, which are not a kind of their own here."""
_FIRECRACKER = "firecracker"
_CLOUD_HYPERVISOR = "cloud-hypervisor"
_CROSVM = "crosvm"
MONITORS = (_FIRECRACKER, _CLOUD_HYPERVISOR, _CROSVM)
"""Kinds that are as a micro VM, run by another VMM than QEMU."""
_BWRAP = "bwrap"
_PODMAN = "podman"
_NSPAWN = "nspawn"
_SHARED = "shared-box"
_FLATPAK = "flatpak"
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
_PATHS = Words(
    SocketPath(limits.BIND_PATH_BYTES),
    f"an array of up to {limits.BINDS} absolute paths",
    0,
    limits.BINDS,
    unique=True,
)


def _bind(key: str, words: str) -> Field:
    text = f"Files and directories of the host's that it sees at the same path {words}"
    return Field(
        key, _PATHS, text, default=[], only=_BWRAP, also=(_PODMAN, _NSPAWN, _FLATPAK)
    )


LAUNCH = Table(
    "launch",
    "How the host starts the sandbox.",
    (
        Field(
            "kind",
            Choice(
                {
                    _VM: "a micro VM that Vitrail starts",
                    _FIRECRACKER: "a micro VM that Vitrail starts with Firecracker, "
                    "which needs KVM; no folders",
                    _CLOUD_HYPERVISOR: "the same with Cloud Hypervisor",
                    _CROSVM: "the same with crosvm",
                    _LIBVIRT: "a domain of your libvirt (qemu:///session), which "
                    "'brokerctl run' makes of the image and removes at the end; no "
                    "network, and libvirt's confinement instead of Vitrail's jail",
                    _VMSPAWN: "the same by systemd-vmspawn, without libvirt",
                    _BWRAP: "a box of namespaces by bubblewrap, with this machine's "
                    "own programs and a home of its own",
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
            only=_VM,
            also=(*MONITORS, _LIBVIRT, _VMSPAWN),
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
            only=_VM,
            also=MONITORS,
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
            only=_VM,
            also=MONITORS,
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
            "something of the machine and of the person: an own certificate names a "
            "company.",
            default=[],
            only=_VM,
            also=MONITORS,
        ),
        Field(
            "memory",
            MemoryAmount(*limits.MEMORY_MIB),
            "Memory of the machine; of a container, where the user's control groups "
            "can limit it.",
            default=768,
            only=_VM,
            also=(*MONITORS, _LIBVIRT, _VMSPAWN, _PODMAN, _NSPAWN),
        ),
        Field(
            "cpus",
            Whole(*limits.CPUS),
            "Virtual processors.",
            default=1,
            only=_VM,
            also=(*MONITORS, _LIBVIRT, _VMSPAWN),
        ),
        Field(
            "network",
            Choice(
                {
                    "none": "no network device at all",
                    "user": "the outside network through a user-space gateway; the "
                    "host's own addresses are closed off",
                }
            ),
            "The network that the sandbox can reach.",
            default="none",
            only=_VM,
            also=(*MONITORS, _BWRAP, _PODMAN),
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
            only=_VM,
            also=(*MONITORS, _LIBVIRT, _VMSPAWN, _BWRAP, _PODMAN, _NSPAWN),
        ),
        Field(
            "fork",
            Choice(
                {
                    "shared": "the memory of a booted machine is shared: each sandbox "
                    "has pages of its own only where it writes. Ten take little more "
                    "memory than three, and can learn from the processor's caches "
                    "which of these pages the others use",
                    "copy": "the memory of a booted machine is copied; a disposable "
                    "sandbox then starts in about a second",
                    "no": "each one boots",
                }
            ),
            "How a disposable sandbox comes up. Machines of one template have the same "
            "addresses in the kernel; with `copy` they have no page in common. `shared` "
            "goes with no folder and no `huge_pages`.",
            default="copy",
            only=_VM,
        ),
        Field(
            "folders",
            Whole(*limits.SHARED_FOLDERS),
            "Places for folders of yours that 'brokerctl share' gives it while it runs, "
            "beside those of [folders]. Each is a process (virtiofsd); a machine with a "
            "place boots and is not copied.",
            default=0,
            only=_VM,
        ),
        Field(
            "huge_pages",
            YesNo(),
            "Whether the machine's memory is of pages of 2 MiB, which this machine must "
            "have set aside (`vm.nr_hugepages`). It is all in use from the start, and "
            "the machine boots: such memory is not copied.",
            default=False,
            only=_VM,
        ),
        Field(
            "standby",
            Whole(0, 1),
            "Machines that are copied in advance and wait, paused, for a start of this "
            "disposable sandbox: a window then comes sooner, and the machine's memory "
            "is in use all the time.",
            default=0,
            only=_VM,
        ),
        Field(
            "boot_deadline",
            Whole(*limits.BOOT_SECONDS, unit="seconds"),
            "How long the guest's agent may take to answer.",
            default=90,
            only=_VM,
            also=(*MONITORS, _LIBVIRT, _VMSPAWN),
        ),
        Field(
            "container_image",
            _CONTAINER_IMAGE,
            "The image of the container, in the user's own store: it is never pulled.",
            default_words="none; 'brokerctl run' needs this or `rootfs`",
            only=_PODMAN,
        ),
        Field(
            "rootfs",
            SocketPath(limits.BIND_PATH_BYTES),
            "A directory that is the container's root, in place of an image; nothing is "
            "written to it.",
            default_words="none; a record of kind `nspawn` needs it",
            only=_PODMAN,
            also=(_NSPAWN,),
        ),
        Field(
            "app",
            FLATPAK_APP,
            "The application to run.",
            default_words="none; a record of this kind needs it",
            only=_FLATPAK,
        ),
        Field(
            "share_network",
            YesNo(),
            "Whether the application has the host's own network, where it has asked "
            "for it. Abstract sockets, an X server's among them, are reachable then.",
            default=False,
            only=_FLATPAK,
        ),
        _bind("bind_read_only", "and cannot change."),
        _bind("bind_read_write", "and can change."),
        Field(
            "pids",
            Whole(*limits.CONTAINER_PIDS),
            "Processes of the container, where the user's control groups can limit "
            "them.",
            default=512,
            only=_PODMAN,
            also=(_NSPAWN,),
        ),
        Field(
            "open_files",
            Whole(*limits.OPEN_FILES),
            "Files that each of its programs may have open (`ulimit -n`). More than "
            "the default may be needed by a browser with very many tabs; a hostile "
            "program can then keep others of yours from passing descriptors, so that "
            "no further window opens until it ends.",
            default=limits.FEW_OPEN_FILES,
            only=_BWRAP,
            also=(_PODMAN, _NSPAWN, _FLATPAK),
        ),
        Field(
            "user_namespaces",
            YesNo(),
            "Whether programs of a box may make namespaces, and mounts in them. "
            "Browsers do for a sandbox of their own (Chromium, Firefox); a hostile "
            "program has large parts of the kernel to attack then.",
            default=False,
            only=_BWRAP,
        ),
        Field(
            "required",
            YesNo(),
            "Whether a container that is started with this record's annotation, or the "
            "domain that `peer.libvirt` names, is stopped from starting when it cannot "
            "have its lease.  Otherwise it starts without display and sound.",
            default=False,
            only=_PODMAN,
            also=(_SHARED, _EXTERNAL),
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
    only=_VM,
    also=MONITORS,
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
    only=_EXTERNAL,
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
            only=_VM,
        ),
    ),
)

WINDOW = Table(
    "window",
    "How its windows are framed, and what of the compositor it sees.",
    (
        Field(
            "border",
            Whole(*limits.BORDER_PIXELS, unit="logical pixels"),
            "Width of the frame, in the label's colour.",
            default=4,
        ),
        Field(
            "name_strip",
            YesNo(),
            "Whether the upper edge is a strip with the sandbox's name in it, in the "
            "font that fontconfig has for `Vitrail`, otherwise for bold sans-serif.",
            default=False,
        ),
        Field(
            "top",
            Whole(*limits.BORDER_PIXELS, unit="logical pixels"),
            "Height of the upper edge; a name needs 9.",
            default_words="`border`, with `name_strip` at least 20",
        ),
        Field(
            "title_prefix",
            Title(limits.LABEL_CHARS),
            "Stands before every window title, as `[prefix]`.",
            default_words="`label.name`",
            own=True,
        ),
        Field(
            "fullscreen",
            Choice(
                {
                    "fake": "a maximised window with its frame, reported to the "
                    "application as fullscreen",
                    "framed": "the whole screen, with the frame",
                    "real": "the whole screen without a frame: the application can "
                    "imitate anything, your desktop and its prompts too",
                }
            ),
            "The effect of a window's request for fullscreen.",
            default="fake",
        ),
        Field(
            "translucent",
            YesNo(),
            "Whether what lies behind a window may shine through. A translucent "
            "window can imitate an overlay on another one.",
            default=False,
        ),
        Field(
            "subsurfaces",
            Choice(
                {
                    "crop": "what reaches outside its window is cut off",
                    "promote": "what reaches outside its window becomes a framed "
                    "popup, at most nine tenths of the screen and touching its window",
                }
            ),
            "The treatment of parts of a window that reach outside it.",
            default="crop",
        ),
        Field(
            "allow",
            Words(
                GlobalName(),
                "an array of Wayland globals that a record may allow: "
                + GlobalName().words,
                0,
                limits.GLOBALS,
                unique=True,
            ),
            "Wayland globals that it gets in addition; `brokerctl policy lint` says "
            "what each one means.",
            default=[],
        ),
        Field(
            "deny",
            Words(
                GlobalName(deny=True),
                "an array of Wayland globals that applications can do without",
                0,
                limits.GLOBALS,
                unique=True,
            ),
            "Wayland globals that are hidden from it. Deny wins over allow.",
            default=[],
        ),
        Field(
            "windows",
            Whole(*limits.WINDOWS),
            "Windows at one time.",
            default=limits.WINDOWS[1],
        ),
        Field(
            "popups",
            Whole(*limits.POPUPS),
            "Menus and other popups at one time.",
            default=limits.POPUPS[1],
        ),
        Field(
            "surfaces",
            Whole(*limits.SURFACES),
            "Surfaces at one time: windows, popups, their parts, cursors.",
            default=limits.SURFACES[1],
        ),
        Field(
            "buffer_memory",
            Bytes(*limits.WINDOW_BYTES),
            "Shared memory for pixels, as declared.",
            default="4G",
        ),
    ),
)

AUDIO = Table(
    "audio",
    'Playback and recording.  `audio = "WORD"` at the top is short for a '
    "table with `playback` alone.",
    (
        Field(
            "playback",
            Choice(
                {
                    "none": "no sound service at all, so no microphone either",
                    "allow": "its own streams through the filter, within the caps below",
                    "raw": "the sound server's socket without a filter: it can "
                    "record you and every application, and load modules",
                }
            ),
            "Whether the sandbox may play sound, and how.",
            default="none",
        ),
        Field(
            "microphone",
            Choice(
                {
                    "deny": "never, whatever a rule says",
                    "ask": "a rule for `vitrail.AudioInput` decides, and its allow "
                    "becomes an ask",
                    "allow": "a rule for `vitrail.AudioInput` decides",
                }
            ),
            "The most that a rule may grant of the microphone.",
            default="deny",
        ),
        Field(
            "revoked",
            Choice(
                {
                    "silence": "the application goes on and hears silence",
                    "end": "its recording ends with an error",
                }
            ),
            "The effect on a recording when the microphone is taken away.",
            default="silence",
        ),
        Field("streams", Whole(*limits.AUDIO_STREAMS), "Streams at one time.", 16),
        Field(
            "rate",
            Whole(*limits.AUDIO_RATE, unit="Hz"),
            "The highest sample rate.",
            192000,
        ),
        Field("channels", Whole(*limits.AUDIO_CHANNELS), "Channels of a stream.", 8),
        Field(
            "buffer",
            Bytes(*limits.AUDIO_BUFFER_BYTES),
            "The largest buffer of a stream.",
            "4M",
        ),
        Field(
            "volume",
            Whole(*limits.AUDIO_VOLUME, unit="percent"),
            "The loudest that it may be.",
            100,
        ),
        Field(
            "idle",
            Seconds(*limits.AUDIO_IDLE_SECONDS),
            "How long a stream is silent before it counts as idle.",
            "10s",
        ),
    ),
    short="playback",
)

CLIPBOARD = Table(
    "clipboard",
    "Limits on data that crosses between its clipboard and another, where a rule for "
    "`vitrail.ClipboardPaste` lets it.  Of this record, the other side's and the "
    "rule the strictest holds.",
    (
        Field(
            "types",
            Words(
                MIME,
                f'an array of 1 to {limits.MIMES} types, as "text/plain" or "image/*"',
                1,
                limits.MIMES,
                unique=True,
            ),
            "Types that may cross.",
            default_words='the rule\'s `mime=`, else `["text/plain", "image/png"]`',
        ),
        Field(
            "max_size",
            Bytes(*limits.CLIPBOARD_BYTES),
            "The most that may cross at once.",
            default_words="the rule's `max-size=`, else 64000",
        ),
        Field(
            "ttl",
            Seconds(*limits.CLIPBOARD_SECONDS),
            "How long a copy may be pasted.",
            default_words='the rule\'s `ttl=`, else `"5m"`',
        ),
        Field(
            "primary",
            Choice(
                {
                    "none": "never leaves or enters it",
                    "rules": "by the chords and rules of the clipboard, where that is empty",
                }
            ),
            "The primary selection (pasted with the middle button).",
            default="none",
        ),
        Field(
            "drag",
            Choice(
                {
                    "none": "never leaves or enters it",
                    "rules": "where both records say so and a rule of the clipboard lets it",
                }
            ),
            "Drags from or to another sandbox's window.",
            default="none",
        ),
        Field(
            "clean",
            Words(
                Choice(
                    {
                        "plain": "only plain text comes in",
                        "controls": "control and text direction characters are removed",
                        "images": "images are decoded and encoded again, in the worker",
                    }
                ),
                'an array of "plain", "controls", "images"',
                0,
                3,
                unique=True,
            ),
            "Filters for incoming content.",
            default=[],
        ),
    ),
)

TRANSFER = Table(
    "transfer",
    "How much it may send by `vitrail.FileCopy` and `vitrail.OpenFile`, where a rule "
    "lets it; the stricter of this and the rule's `max-size=` holds.",
    (
        Field("file_size", Bytes(*limits.TRANSFER_BYTES), "One file.", "2G"),
        Field(
            "request_size",
            Bytes(*limits.TRANSFER_BYTES),
            "All files of one request.",
            "4G",
        ),
        Field(
            "request_files",
            Whole(*limits.TRANSFER_FILES),
            "Files and directories of one request.",
            10000,
        ),
        Field(
            "day_size",
            Bytes(*limits.TRANSFER_BYTES),
            "All files within 24 hours.",
            "20G",
        ),
        Field(
            "day_requests",
            Whole(*limits.TRANSFER_REQUESTS),
            "Requests within 24 hours, addresses to open included.",
            1000,
        ),
        Field(
            "keep_free",
            Bytes(*limits.TRANSFER_FREE_BYTES),
            "Space that must stay free on its own disk after a transfer to it.",
            "100M",
        ),
    ),
)

FOLDERS = Table(
    "folders",
    "Directories of yours that it has from its start, at `/folders/NAME`, where a rule "
    "for `vitrail.Folder` lets it.",
    (
        Field(
            "read_only",
            _PATHS,
            "Directories that it can read.",
            default=[],
        ),
        Field(
            "read_write",
            _PATHS,
            "Directories that it can change; the rule needs `write=yes`.",
            default=[],
        ),
    ),
)

TABLES = (
    TOP,
    LABEL,
    WINDOW,
    AUDIO,
    CLIPBOARD,
    TRANSFER,
    FOLDERS,
    LAUNCH,
    STATE,
    PEER,
    LIMITS,
)
DISPLAY_KEY = "display"
AUDIO_KEY = "audio.playback"
MICROPHONE_KEY = "audio.microphone"
KIND_KEY = "launch.kind"
INHERITS_KEY = "inherits"
