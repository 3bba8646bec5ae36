"""The system's libvirtd of a test, started by root in a separate mount namespace.

It has a separate /run and /etc there, with our hook and its settings as
``brokerctl launcher install libvirt`` writes them, so nothing of it is left on the
machine.  What the hook looks for in a person's directories it finds below
``Place.base``, where the person's test puts links.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.helpers.process.spawn import run_tool
from broker.host.images.store import find_image
from broker.host.launchers.libvirt.domain import VsockWay, with_vsock
from broker.host.launchers.libvirt.hook import install_hook
from tests.kit.vm.libvirt import domain_xml, read_steps, trace_steps

_CONFIG = """\
unix_sock_dir = "{base}/sock"
unix_sock_rw_perms = "0777"
auth_unix_rw = "none"
log_outputs = "2:file:{base}/libvirtd.log"
"""
# No virtlogd, no security module, no control groups.
_QEMU = """\
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
cgroup_controllers = []
max_core = 0
"""
_STEPS = "hook-steps"
PLACE = os.environ.get("VITRAIL_SYSTEM_LIBVIRT", "")
"""Root's directory for this run, in the person's half; empty elsewhere."""
_CONTAINER = """\
<domain type='lxc'><name>office</name><memory unit='MiB'>512</memory>
<os><type>exe</type><init>/bin/sh</init><initarg>-c</initarg><initarg>{script}</initarg>
<initenv name='WAYLAND_DISPLAY'>/run/vitrail/wayland-0</initenv>
<initenv name='XDG_RUNTIME_DIR'>/run</initenv><initenv name='LANG'>C.UTF-8</initenv>
</os><features><privnet/></features><devices>
<filesystem type='mount'><source dir='{root}'/><target dir='/'/></filesystem>
<filesystem type='mount'><source dir='/usr'/><target dir='/usr'/><readonly/></filesystem>
<filesystem type='mount'><source dir='/etc'/><target dir='/etc'/><readonly/></filesystem>
<filesystem type='mount'><source dir='{sockets}'/><target dir='/run/vitrail'/><readonly/>
</filesystem><console type='pty'/></devices></domain>
"""
_SCRIPT = "until [ -S /run/vitrail/wayland-0 ]; do sleep 0.2; done; exec foot -T {} sleep 1000"
# $1 base, $2 the person's number, $3 their home
_ENTER = """\
set -eu
mount -t tmpfs none "$1/top"
for place in /etc /var/lib /var/cache /var/log; do
    top=$1/top$place
    mkdir -p "$top/up" "$top/work"
    mount -t overlay -o "lowerdir=$place,upperdir=$top/up,workdir=$top/work" none "$place"
done
cp -a "$1/etc/." /etc/
getent passwd libvirt-qemu >/dev/null || useradd --system --user-group libvirt-qemu
mount -t tmpfs none /run
mkdir -p /run/libvirt /run/user
ln -s "$1/person/run" "/run/user/$2"
mkdir -p "$3/.config"
mount -t tmpfs -o mode=755 none "$3/.config"
ln -s "$1/person/config" "$3/.config/vitrail"
# libvirt's LXC driver takes either hierarchy, and not one of each kind.
umount /sys/fs/cgroup/unified 2>/dev/null || :
# A line of the FIFO is a signal: libvirtd gets it, and is started once more.
mkfifo -m 666 "$1/restart"
while read -r name; do
    touch "$1/again"
    kill -"$name" "$(cat /run/libvirtd.pid)"
done <>"$1/restart" &
asks=$!
trap 'kill "$asks" "$daemon"' TERM
while :; do
    rm -f "$1/again"
    libvirtd -f "$1/libvirtd.conf" &
    daemon=$!
    wait "$daemon" || wait "$daemon" || :
    [ -e "$1/again" ] || break
done
"""


@dataclass(frozen=True)
class Place:
    """Where a running libvirtd is found."""

    base: Path

    @property
    def uri(self) -> str:
        """For virsh -c."""
        return self.driver("qemu")

    def driver(self, name: str) -> str:
        """The same for one of its drivers."""
        return f"{name}+unix:///system?socket={self.base}/sock/libvirt-sock"

    def restart(self, signal: str) -> None:
        """End libvirtd by a signal; root's half starts it again."""
        with (self.base / "restart").open("w") as asks:
            asks.write(f"{signal}\n")

    def steps(self) -> list[tuple[str, str]]:
        """The calls of its hooks, oldest first."""
        return read_steps(self.base / _STEPS)

    @property
    def person(self) -> Path:
        """The person's own directory, for the links ``run`` and ``config``."""
        return self.base / "person"


class System:
    """virsh on that libvirtd, as the person uses it."""

    def __init__(self, w):
        self.w = w
        self.place = Place(Path(PLACE))
        for name, target in (
            ("run", w.base / "run"),
            ("config", w.base / "config/vitrail"),
        ):
            link = self.place.person / name
            link.unlink(missing_ok=True)
            link.symlink_to(target)

    async def virsh(self, *words, driver="qemu", deadline=90):
        argv = ["virsh", "--quiet", "--connect", self.place.driver(driver), *words]
        return (await run_tool(argv, env=dict(os.environ), deadline=deadline)).decode()

    async def start(self, name, record):
        """Start a domain whose QEMU runs as the person."""
        socket = self.w.paths.runtime / "libvirt" / record / "vsock/vhost.sock"
        way = VsockWay(socket, (os.getuid(), os.getgid()))
        xml = with_vsock(domain_xml(self.w, find_image(self.w.paths), name), way)
        file = self.w.base / f"{name}.xml"
        # The image belongs to all tests: root must not change its owner.
        file.write_text(xml.replace('relabel="yes"', 'relabel="no"'))
        await self.virsh("create", str(file))

    async def names(self):
        return (await self.virsh("list", "--name")).split()


def container_xml(w, place, title, record="work"):
    """A container of libvirt's whose program shows a window when it has a socket."""
    # Root makes directories in it, and removes them with the place.
    root = place.person / "root"
    for name in ("proc", "sys", "dev", "run/vitrail", "usr", "etc", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    sockets = w.paths.runtime / "libvirt-lxc" / record
    return _CONTAINER.format(root=root, sockets=sockets, script=_SCRIPT.format(title))


@contextmanager
def system_libvirt(user: str) -> Iterator[Place]:
    """A libvirtd of root's, whose hook reports to ``user``'s broker."""
    entry = pwd.getpwnam(user)
    base = Path(tempfile.mkdtemp(prefix="vt-sys-", dir="/tmp"))
    base.chmod(0o755)
    for name in ("sock", "top", "person", "etc"):
        (base / name).mkdir(mode=0o755)
    os.chown(base / "person", entry.pw_uid, entry.pw_gid)
    (base / "libvirtd.conf").write_text(_CONFIG.format(base=base))
    install_hook(
        entry.pw_uid,
        base / "etc/libvirt/hooks",
        base / "etc/vitrail/libvirt-hook.json",
    )
    trace_steps(base / "etc/libvirt/hooks", base / _STEPS)
    (base / "etc/libvirt/qemu.conf").write_text(_QEMU)
    script = ["sh", "-c", _ENTER, "sh", str(base), str(entry.pw_uid), entry.pw_dir]
    alone = ["unshare", "--mount", "--propagation", "private", "--"]
    with (base / "output").open("wb") as output:
        daemon = subprocess.Popen(
            [*alone, *script], stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait(daemon, base)
        yield Place(base)
    finally:
        # Once more, for the domains of a test that failed.
        for driver in ("qemu", "lxc"):
            _destroy_all(["virsh", "-c", Place(base).driver(driver)])
        daemon.terminate()
        daemon.wait(60)
        print((base / "output").read_text())
        shutil.rmtree(base, ignore_errors=True)


def _destroy_all(virsh: list[str]) -> None:
    names = subprocess.run(
        [*virsh, "list", "--name"], capture_output=True, text=True, check=False
    ).stdout
    for name in filter(None, names.splitlines()):
        subprocess.run([*virsh, "destroy", name], capture_output=True, check=False)


def _wait(daemon, base: Path) -> None:
    end = time.monotonic() + 60
    while not (base / "sock/libvirt-sock").exists():
        if daemon.poll() is not None or time.monotonic() > end:
            raise AssertionError((base / "output").read_text())
        time.sleep(0.1)
