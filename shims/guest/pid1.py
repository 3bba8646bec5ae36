"""Duties of PID 1: mounts, names, network and power of the machine."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING, Optional

from shims.guest.host_files import unpack_host_files
from shims.guest.host_keys import remove_image_keys
from shims.guest.launch import read_launch
from shims.guest.loop import log
from shims.guest.network_cards import interfaces, set_up_cards

if TYPE_CHECKING:
    from shims.guest.guest import Guest
    from shims.guest.storage import Storage

BUSYBOX = "/usr/lib/vitrail/busybox"
RUNTIME = "/run/vitrail"
PATH_ROOT = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MOUNTS = (
    ("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755"),
    (
        "devpts",
        "/dev/pts",
        "devpts",
        MS_NOSUID | MS_NOEXEC,
        "gid=5,mode=620,ptmxmode=666",
    ),
    ("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"),
    (
        "mqueue",
        "/dev/mqueue",
        "mqueue",
        MS_NOSUID | MS_NODEV | MS_NOEXEC,
        "",
    ),
    ("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755"),
    ("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"),
)
LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
)
SYSTEM = "/proc/sys"
SETTINGS = (
    # Programs may ask for more memory than there is: foot's pools are 512 MiB and
    # nearly empty; waypipe asks for as much to mirror them, which a small machine
    # refuses by the kernel's default rule.
    ("vm/overcommit_memory", "1"),
    # Not the default of each kernel: links in /tmp and the like lead no other user.
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_symlinks", "1"),
    # Timers that would wake an idle machine: compaction scans memory twice a second,
    # the watchdog checks each processor, and counters are summed up.
    ("vm/compaction_proactiveness", "0"),
    ("kernel/watchdog", "0"),
    ("vm/stat_interval", "30"),
    # Ctrl, Alt and Del, which is a VMM's power button, asks us (SIGINT): the kernel's
    # own answer is a reset, without writing out the disk.
    ("kernel/ctrl-alt-del", "0"),
)
ROUTER_SETTINGS = (
    ("net/ipv4/ip_forward", "1"),
    # Not IPv6's: rules for IPv4 alone would let that past the tunnel.  Its clients learn of their ways from nobody but their record.
    ("net/ipv4/conf/all/send_redirects", "0"),
)
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
ALSA = "etc/asound.conf"
ALSA_SETTINGS = """pcm.!default { type pulse hint { show on description "Vitrail" } }
ctl.!default { type pulse }
"""
RB_POWER_OFF = 0x4321FEDC
RB_AUTOBOOT = 0x01234567
UDHCPC = """#!/bin/sh
# Called by udhcpc with the server's answer.
B=%(busybox)s
case "$1" in
deconfig) $B ip link set "$interface" up ;;
bound|renew)
    $B ip link set "$interface" up ${mtu:+mtu $mtu}
    $B ip -4 addr flush dev "$interface" # not the link-local address of IPv6
    $B ip addr add "$ip/${mask:-24}" dev "$interface"
    for gateway in $router; do
        # The gateway may lie outside the address's network.
        $B ip route add "$gateway" dev "$interface" 2>/dev/null
        $B ip route replace default via "$gateway" dev "$interface"
        break
    done
    : >/etc/resolv.conf
    search="%(search)s"
    [ -z "$search" ] || echo "search $search" >>/etc/resolv.conf
    # vitrail.dns on the kernel's command line: a resolver that DHCP cannot name.
    for server in %(resolvers)s $dns; do echo "nameserver $server" >>/etc/resolv.conf; done
    ;;
esac
"""


class Machine:
    """The other duties of PID 1: mounts, names, network, power."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.storage: "Optional[Storage]" = None

    def set_up(self) -> None:
        """Mount, link and name what a machine needs.  Logs what fails."""
        os.umask(0o022)
        os.environ["PATH"] = PATH_ROOT
        for source, target, kind, flags, options in MOUNTS:
            if not os.path.ismount(target):
                self._mount(source, target, kind, flags, options)
        for source, target in LINKS:
            if not os.path.lexists(target):
                os.symlink(source, target)
        os.set_blocking(2, False)  # a stuck console must not stop us
        read_launch()
        # guard: no machine uses host keys of its image
        remove_image_keys()
        unpack_host_files()
        let_alsa_play()
        self._settle()
        self._link_up("lo")

    def _settle(self) -> None:
        for name, value in SETTINGS:
            set_kernel(name, value)

    def name(self, name: str) -> None:
        """Set the host name and make it resolve."""
        try:
            socket.sethostname(name)
            with open("/etc/hosts", "w", encoding="ascii") as hosts:
                hosts.write(f"127.0.0.1 localhost {name}\n::1 localhost\n")
            with open("/etc/hostname", "w", encoding="ascii") as file:
                file.write(name + "\n")
        except (OSError, ValueError) as error:
            log(f"cannot set the host name: {error}")

    def identify(self) -> None:
        """Give this boot a machine id; an image has none."""
        try:
            with open("/proc/sys/kernel/random/uuid", encoding="ascii") as source:
                number = source.read().replace("-", "")
            with open("/etc/machine-id", "w", encoding="ascii") as target:
                target.write(number)
        except OSError as error:
            log(f"cannot set the machine ID: {error}")

    def network(self, guest: "Guest") -> None:
        """Set up the cards of switches; ask DHCP for the first other."""
        settings = guest.settings
        if settings.router:
            become_router()
        if not settings.cards and settings.network != "dhcp":
            return
        busybox = BUSYBOX if os.path.exists(BUSYBOX) else shutil.which("busybox")
        if settings.cards:
            why = (
                set_up_cards(settings.cards, busybox)
                if busybox
                else "busybox is not installed in the guest"
            )
            guest.hop("network", why, ok=not why)
        if settings.network == "dhcp":
            self._ask_address(guest, busybox)

    def _ask_address(self, guest: "Guest", busybox: "Optional[str]") -> None:
        """Ask for an address on the first interface, in the background."""
        given = {card.mac for card in guest.settings.cards}
        names = [name for name, mac in interfaces().items() if mac not in given]
        if not names or not busybox:
            missing = "busybox" if names else "network interface"
            guest.hop("network", f"no {missing} in the guest", ok=False)
            return
        self._link_up(names[0])
        script = os.path.join(RUNTIME, "udhcpc")
        with open(script, "w", encoding="ascii") as file:
            values = {
                "busybox": busybox,
                "resolvers": " ".join(guest.settings.resolvers),
                "search": " ".join(guest.settings.search),
            }
            file.write(UDHCPC % values)
        os.chmod(script, 0o755)
        process = subprocess.Popen(
            [busybox, "udhcpc", "-i", names[0], "-s", script, "-n", "-q", "-O", "mtu",
             "-t", "10", "-T", "1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

        def ended(code: int) -> None:
            guest.hop(
                "network", "" if code == 0 else "no reply from DHCP", ok=code == 0
            )

        guest.loop.child(process, ended)

    def power_off(self) -> None:
        """Kill all processes, sync disks, switch the machine off; does not return."""
        with contextlib.suppress(OSError):
            os.kill(-1, signal.SIGKILL)
        os.sync()
        if self.storage is not None:
            self.storage.close()
        self._libc.reboot(RB_AUTOBOOT if ends_by_reset() else RB_POWER_OFF)
        # Not reached where the machine can switch itself off.  The kernel's
        # reboot=t and panic=-1 end the others.
        with open("/proc/sysrq-trigger", "w", encoding="ascii") as trigger:
            trigger.write("b")
        time.sleep(60)

    def _mount(
        self, source: str, target: str, kind: str, flags: int, options: str
    ) -> None:
        """Mount a file system; log a failure."""
        os.makedirs(target, exist_ok=True)
        done = self._libc.mount(
            source.encode(), target.encode(), kind.encode(), flags, options.encode()
        )
        if done != 0:
            log(f"cannot mount {target}: {os.strerror(ctypes.get_errno())}")

    def _link_up(self, name: str) -> None:
        """Set an interface up; log a failure."""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                ask = struct.pack("16sH14x", name.encode(), 0)
                answer = fcntl.ioctl(sock, SIOCGIFFLAGS, ask)
                (flags,) = struct.unpack_from("16xH", answer)
                fcntl.ioctl(
                    sock,
                    SIOCSIFFLAGS,
                    struct.pack("16sH14x", name.encode(), flags | IFF_UP),
                )
        except OSError as error:
            log(f"cannot enable interface {name}: {error}")


def become_router() -> None:
    """Have the kernel route between cards, and permit users' tunnels."""
    for name, value in ROUTER_SETTINGS:
        set_kernel(name, value)
    # udev's rule for it; making a tunnel takes CAP_NET_ADMIN.
    with contextlib.suppress(FileNotFoundError):
        os.chmod("/dev/net/tun", 0o666)


def ends_by_reset() -> bool:
    """Return whether the machine ends by a reset, not by switching off."""
    try:
        with open("/proc/cmdline", encoding="ascii", errors="replace") as file:
            return "vitrail.off=reset" in file.read().split()
    except OSError:
        return False


def let_alsa_play(root: str = "/") -> None:
    """Make the sound server ALSA's default, as in a box; an image's own file stays."""
    path = os.path.join(root, ALSA)
    try:
        with open(path, "x", encoding="ascii") as file:
            file.write(ALSA_SETTINGS)
    except FileExistsError:
        return
    except OSError as error:
        log(f"programs of ALSA find no sound: {path}: {error}")


def set_kernel(name: str, value: str) -> None:
    """Change a setting of the kernel, if it has it."""
    path = os.path.join(SYSTEM, name)
    try:
        with open(path, "w", encoding="ascii") as knob:
            knob.write(value)
    except FileNotFoundError:
        return
    except OSError as error:
        log(f"{path}: {error}")
