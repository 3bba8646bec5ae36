"""Package names of this Linux distribution, and the command that installs them.

Code names a package as Debian does; ``PACKAGES`` has the other distributions' names.
Everything except ``read_system`` and ``selinux_mode`` is pure.
"""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

_SIMILAR: Final = MappingProxyType(
    {
        **dict.fromkeys(("debian", "ubuntu"), "debian"),
        **dict.fromkeys(("fedora", "rhel", "centos"), "fedora"),
        **dict.fromkeys(("suse", "opensuse", "sles"), "opensuse"),
        "arch": "arch",
        "nixos": "nixos",
    }
)
"""The column of the table, by the IDs of os-release(5)."""
_MANAGERS: Final = MappingProxyType(
    {
        "apt-get": "debian",
        "dnf": "fedora",
        "zypper": "opensuse",
        "pacman": "arch",
        "nixos-rebuild": "nixos",
    }
)
"""The column of a system whose IDs are unknown, by an installed package manager."""
_LAYERING: Final = ("rpm-ostree", "transactional-update")
_COMMANDS: Final = MappingProxyType(
    {
        "debian": "sudo apt install",
        "fedora": "sudo dnf install",
        "opensuse": "sudo zypper install",
        "arch": "sudo pacman -S",
        "nixos": "nix-env -iA",
    }
)
_IMAGE_COMMANDS: Final = MappingProxyType(
    {
        # The package is in the running system at once, and in each later one.
        "fedora": "sudo rpm-ostree install --apply-live",
        # In effect after the next start.
        "opensuse": "sudo transactional-update pkg install",
        "nixos": "nix-env -iA",
    }
)
"""Commands whose effect survives an update that replaces /usr as a whole."""
_REMOVALS: Final = MappingProxyType(
    {
        "sudo apt install": "sudo apt purge",
        "sudo pacman -S": "sudo pacman -R",
        "nix-env -iA": "nix-env -e",
        "sudo rpm-ostree install --apply-live": "sudo rpm-ostree uninstall",
    }
)
"""Commands that remove a package, by the one that installs it; the others: "remove"."""
_OLD_RELEASES: Final = frozenset({"bookworm", "jammy"})
"""Code names of Debian and Ubuntu releases whose package of QEMU has virtiofsd."""
_COLUMNS: Final = ("fedora", "opensuse", "arch", "nixos", "upstream")
# Sources of each row: packages.debian.org/NAME and packages.ubuntu.com/NAME (the first),
# packages.fedoraproject.org/pkgs/NAME, software.opensuse.org/package/NAME,
# archlinux.org/packages/?name=NAME, search.nixos.org/packages?show=NAME.  The columns:
# Debian's name, and those of ``_COLUMNS``; "-": the distribution has no such package.
_TABLE: Final = """
age age age age age age
bubblewrap bubblewrap bubblewrap bubblewrap bubblewrap bubblewrap
busybox-static busybox busybox-static busybox pkgsStatic.busybox BusyBox
ca-certificates ca-certificates ca-certificates-mozilla ca-certificates cacert ca-certificates
cpio cpio cpio cpio cpio cpio
cups-client cups-client cups-client cups cups CUPS
debian-archive-keyring debian-keyring - debian-archive-keyring - debian-archive-keyring
dpkg dpkg dpkg dpkg dpkg dpkg
e2fsprogs e2fsprogs e2fsprogs e2fsprogs e2fsprogs e2fsprogs
flatpak flatpak flatpak flatpak flatpak Flatpak
fontconfig fontconfig fontconfig fontconfig fontconfig fontconfig
fonts-dejavu-core dejavu-sans-fonts dejavu-fonts ttf-dejavu dejavu_fonts DejaVu
foot foot foot foot foot foot
gcc gcc gcc gcc gcc GCC
genext2fs genext2fs - - genext2fs genext2fs
gir1.2-adw-1 libadwaita typelib-1_0-Adw-1 libadwaita libadwaita libadwaita
gir1.2-gtk-4.0 gtk4 typelib-1_0-Gtk-4_0 gtk4 gtk4 GTK
git git git git git Git
gpg gnupg2 gpg2 gnupg gnupg GnuPG
graphviz graphviz graphviz graphviz graphviz Graphviz
grim grim grim grim grim grim
gstreamer1.0-pipewire pipewire-gstreamer gstreamer-plugin-pipewire gst-plugin-pipewire pipewire PipeWire
gstreamer1.0-plugins-base gstreamer1-plugins-base gstreamer-plugins-base gst-plugins-base gst_all_1.gst-plugins-base GStreamer
gstreamer1.0-tools gstreamer1 gstreamer-utils gstreamer gst_all_1.gstreamer GStreamer
iproute2 iproute iproute2 iproute2 iproute2 iproute2
libc6-dev glibc-devel glibc-devel glibc glibc glibc
liblz4-1 lz4-libs liblz4-1 lz4 lz4 LZ4
libnotify-bin libnotify libnotify-tools libnotify libnotify libnotify
libpulse0 pulseaudio-libs libpulse0 libpulse libpulseaudio PulseAudio
libseccomp2 libseccomp libseccomp2 libseccomp libseccomp libseccomp
libvirt-clients libvirt-client libvirt-client libvirt libvirt libvirt
libvirt-daemon libvirt-daemon libvirt-daemon libvirt libvirt libvirt
libvirt-daemon-driver-lxc libvirt-daemon-driver-lxc libvirt-daemon-driver-lxc libvirt libvirt libvirt
libvirt-daemon-driver-qemu libvirt-daemon-driver-qemu libvirt-daemon-driver-qemu libvirt libvirt libvirt
libxkbcommon0 libxkbcommon libxkbcommon0 libxkbcommon libxkbcommon libxkbcommon
libzstd1 libzstd libzstd1 zstd zstd Zstandard
locales glibc-locale-source glibc-i18ndata glibc glibcLocales glibc
make make make make gnumake make
mmdebstrap - - - mmdebstrap mmdebstrap
openssh-sftp-server openssh-server openssh-server openssh openssh OpenSSH
passt passt passt passt passt passt
pipewire-bin pipewire-utils pipewire-tools pipewire pipewire PipeWire
podman podman podman podman podman Podman
procps procps-ng procps procps-ng procps procps-ng
python3 python3 python3 python python3 Python
python3-dev python3-devel python3-devel python python3 Python
python3-gi python3-gobject python3-gobject python-gobject python3Packages.pygobject3 PyGObject
python3-venv python3 python3 python python3 Python
qemu-system-arm qemu-system-aarch64 qemu-arm qemu-system-aarch64 qemu QEMU
qemu-system-gui qemu-device-display-vhost-user-gpu qemu-vhost-user-gpu qemu-vhost-user-gpu qemu QEMU
qemu-system-x86 qemu-system-x86 qemu-x86 qemu-system-x86 qemu QEMU
qemu-utils qemu-img qemu-img qemu-img qemu-utils QEMU
runc runc runc runc runc runc
sway sway sway sway sway sway
systemd-container systemd-container systemd-container systemd systemd systemd
uidmap shadow-utils shadow shadow shadow shadow-utils
usrmerge - - - - usrmerge
util-linux util-linux util-linux util-linux util-linux util-linux
vhost-device-vsock vhost-device-vsock - - - vhost-device
virtiofsd virtiofsd virtiofsd virtiofsd virtiofsd virtiofsd
waypipe waypipe waypipe waypipe waypipe waypipe
xdg-dbus-proxy xdg-dbus-proxy xdg-dbus-proxy xdg-dbus-proxy xdg-dbus-proxy xdg-dbus-proxy
xkb-data xkeyboard-config xkeyboard-config xkeyboard-config xkeyboard_config xkeyboard-config
xwayland xorg-x11-server-Xwayland xwayland xorg-xwayland xwayland Xwayland
zstd zstd zstd zstd zstd Zstandard
"""
PACKAGES: Final = MappingProxyType(
    {name: columns for name, *columns in map(str.split, _TABLE.strip().splitlines())}
)
"""Names of packages, by Debian's name, in the order of ``_COLUMNS``."""


@dataclass(frozen=True, slots=True)
class System:
    """Facts about a Linux system.

    ``os_release``: the variables of os-release(5).  ``programs``: package managers that
    are installed.  ``ostree``: that the system was started from an OSTree deployment.
    """

    os_release: dict[str, str] = field(default_factory=dict)
    programs: frozenset[str] = frozenset()
    ostree: bool = False

    @property
    def name(self) -> str:
        """Return the system's name for people."""
        release = self.os_release
        return release.get("PRETTY_NAME") or release.get("NAME") or "unknown system"

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the system's ID, and then the IDs of similar systems."""
        release = self.os_release
        return (release.get("ID", ""), *release.get("ID_LIKE", "").split())

    @property
    def distribution(self) -> str:
        """Return a column of the table; empty if the distribution is unknown."""
        for name in self.ids:
            column = _SIMILAR.get(name) or _SIMILAR.get(name.partition("-")[0])
            if column:
                return column
        managers = (_MANAGERS[name] for name in _MANAGERS if name in self.programs)
        return next(managers, "")

    @property
    def image_based(self) -> bool:
        """Return whether updates replace /usr as a whole.

        Not by a read-only /usr: each confined process has one.
        """
        release = self.os_release
        return (
            self.ostree
            or "transactional-update" in self.programs
            or bool({"OSTREE_VERSION", "IMAGE_ID"} & release.keys())
            or any("micro" in name or name == "steamos" for name in self.ids)
        )

    def package_name(self, package: str) -> str:
        """Return a package's name here; "-" if the distribution does not have it."""
        column = self.distribution or "upstream"
        # Our own packages have one name.
        row = PACKAGES.get(package)
        if row and column != "debian":
            return row[_COLUMNS.index(column)]
        codenames = {
            self.os_release.get(f"{key}_CODENAME") for key in ("VERSION", "UBUNTU")
        }
        if package == "virtiofsd" and codenames & _OLD_RELEASES:
            return "qemu-system-common"
        return package

    def hint(self, packages: tuple[str, ...]) -> str:
        """Return a sentence with the command that installs packages."""
        command = self.command(packages)
        # The other sentences name no command.
        return (
            f"run '{command}'" if command.startswith(("sudo", "nix-env")) else command
        )

    def command(self, packages: tuple[str, ...]) -> str:
        """Return the command that installs packages; without one, say what to do."""
        names = [self.package_name(package) for package in packages]
        available = list(dict.fromkeys(name for name in names if name != "-"))
        absent = [
            PACKAGES[package][-1]
            for package, name in zip(packages, names, strict=True)
            if name == "-"
        ]
        if self.distribution == "nixos":
            available = [f"nixos.{name}" for name in available]
        commands = _IMAGE_COMMANDS if self.image_based else _COMMANDS
        parts = []
        if available:
            listed = " ".join(available)
            command = commands.get(self.distribution)
            if command:
                parts.append(f"{command} {listed}")
            elif self.image_based:
                parts.append(f"add to this system's image or to a sysext: {listed}")
            else:
                parts.append(f"install with your package manager: {listed}")
        if absent:
            listed = ", ".join(absent)
            parts.append(f"build from source, because {self.name} lacks it: {listed}")
        return "; ".join(parts)


def parse_os_release(text: str) -> dict[str, str]:
    """Return the variables of an os-release(5) file; a malformed line is left out."""
    variables = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or name.startswith("#"):
            continue
        try:
            variables[name] = "".join(shlex.split(value))
        except ValueError:
            continue
    return variables


def read_system() -> System:
    """Return facts about this system; a file that cannot be read counts as absent."""
    text = ""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            text = Path(path).read_text("utf-8", "replace")
            break
        except OSError:
            continue
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    programs = (*_MANAGERS, *_LAYERING)
    return System(
        parse_os_release(text),
        frozenset(name for name in programs if shutil.which(name, path=path)),
        os.path.exists("/run/ostree-booted"),  # noqa: PTH110
    )


def install_command(*packages: str) -> str:
    """Return this system's command to install packages, which are named as in Debian."""
    return read_system().command(packages)


def remove_command(package: str) -> str:
    """Return this system's command to remove one of our packages."""
    system = read_system()
    commands = _IMAGE_COMMANDS if system.image_based else _COMMANDS
    command = commands.get(system.distribution, "remove with your package manager:")
    command = _REMOVALS.get(command, command.replace("install", "remove"))
    return f"{command} {package}"


def install_hint(*packages: str) -> str:
    """Return a sentence that says how to install packages on this system."""
    return read_system().hint(packages)


def selinux_mode() -> str:
    """Return SELinux's mode: "enforcing", "permissive", or nothing without SELinux."""
    try:
        value = Path("/sys/fs/selinux/enforce").read_text("ascii").strip()
    except (OSError, ValueError):
        return ""
    return {"1": "enforcing", "0": "permissive"}.get(value, "")
