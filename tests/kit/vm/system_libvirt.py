"""The system's libvirtd of a test, started by root in a mount namespace of its own.

It has a /run and an /etc of its own there, with our hook and its settings as
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

from broker.launch.libvirt.hook import install_hook

_CONFIG = """\
unix_sock_dir = "{base}/sock"
unix_sock_rw_perms = "0777"
auth_unix_rw = "none"
log_outputs = "2:file:{base}/libvirtd.log"
"""
# No virtlogd, no security module, no control groups of its own.
_QEMU = """\
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
cgroup_controllers = []
max_core = 0
"""
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
exec libvirtd -f "$1/libvirtd.conf"
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

    @property
    def person(self) -> Path:
        """The person's own directory, for the links ``run`` and ``config``."""
        return self.base / "person"


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
