"""A Debian system booted by a systemd that is process 1, in a container of root's.

systemd-nspawn boots it on an overlay in memory, so nothing of it is left: the system of
this machine, with every program that the tests need, or a root of another suite that
has this machine's at ``HOST``.  It has a separate pid namespace, network and unified
hierarchy of control groups (without controllers).
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
UNITS = CHECKOUT / "broker/data/systemd"
HOST = "/host"
_BOOT_SECONDS = 120
_END_SECONDS = 60

# $1 base, $2 the tree, $3 control group, then options of systemd-nspawn
_ENTER = """\
set -eu
base=$1 tree=$2
echo $$ > "$3/cgroup.procs"
shift 3
umount --recursive /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none "$base/top"
for name in root host; do
    mkdir "$base/top/$name" "$base/top/$name.up" "$base/top/$name.work"
done
cover() {
    up=$base/top/$1.up work=$base/top/$1.work
    mount -t overlay -o "lowerdir=$2,upperdir=$up,workdir=$work" none "$base/top/$1"
}
cover root "$tree"
cover host /
root=$base/top/root
tr -d - < /proc/sys/kernel/random/uuid > "$root/etc/machine-id"
echo booted > "$root/etc/hostname"
# No service of this machine's own begins there.
rm -rf "$root"/etc/systemd/system/*.wants "$root"/etc/systemd/user/*.wants
export SYSTEMD_SECCOMP=0
exec systemd-nspawn --quiet --boot --register=no --keep-unit --private-network \\
    --capability=all --console=pipe --directory="$root" "$@"
"""
# bwrap and others mount proc and sysfs, for which a whole one has to be in sight
# (mount_namespaces(7)); nspawn covers parts of it.
_WHOLE = """\
mkdir -p /run/whole/proc /run/whole/sys
mount -t proc proc /run/whole/proc
mount -t sysfs sysfs /run/whole/sys
"""


PLACE = os.environ.get("VITRAIL_BOOTED", "")
"""In the person's half of a test: it runs in such a system."""


@dataclass(frozen=True)
class Booted:
    """A running system; ``leader`` is its process 1 as this machine sees it."""

    leader: int
    person: pwd.struct_passwd

    def root(self, script: str, *, seconds: float = 120) -> str:
        """Run a shell script in it as root; returns its output."""
        done = self._enter(["sh", "-euc", script], seconds)
        assert done.returncode == 0, f"{script}: {done.stdout}"
        return done.stdout

    def _enter(self, words, seconds: float):
        enter = ["nsenter", f"--target={self.leader}", "--wdns=/", "--cgroup"]
        enter += [f"--{name}" for name in ("mount", "uts", "ipc", "net", "pid")]
        return subprocess.run(
            [*enter, "--", *words],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
        )

    def install(self) -> None:
        """Install our programs and units, and start the person's own systemd."""
        programs = CHECKOUT / ".venv/bin"
        # As on a machine: boxes have limits of their own, below /proc/sys/user.
        self.root("mount -o remount,bind,rw /proc/sys")
        self.root(
            f"cp -rT {UNITS}/user /etc/systemd/user; "
            f"cp -rT {UNITS}/system /etc/systemd/system; "
            f"ln -sf {programs}/vitrail-* {programs}/brokerctl /usr/local/bin/; "
            f"systemctl daemon-reload; loginctl enable-linger {self.person.pw_name}; "
            f"systemctl start user@{self.person.pw_uid}"
        )

    def pytest(self, file: Path, case: str, *, seconds: float = 500) -> None:
        """Run one case of a file in a unit of the person's own systemd."""
        words = ["systemd-run", "--user", "--quiet", "--wait", "--pipe", "--collect"]
        words += [f"--setenv={word}" for word in self._environment()]
        self._pytest([*self._drop(), *words, "--"], file, case, seconds)

    def pytest_of_host(self, file: Path, case: str, *, seconds: float = 500) -> None:
        """Run it in a root of another suite, with this machine's programs."""
        self._pytest(self._in_host(), file, case, seconds)

    def module_of_host(self, *words: str, seconds: float = 500) -> str:
        """Run ``python -m WORDS`` of this checkout there; returns its output."""
        python = str(CHECKOUT / ".venv/bin/python")
        place = ["env", f"--chdir={CHECKOUT}", python, "-m"]
        done = self._enter([*self._in_host(), *place, *words], seconds)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def _in_host(self) -> list[str]:
        """The beginning of a person's command with this machine's programs."""
        binds = "; ".join(
            f"mountpoint -q {HOST}/{name} || mount --rbind /{name} {HOST}/{name}"
            for name in ("proc", "sys", "dev", "run", "tmp")
        )
        self.root(binds)
        words = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect"]
        # The root of its mount namespace: a process in a mere chroot(2), or below
        # systemd's RootDirectory=, makes no user namespaces (user_namespaces(7)).
        words += ["--", "unshare", "--mount", "--propagation", "private", "sh", "-c"]
        words += [f'cd {HOST} && mount --move . / && exec chroot . "$@"', "sh"]
        return [*words, *self._drop()]

    def _drop(self) -> list[str]:
        drop = ["/usr/bin/setpriv", f"--reuid={self.person.pw_uid}", "--init-groups"]
        drop += [f"--regid={self.person.pw_gid}", "env", "-i"]
        return [*drop, *self._environment()]

    def _environment(self) -> list[str]:
        runtime = f"/run/user/{self.person.pw_uid}"
        return [
            "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            f"HOME={self.person.pw_dir}",
            f"USER={self.person.pw_name}",
            f"XDG_RUNTIME_DIR={runtime}",
            f"DBUS_SESSION_BUS_ADDRESS=unix:path={runtime}/bus",
            "LANG=C.UTF-8",
            "VITRAIL_BOOTED=yes",
            f"PYTHONPATH={CHECKOUT}",
        ]

    def _pytest(self, how: list[str], file: Path, case: str, seconds: float) -> None:
        words = [str(CHECKOUT / ".venv/bin/python"), "-m", "pytest", "-q", "-x"]
        words += ["-c", str(CHECKOUT / "pyproject.toml"), "-p", "no:cacheprovider"]
        words += ["--only-rerun", "none: root's half does it again as a whole"]
        done = self._enter([*how, *words, f"{file}::test_{case}"], seconds)
        print(done.stdout)
        assert done.returncode == 0
        assert "1 passed" in done.stdout


@contextmanager
def booted(user: str, tree: Path = Path("/")) -> Iterator[Booted]:
    """Boot a tree, for a person of this machine; skips where that cannot be."""
    if shutil.which("systemd-nspawn") is None:
        pytest.skip("systemd-container is not installed")
    if not Path("/lib/systemd/systemd").exists():
        pytest.skip("systemd is not installed")
    root, entry = os.stat("/").st_dev, pwd.getpwnam(user)
    for path in (CHECKOUT, Path(entry.pw_dir)):
        if path.stat().st_dev != root:
            pytest.skip(f"{path} is on another file system than /")
    base = Path(tempfile.mkdtemp(prefix="vt-boot-", dir="/tmp"))
    (base / "top").mkdir()
    group = _make_group(base.name)
    words = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", _ENTER]
    words += [
        "sh",
        str(base),
        str(tree),
        str(group),
        f"--machine={base.name.replace('_', '-').rstrip('-')}",
    ]
    if tree != Path("/"):
        words.append(f"--bind={base}/top/host:{HOST}")
    with (base / "output").open("wb") as output:
        nspawn = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        system = Booted(_leader(nspawn, base), entry)
        state = system.root("systemctl is-system-running --wait || :")
        assert state.strip() in {"running", "degraded"}, state
        system.root(_WHOLE)
        try:
            yield system
        finally:
            print(system.root("journalctl --no-pager --lines=60 || :"))
    finally:
        nspawn.terminate()
        try:
            nspawn.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            nspawn.kill()
            nspawn.wait()
        print((base / "output").read_text(errors="replace"))
        _remove_group(group)
        shutil.rmtree(base, ignore_errors=True)


def _make_group(name: str) -> Path:
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    unified = next((m.split()[1] for m in mounts if m.split()[2] == "cgroup2"), None)
    if unified is None:
        pytest.skip("there is no unified hierarchy of control groups")
    group = Path(unified, name)
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    return group


def _remove_group(group: Path) -> None:
    """Remove it and those that systemd made in it, the deepest first."""
    found = sorted(group.glob("**/"), key=lambda path: -len(path.parts))
    for path in found:
        with suppress(OSError):
            path.rmdir()


def _leader(nspawn: subprocess.Popen, base: Path) -> int:
    """Wait for the first process of its pid namespace that has a systemd's socket."""
    end = time.monotonic() + _BOOT_SECONDS
    while time.monotonic() < end:
        assert nspawn.poll() is None, (base / "output").read_text(errors="replace")
        for pid in _children(nspawn.pid):
            if (Path(f"/proc/{pid}/root/run/systemd/private")).is_socket():
                return pid
        time.sleep(0.1)
    raise AssertionError((base / "output").read_text(errors="replace"))


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]
